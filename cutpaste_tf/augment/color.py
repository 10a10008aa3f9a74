"""Colour jitter: brightness, contrast, saturation and hue in random order (Appendix A.2).

The four changes follow torchvision's ColorJitter, to which the paper points. Values are clipped to
[0, 1] before the hue is turned and at the end; torchvision clips after each change.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from cutpaste_tf.augment import random

# ITU-R 601 luma, as in PIL and torchvision; the weights sum to one.
GREY = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class Jitter(NamedTuple):
    """The colour jitter of each image of a batch."""

    order: tf.Tensor  # int32 [B, 4], a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE
    factors: tf.Tensor  # float32 [B, 3], of brightness, contrast and saturation; 1 changes nothing
    hue: tf.Tensor | None  # float32 [B], the turn of the hue, in full circles; None: no turn


def sample(
    batch: int | tf.Tensor,
    maximum: float | Sequence[float],
    seed: random.Seed | tf.Tensor,
    *,
    hue: bool = True,
) -> Jitter:
    """Draws a colour jitter for each image.

    The factors are uniform in [1 - maximum, 1 + maximum], the hue's turn in [-maximum, maximum].
    `maximum` is one number for all, or, without hue, three: for brightness, contrast, saturation.
    """
    order_seed, factor_seed, hue_seed = random.split(seed, 3)
    # The order of four independent uniform numbers is a uniformly random permutation.
    order = tf.argsort(random.uniform([batch, 4], order_seed, 0.0, 1.0), axis=1)
    largest = tf.broadcast_to(tf.constant(maximum, tf.float32), [3])
    factors = random.uniform([batch, 3], factor_seed, 1.0 - largest, 1.0 + largest)
    turn = random.uniform([batch], hue_seed, -largest[0], largest[0]) if hue else None
    return Jitter(order, factors, turn)


def apply(pixels: tf.Tensor, jitter: Jitter, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Applies a colour jitter to the pixels of each image, floating point [B, N, 3] in [0, 1].

    Weights, float32 [B, N], say how much each pixel counts in the mean grey level that contrast
    refers to, 0 outside a patch; None counts all alike.
    """
    dtype = pixels.dtype
    rgb = tf.cast(pixels, tf.float32)
    if jitter.hue is None:
        rgb = _blend(rgb, jitter, tf.ones_like(jitter.factors, tf.bool), weights)
    else:
        # before[:, k]: transformation k comes before the hue in its image's order.
        rank = tf.argsort(jitter.order, axis=1)
        before = rank[:, :HUE] < rank[:, HUE:]
        rgb = _blend(rgb, jitter, before, weights)
        rgb = _turn_hue(rgb, jitter.hue)
        rgb = _blend(rgb, jitter, ~before, weights)
    return tf.cast(rgb, dtype)


def apply_to_images(images: tf.Tensor, jitter: Jitter | None) -> tf.Tensor:
    """Applies a colour jitter to whole images, floating point [B, H, W, 3] in [0, 1]."""
    if jitter is None:
        return images
    shape = tf.shape(images)
    return tf.reshape(apply(tf.reshape(images, [shape[0], shape[1] * shape[2], 3]), jitter), shape)


def _blend(rgb, jitter, active, weights):
    """Applies brightness, contrast and saturation where `active` [B, 3], in each image's order.

    They blend an image with black, its mean grey level and its grey version, so any sequence of
    them is one map a * rgb + b * grey + c.
    """
    grey = tf.linalg.matvec(rgb, tf.constant(GREY))  # [B, N]
    if weights is None:
        mean = tf.reduce_mean(grey, axis=1)
    else:
        total = tf.reduce_sum(weights, axis=1)
        mean = tf.math.divide_no_nan(tf.reduce_sum(grey * weights, axis=1), total)
    # The factor at each position in the order (1 for the hue), and which of the three is there.
    factors = tf.pad(tf.where(active, jitter.factors, 1.0), [[0, 0], [0, 1]], constant_values=1.0)
    kept = tf.gather(factors, jitter.order, axis=1, batch_dims=1)
    rest = 1.0 - kept
    to_mean = rest * tf.cast(jitter.order == CONTRAST, tf.float32)
    to_grey = rest * tf.cast(jitter.order == SATURATION, tf.float32)
    a, b, c = tf.ones_like(mean), tf.zeros_like(mean), tf.zeros_like(mean)
    for factor, mean_share, grey_share in zip(
        *(tf.unstack(share, num=4, axis=1) for share in (kept, to_mean, to_grey)), strict=True
    ):
        # The grey version of a * rgb + b * grey + c is (a + b) * grey + c, as GREY sums to one.
        a, b, c = (
            factor * a,
            factor * b + grey_share * (a + b),
            factor * c + grey_share * c + mean_share * ((a + b) * mean + c),
        )
    offset = b[:, None] * grey + c[:, None]
    return _clip(rgb * a[:, None, None] + offset[:, :, None])


def _turn_hue(rgb, turn):
    """Turns the hue of [B, N, 3] by `turn` [B] full circles, keeping HSV saturation and value."""
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(rgb), axis=-1)
    hue = tf.math.floormod(hue + turn[:, None], 1.0)
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1))


def _clip(values):
    """Clips to [0, 1] in one pass; tf.clip_by_value makes two."""
    return tf.raw_ops.ClipByValue(t=values, clip_value_min=0.0, clip_value_max=1.0)
