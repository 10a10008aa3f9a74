"""The view of an input image: random translation and colour jitter (Appendix A.1).

"We apply random translation and color jitters for data augmentation to enhance invariance of
representations." The paper gives no ranges; they are flags (`--translation`, `--view_jitter`).
The jitter is of brightness, contrast and saturation: the authors' companion code (their reference
[52]) leaves the hue of the input alone, and so does this one.
"""

import tensorflow as tf

from cutpaste_tf.augment import color, random


def translate(images: tf.Tensor, maximum: float, seed: random.Seed) -> tf.Tensor:
    """Shifts each image by a random whole number of pixels; reflection fills the border.

    Args:
      images: [B, H, W, C], any dtype.
      maximum: the largest shift, as a share of height and width, in [0, 0.5].
      seed: int32 [2], or a `random.Share`.

    Returns:
      Images of the same shape and dtype.
    """
    if maximum == 0:
        return images
    shape = tf.shape(images)
    for axis, axis_seed in zip((1, 2), random.split(seed, 2), strict=True):
        size = shape[axis]
        # A float32 product can lie below the whole number that it stands for: 0.21 * 300.
        limit = tf.cast(tf.floor(maximum * tf.cast(size, tf.float32) + 1e-3), tf.int32)
        shift = random.integers([shape[0]], axis_seed, -limit, limit)
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


def augment(
    images: tf.Tensor, seed: random.Seed, *, translation: float, jitter: float
) -> tf.Tensor:
    """Makes the view that the proxy task starts from.

    Args:
      images: floating point [B, H, W, 3] in [0, 1], or uint8.
      seed: int32 [2], or a `random.Share`.
      translation: the largest shift, as a share of the side.
      jitter: the maximum intensity of the colour jitter.

    Returns:
      Images of the same shape and dtype; float32 in [0, 1] of uint8 ones.
    """
    translate_seed, jitter_seed = random.split(seed, 2)
    images = translate(images, translation, translate_seed)
    if images.dtype == tf.uint8:  # Bytes are shifted at a quarter of the cost.
        images = tf.cast(images, tf.float32) / 255.0
    return color.jitter_images(images, jitter, jitter_seed, hue=False)
