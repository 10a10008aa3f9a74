"""Cutout and its variants: a patch of each image filled, or its colour changed (Section 5.1).

The baselines of Tables 1 and 4. The paper describes CutPaste as the variant of Cutout whose area is
filled with "image patch from different location", and gives sizes for CutPaste alone (Appendix
A.2), so the patches here are of CutPaste's area, aspect ratio and place, and the scars of
CutPaste-Scar's size and angle: with one seed the same pixels are erased as CutPaste would paste
over, and a table's columns differ by the filling alone.
"""

import tensorflow as tf

from cutpaste_tf.augment import paste, random

# "Grey color (standard)" of Section 5.1, and "filled with either zero" of Section 3.1: the
# companion code's images lie in [-1, 1], whose zero is the middle grey of [0, 1].
GREY_LEVEL = 0.5
# FCDD (the paper's [32]) draws each channel of a confetto from 256 levels: all of the range.
CONFETTI = 1.0


def cutout(
    images: tf.Tensor,
    seed: random.Seed,
    *,
    area_ratio: tuple[float, float] = paste.AREA_RATIO,
) -> paste.Edit:
    """Cutout (DeVries and Taylor; Tables 1 and 4): a rectangle of each image becomes grey.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      seed: int32 [2], or a `random.Share`.
      area_ratio: the rectangle's smallest and largest share of the image's area (Appendix A.2, for
        CutPaste).

    Returns:
      The edit to the images: `GREY_LEVEL` in all channels.
    """
    patch, pixels, _ = _rectangle(images, seed, area_ratio)
    color = tf.fill([tf.shape(images)[0], images.shape[-1]], GREY_LEVEL)
    return _paint(images, patch, pixels, color)


def cutout_mean(
    images: tf.Tensor,
    seed: random.Seed,
    *,
    area_ratio: tuple[float, float] = paste.AREA_RATIO,
) -> paste.Edit:
    """Cutout (Mean) of Table 4: a rectangle of each image takes on the image's mean colour.

    The paper says "mean pixel values" without saying of what. A data set's mean would be one
    colour for all images, as grey is; the image's own needs nothing that the image does not have.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      seed: int32 [2], or a `random.Share`.
      area_ratio: as in `cutout`.

    Returns:
      The edit to the images: the mean of each channel over the whole image.
    """
    patch, pixels, _ = _rectangle(images, seed, area_ratio)
    color = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
    return _paint(images, patch, pixels, color)


def cutout_color(
    images: tf.Tensor,
    seed: random.Seed,
    *,
    area_ratio: tuple[float, float] = paste.AREA_RATIO,
) -> paste.Edit:
    """Cutout (Color) of Table 4: a rectangle of each image takes on one random colour.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      seed: int32 [2], or a `random.Share`.
      area_ratio: as in `cutout`.

    Returns:
      The edit to the images; each channel of the colour is uniform in [0, 1).
    """
    patch, pixels, color_seed = _rectangle(images, seed, area_ratio)
    return _paint(images, patch, pixels, _random_color(images, color_seed))


def scar(
    images: tf.Tensor,
    seed: random.Seed,
    *,
    width: tuple[int, int] = paste.SCAR_WIDTH,
    length: tuple[int, int] = paste.SCAR_LENGTH,
) -> paste.Edit:
    """Scar (Section 2.2, Table 1): a long, thin, turned rectangle of one random colour.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      seed: int32 [2], or a `random.Share`.
      width: smallest and largest width, in pixels (Appendix A.2, for CutPaste-Scar).
      length: smallest and largest length, likewise.

    Returns:
      The edit to the images; each channel of the colour is uniform in [0, 1).
    """
    size = paste.static_size(images)
    patch_seed, color_seed = random.split(seed, 2)
    patch = paste.sample_scar(tf.shape(images)[0], size, patch_seed, width, length)
    color = _random_color(images, color_seed)
    return _paint(images, patch, paste.scar_pixels(width, length), color)


def confetti(
    images: tf.Tensor,
    seed: random.Seed,
    *,
    area_ratio: tuple[float, float] = paste.AREA_RATIO,
) -> paste.Edit:
    """Confetti noise of FCDD (the paper's [32]; Table 4): the colour of a rectangle is shifted.

    "Confetti noise that jitters a color of a local patch" (Section 5.1): one random colour is added
    to the patch, whose structure stays where the sum is not clipped. FCDD adds, to several turned
    squares of 8 to 54 pixels in an image of 224, colours of any of 256 levels in each channel, to
    dark pixels with one sign and to bright ones with the other. Here the range is FCDD's, the sign
    is random, and the place is one patch as in the other columns of Table 4.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      seed: int32 [2], or a `random.Share`.
      area_ratio: as in `cutout`.

    Returns:
      The edit to the images; what is added to a channel is uniform in [-1, 1), the sum clipped to
      [0, 1].
    """
    patch, pixels, color_seed = _rectangle(images, seed, area_ratio)
    shape = tf.shape(images)
    _, target, _ = paste.listed(patch, pixels, shape[2])
    shift = random.uniform([shape[0], images.shape[-1]], color_seed, -CONFETTI, CONFETTI)
    values = tf.cast(paste.read(images, target), tf.float32) + shift[:, None]
    values = tf.clip_by_value(values, 0.0, 1.0)
    return paste.Edit(target, tf.cast(values, images.dtype))


def _rectangle(images, seed, area_ratio):
    """CutPaste's rectangles, the most pixels that one has, and a seed for what fills them."""
    size = paste.static_size(images)
    patch_seed, rest = random.split(seed, 2)
    patch = paste.sample_patch(tf.shape(images)[0], size, patch_seed, area_ratio)
    return patch, paste.patch_pixels(size, area_ratio), rest


def _random_color(images, seed):
    return random.uniform([tf.shape(images)[0], images.shape[-1]], seed, 0.0, 1.0)


def _paint(images, patch, pixels, color):
    """The edit that gives each image's patch one colour, [B, C]."""
    _, target, _ = paste.listed(patch, pixels, tf.shape(images)[2])
    color = tf.cast(color, images.dtype)
    return paste.Edit(target, tf.repeat(color[:, None], pixels, axis=1))
