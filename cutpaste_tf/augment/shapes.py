"""Synthetic anomalies: shapes pasted on normal images, with their masks (Section 5.3, Figure 6).

The paper gives no sizes or places. Here a shape's bounding square has CutPaste's share of the area
(Appendix A.2) and lies anywhere inside the image. Shapes are turned by any angle, as in dSprites
(the paper's [35]); digits are upright.
"""

import math

import tensorflow as tf

from cutpaste_tf.augment import paste, random

_ELLIPSE = 0.6  # the shorter axis, as a share of the longer
_HEART = (1.2, 0.1)  # scale and shift that fit the heart's curve into the square


def _square(u, v):
    return tf.maximum(tf.abs(u), tf.abs(v)) <= 1.0


def _ellipse(u, v):
    return u**2 + (v / _ELLIPSE) ** 2 <= 1.0


def _heart(u, v):
    scale, shift = _HEART
    x, y = scale * u, shift - scale * v
    return ((x**2 + y**2 - 1.0) ** 3 - x**2 * y**3 <= 0.0) & _square(u, v)


SHAPES = {"square": _square, "ellipse": _ellipse, "heart": _heart}


def masks(
    shape: str,
    images: tf.Tensor,
    seed: tf.Tensor,
    *,
    digits: tf.Tensor | None = None,
    area_ratio: tuple[float, float] = paste.AREA_RATIO,
) -> tf.Tensor:
    """Draws a "square", "ellipse", "heart" or "digit" for each image: bool [B, H, W].

    Images are [B, H, W, C] with a static size; digits are float32 [M, h, w] in [0, 1], bright on
    dark; `area_ratio` is the range of the bounding square's share of the image's area.
    """
    size_seed, row_seed, column_seed, angle_seed, digit_seed = random.split(seed, 5)
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    low, high = area_ratio
    side = tf.sqrt(random.uniform([count], size_seed, low, high) * float(height * width))
    half = side / 2.0
    # The reach of a turned square is half its diagonal, and no more than the image allows.
    reach = half if shape == "digit" else half * math.sqrt(2.0)
    reach = tf.minimum(reach, min(height, width) / 2.0)
    row = random.uniform([count], row_seed, reach, height - reach)[:, None, None]
    column = random.uniform([count], column_seed, reach, width - reach)[:, None, None]
    half = half[:, None, None]
    down = tf.reshape(tf.range(height, dtype=tf.float32) + 0.5, [1, -1, 1]) - row
    across = tf.reshape(tf.range(width, dtype=tf.float32) + 0.5, [1, 1, -1]) - column
    if shape == "digit":
        which = random.integers([count], digit_seed, 0, tf.shape(digits)[0] - 1)
        return _digit(tf.gather(digits, which), across / half, down / half)
    angle = random.uniform([count], angle_seed, 0.0, 2.0 * math.pi)[:, None, None]
    u = (tf.cos(angle) * across + tf.sin(angle) * down) / half
    v = (tf.cos(angle) * down - tf.sin(angle) * across) / half
    return SHAPES[shape](u, v)


def _digit(digits, u, v):
    """Where digits, [B, h, w], are bright; u, [B, 1, W], and v, [B, H, 1], span them by [-1, 1]."""

    def weights(at, size):
        """Bilinear interpolation along one axis as products: [B, n, size]."""
        at = (tf.reshape(at, [tf.shape(at)[0], -1, 1]) + 1.0) / 2.0 * size - 0.5
        return tf.nn.relu(1.0 - tf.abs(at - tf.range(size, dtype=tf.float32)))

    rows, columns = weights(v, digits.shape[1]), weights(u, digits.shape[2])
    return tf.matmul(tf.matmul(rows, digits), columns, transpose_b=True) > 0.5


def photograph_crops(images: tf.Tensor, photographs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Cuts a random piece of the photographs, as large as an image, for each, [B, H, W, 3]."""
    which_seed, row_seed, column_seed = random.split(seed, 3)
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    total, rows, columns = photographs.shape[:3]
    which = random.integers([count], which_seed, 0, total - 1)[:, None, None]
    row = random.integers([count], row_seed, 0, rows - height)[:, None, None]
    column = random.integers([count], column_seed, 0, columns - width)[:, None, None]
    down, across = tf.range(height)[None, :, None], tf.range(width)[None, None, :]
    flat = (which * rows + row + down) * columns + column + across
    return tf.gather(tf.reshape(photographs, [-1, 3]), flat)
