"""The view of an input image: random translation and colour jitter (Appendix A.1).

The paper gives no ranges; they are flags (`--translation`, `--view_jitter`). The hue of the input
stays.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cutpaste_tf.augment import color, random

Corner = tuple[tf.Tensor, tf.Tensor]  # int32 [B] each: a row and a column of each image


class View(NamedTuple):
    """What is done to each image to make its view."""

    corner: Corner | None  # where the view's upper left pixel lies, maybe outside; None: at (0, 0)
    jitter: color.Jitter | None  # None: the colours stay


def draw_crops(
    batch: int | tf.Tensor, size: tuple[int, int], side: int, seed: random.Seed | tf.Tensor
) -> Corner:
    """Draws a crop of each image, anywhere in it (c(x) of Section 2.4)."""
    seeds = random.split(seed, 2)
    row, column = (
        random.integers([batch], one, 0, length - side)
        for length, one in zip(size, seeds, strict=True)
    )
    return row, column


def draw(
    batch: int | tf.Tensor,
    size: tuple[int, int],
    seed: random.Seed | tf.Tensor,
    *,
    translation: float,
    jitter: float | Sequence[float],
    crops: Corner | None = None,
) -> View:
    """Draws views of a size; `translation` is the largest shift as a share of their side.

    `crops`, by `draw_crops`, are shown instead of whole images; a shift moves the crop within its
    image.
    """
    translate_seed, jitter_seed = random.split(seed, 2)
    corner = crops
    if translation:
        corner = _draw_shifts(batch, size, translation, translate_seed)
        if crops is not None:
            corner = tuple(first + shift for first, shift in zip(crops, corner, strict=True))
    jitters = bool(np.any(jitter))
    return View(corner, color.sample(batch, jitter, jitter_seed, hue=False) if jitters else None)


def apply(images: tf.Tensor, view: View, size: tuple[int, int]) -> tf.Tensor:
    """Makes the drawn views; beyond an image's border lies its reflection.

    Floating point in [0, 1] keeps its dtype; bytes become float32 in [0, 1].
    """
    images = move(images, view, size)
    if images.dtype == tf.uint8:  # Bytes are moved at a quarter of the cost.
        images = tf.cast(images, tf.float32) / 255.0
    return color.apply_to_images(images, view.jitter)


def _draw_shifts(batch, size, maximum, seed):
    shifts = []
    for side, side_seed in zip(size, random.split(seed, 2), strict=True):
        # 0.29 * 100 is a little less than 29 in floating point.
        limit = math.floor(maximum * side + 1e-3)
        shifts.append(random.integers([batch], side_seed, -limit, limit))
    return tuple(shifts)


def move(images: tf.Tensor, view: View, size: tuple[int, int]) -> tf.Tensor:
    """Moves images, [B, H, W, ...], to where a view shows them, as `apply` does."""
    if view.corner is None:
        return images
    for axis, first, side in zip((1, 2), view.corner, size, strict=True):
        last = tf.shape(images)[axis] - 1
        index = tf.abs(first[:, None] + tf.range(side))
        # Reflection without repeating the edge: -1 becomes 1, and last + 1 becomes last - 1.
        index = tf.minimum(index, 2 * last - index)
        images = tf.gather(images, index, axis=axis, batch_dims=1)
    return tf.ensure_shape(images, [None, *size, *images.shape[3:]])


def move_region(region: tf.Tensor, view: View, size: tuple[int, int]) -> tuple[View, tf.Tensor]:
    """Moves regions, [B, H, W], as views do; an image stays if its region would leave the view."""
    moved = move(region, view, size)
    if view.corner is None:
        return view, moved
    shown = tf.reduce_any(moved, axis=[1, 2])
    corner = tuple(tf.where(shown, first, 0) for first in view.corner)
    return view._replace(corner=corner), tf.where(shown[:, None, None], moved, region)
