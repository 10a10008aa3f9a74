"""Cutout and its variants: a patch of each image filled, or its colour changed (Section 5.1).

The baselines of Tables 1 and 4. The paper describes CutPaste as the variant of Cutout whose area is
filled with "image patch from different location", and gives sizes for CutPaste alone (Appendix
A.2), so the patches here are of CutPaste's area, aspect ratio and place, and the scars of
CutPaste-Scar's size and angle: with one seed the same pixels are erased as CutPaste would paste
over, and a table's columns differ by the filling alone.

Each function takes images, floating point [B, H, W, 3] in [0, 1], the patches' places, the most
pixels that a patch's upright box has, and levels, float32 [B, 3] in [0, 1), for what is random.
"""

import tensorflow as tf

from cutpaste_tf.augment import paste

# "Grey color (standard)" of Section 5.1, of which no level is given: the middle of the range. It is
# about the zero, "filled with either zero" (Section 3.1), that Cutout's authors erase with, as they
# do so after images are normalised to zero mean.
GREY_LEVEL = 0.5
# FCDD (the paper's [32]) draws each channel of a confetto from 256 levels: all of the range.
CONFETTI = 1.0


def fill_with_grey(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Cutout (DeVries and Taylor; Tables 1 and 4): the patch becomes grey, `GREY_LEVEL`."""
    return _paint(images, patch, pixels, tf.fill(tf.shape(levels), GREY_LEVEL))


def fill_with_mean(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Cutout (Mean) of Table 4: the patch takes on the image's mean colour.

    The paper says "mean pixel values" without saying of what. A data set's mean would be one
    colour for all images, as grey is; the image's own needs nothing that the image does not have.
    """
    mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
    return _paint(images, patch, pixels, mean)


def fill_with_color(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Cutout (Color) of Table 4, and Scar (Section 2.2, Table 1): one random colour."""
    return _paint(images, patch, pixels, levels)


def shift_color(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Confetti noise of FCDD (the paper's [32]; Table 4): the colour of the patch is shifted.

    "Confetti noise that jitters a color of a local patch" (Section 5.1): one random colour is added
    to the patch, whose structure stays where the sum is not clipped. FCDD adds, to several turned
    squares of 8 to 54 pixels in an image of 224, colours of any of 256 levels in each channel, to
    dark pixels with one sign and to bright ones with the other. Here the range is FCDD's, the sign
    is random, and the place is one patch as in the other columns of Table 4. Level 0 takes the full
    range from a channel, and level 1 would add it.
    """
    _, target, _ = paste.listed(patch, pixels, tf.shape(images)[2])
    shift = CONFETTI * (2.0 * levels - 1.0)
    values = tf.cast(paste.read(images, target), tf.float32) + shift[:, None]
    values = tf.clip_by_value(values, 0.0, 1.0)
    return paste.Edit(target, tf.cast(values, images.dtype))


def _paint(images, patch, pixels, color):
    """The edit that gives each image's patch one colour, [B, C]."""
    _, target, _ = paste.listed(patch, pixels, tf.shape(images)[2])
    color = tf.cast(color, images.dtype)
    return paste.Edit(target, tf.repeat(color[:, None], pixels, axis=1))
