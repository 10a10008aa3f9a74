"""Cutout and its variants: a patch of each image filled, or its colour changed (Section 5.1).

The baselines of Tables 1 and 4. The paper describes CutPaste as the variant of Cutout whose area is
filled with "image patch from different location", and gives sizes for CutPaste alone (Appendix
A.2), so the patches here are of CutPaste's area, aspect ratio and place, and the scars of
CutPaste-Scar's size and angle: with one seed the same pixels are erased as CutPaste would paste
over, and a table's columns differ by the filling alone.
"""

from typing import NamedTuple

import tensorflow as tf

from cutpaste_tf.augment import paste, random

# "Grey color (standard)" of Section 5.1, and "filled with either zero" of Section 3.1: the
# companion code's images lie in [-1, 1], whose zero is the middle grey of [0, 1].
GREY_LEVEL = 0.5
# FCDD (the paper's [32]) draws each channel of a confetto from 256 levels: all of the range.
CONFETTI = 1.0


class Erasure(NamedTuple):
    """What is erased of each image."""

    patch: paste.Patch
    levels: tf.Tensor  # float32 [B, 3], uniform in [0, 1): what the filling takes its colour from


def draw_rectangle(
    batch: int | tf.Tensor,
    size: tuple[int, int],
    seed: random.Seed,
    *,
    area_ratio: tuple[float, float] = paste.AREA_RATIO,
) -> Erasure:
    """Draws CutPaste's rectangles and a colour for each.

    Args:
      batch: the number of images, B.
      size: the images' height and width in pixels.
      seed: int32 [2], or a `random.Share`.
      area_ratio: the rectangle's smallest and largest share of the image's area (Appendix A.2, for
        CutPaste).

    Returns:
      What to erase: for the fillings below, with `paste.patch_pixels`.
    """
    patch_seed, color_seed = random.split(seed, 2)
    patch = paste.sample_patch(batch, size, patch_seed, area_ratio)
    return Erasure(patch, random.uniform([batch, 3], color_seed, 0.0, 1.0))


def draw_scar(
    batch: int | tf.Tensor,
    size: tuple[int, int],
    seed: random.Seed,
    *,
    width: tuple[int, int] = paste.SCAR_WIDTH,
    length: tuple[int, int] = paste.SCAR_LENGTH,
) -> Erasure:
    """Draws CutPaste-Scar's long, thin, turned rectangles and a colour for each.

    Args:
      batch: the number of images, B.
      size: the images' height and width in pixels.
      seed: int32 [2], or a `random.Share`.
      width: smallest and largest width, in pixels (Appendix A.2, for CutPaste-Scar).
      length: smallest and largest length, likewise.

    Returns:
      What to erase: for `fill_with_color`, with `paste.scar_pixels`.
    """
    patch_seed, color_seed = random.split(seed, 2)
    patch = paste.sample_scar(batch, size, patch_seed, width, length)
    return Erasure(patch, random.uniform([batch, 3], color_seed, 0.0, 1.0))


def fill_with_grey(images: tf.Tensor, erasure: Erasure, pixels: int) -> paste.Edit:
    """Cutout (DeVries and Taylor; Tables 1 and 4): the patch becomes grey, `GREY_LEVEL`.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      erasure: where; its colours are not used.
      pixels: the most pixels that a patch's upright box has.

    Returns:
      The edit to the images.
    """
    return _paint(images, erasure, pixels, tf.fill(tf.shape(erasure.levels), GREY_LEVEL))


def fill_with_mean(images: tf.Tensor, erasure: Erasure, pixels: int) -> paste.Edit:
    """Cutout (Mean) of Table 4: the patch takes on the image's mean colour.

    The paper says "mean pixel values" without saying of what. A data set's mean would be one
    colour for all images, as grey is; the image's own needs nothing that the image does not have.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      erasure: where; its colours are not used.
      pixels: the most pixels that a patch's upright box has.

    Returns:
      The edit to the images: the mean of each channel over the whole image.
    """
    mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
    return _paint(images, erasure, pixels, mean)


def fill_with_color(images: tf.Tensor, erasure: Erasure, pixels: int) -> paste.Edit:
    """Cutout (Color) of Table 4, and Scar (Section 2.2, Table 1): one random colour.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      erasure: where, and the colours.
      pixels: the most pixels that a patch's upright box has.

    Returns:
      The edit to the images.
    """
    return _paint(images, erasure, pixels, erasure.levels)


def shift_color(images: tf.Tensor, erasure: Erasure, pixels: int) -> paste.Edit:
    """Confetti noise of FCDD (the paper's [32]; Table 4): the colour of the patch is shifted.

    "Confetti noise that jitters a color of a local patch" (Section 5.1): one random colour is added
    to the patch, whose structure stays where the sum is not clipped. FCDD adds, to several turned
    squares of 8 to 54 pixels in an image of 224, colours of any of 256 levels in each channel, to
    dark pixels with one sign and to bright ones with the other. Here the range is FCDD's, the sign
    is random, and the place is one patch as in the other columns of Table 4.

    Args:
      images: floating point [B, H, W, 3] in [0, 1]; height and width static.
      erasure: where, and the colours: what is added to a channel is uniform in [-1, 1).
      pixels: the most pixels that a patch's upright box has.

    Returns:
      The edit to the images; the sum is clipped to [0, 1].
    """
    _, target, _ = paste.listed(erasure.patch, pixels, tf.shape(images)[2])
    shift = CONFETTI * (2.0 * erasure.levels - 1.0)
    values = tf.cast(paste.read(images, target), tf.float32) + shift[:, None]
    values = tf.clip_by_value(values, 0.0, 1.0)
    return paste.Edit(target, tf.cast(values, images.dtype))


def _paint(images, erasure, pixels, color):
    """The edit that gives each image's patch one colour, [B, C]."""
    _, target, _ = paste.listed(erasure.patch, pixels, tf.shape(images)[2])
    color = tf.cast(color, images.dtype)
    return paste.Edit(target, tf.repeat(color[:, None], pixels, axis=1))
