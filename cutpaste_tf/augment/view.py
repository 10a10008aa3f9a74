"""The view of an input image: random translation and colour jitter (Appendix A.1).

"We apply random translation and color jitters for data augmentation to enhance invariance of
representations." The paper gives no ranges; they are flags (`--translation`, `--view_jitter`).
The jitter is of brightness, contrast and saturation: the authors' companion code (their reference
[52]) leaves the hue of the input alone, and so does this one.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from cutpaste_tf.augment import color, random


class View(NamedTuple):
    """What is done to each image to make its view."""

    # Two of int32 [B]: by how many pixels it is shifted, in y and in x; None: not at all
    shifts: tuple[tf.Tensor, tf.Tensor] | None
    jitter: color.Jitter | None  # None: the colours stay


def draw(
    batch: int | tf.Tensor,
    size: tuple[int, int],
    seed: random.Seed,
    *,
    translation: float,
    jitter: float,
) -> View:
    """Draws the views of a batch.

    Args:
      batch: the number of images, B.
      size: the images' height and width in pixels.
      seed: int32 [2], or a `random.Share`.
      translation: the largest shift, as a share of the side, in [0, 0.5].
      jitter: the maximum intensity of the colour jitter.

    Returns:
      What to do to the images.
    """
    translate_seed, jitter_seed = random.split(seed, 2)
    return View(
        _draw_shifts(batch, size, translation, translate_seed),
        color.sample(batch, jitter, jitter_seed, hue=False) if jitter else None,
    )


def apply(images: tf.Tensor, view: View) -> tf.Tensor:
    """Makes views that were drawn; reflection fills the borders of shifted images.

    Args:
      images: floating point [B, H, W, 3] in [0, 1], or uint8.
      view: what to do to them.

    Returns:
      Images of the same shape and dtype; float32 in [0, 1] of uint8 ones.
    """
    images = _shift(images, view.shifts)
    if images.dtype == tf.uint8:  # Bytes are shifted at a quarter of the cost.
        images = tf.cast(images, tf.float32) / 255.0
    return color.apply_to_images(images, view.jitter)


def _draw_shifts(batch, size, maximum, seed):
    if maximum == 0:
        return None
    shifts = []
    for side, side_seed in zip(size, random.split(seed, 2), strict=True):
        # A product can lie below the whole number that it stands for: 0.29 * 100.
        limit = math.floor(maximum * side + 1e-3)
        shifts.append(random.integers([batch], side_seed, -limit, limit))
    return tuple(shifts)


def _shift(images, shifts):
    if shifts is None:
        return images
    for axis, shift in zip((1, 2), shifts, strict=True):
        size = tf.shape(images)[axis]
        index = tf.abs(tf.range(size)[None] + shift[:, None])
        # Reflection without repeating the edge: -1 becomes 1, and size becomes size - 2.
        index = tf.minimum(index, 2 * (size - 1) - index)
        images = tf.gather(images, index, axis=axis, batch_dims=1)
    return images


def crop(images: tf.Tensor, size: int, seed: random.Seed) -> tf.Tensor:
    """Cuts a patch at a random place out of each image (c(x) of Section 2.4).

    Args:
      images: [B, H, W, C] of any dtype; H and W at least `size`.
      size: height and width of the patches, in pixels.
      seed: int32 [2], or a `random.Share`.

    Returns:
      [B, size, size, C]; every place is as likely as any other.
    """
    shape = tf.shape(images)
    for axis, axis_seed in zip((1, 2), random.split(seed, 2), strict=True):
        first = random.integers([shape[0]], axis_seed, 0, shape[axis] - size)
        images = tf.gather(images, first[:, None] + tf.range(size), axis=axis, batch_dims=1)
    return tf.ensure_shape(images, [None, size, size, images.shape[-1]])
