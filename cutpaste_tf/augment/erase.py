"""Cutout and its variants fill a patch of each image, or change its colour (Section 5.1).

The paper gives sizes for CutPaste alone (Appendix A.2). Here a seed gives the same patches as for
CutPaste or CutPaste-Scar, so that the columns of a table differ by the filling alone.

Each function takes images, floating point [B, H, W, 3] in [0, 1], the patches, the largest number
of pixels in a patch's upright box, and random levels, float32 [B, 3] in [0, 1).
"""

import tensorflow as tf

from cutpaste_tf.augment import paste

# The paper gives no level for "grey color (standard)" (Section 5.1). Cutout's authors erase with
# zero after images are normalised to zero mean, which is about the middle of the range.
GREY_LEVEL = 0.5


def fill_with_grey(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Cutout (DeVries and Taylor; Tables 1 and 4): the patch becomes grey, `GREY_LEVEL`."""
    return fill_with_color(images, patch, pixels, tf.fill(tf.shape(levels), GREY_LEVEL))


def fill_with_mean(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Cutout (Mean) of Table 4: the patch takes on the image's mean colour.

    The paper's "mean pixel values" may also mean those of the data set: one colour for all images.
    """
    mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
    return fill_with_color(images, patch, pixels, mean)


def fill_with_color(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Cutout (Color) of Table 4, and Scar (Section 2.2, Table 1): one random colour."""
    _, target, _ = paste.listed(patch, pixels, tf.shape(images)[2])
    color = tf.cast(levels, images.dtype)
    return paste.Edit(target, tf.repeat(color[:, None], pixels, axis=1))


def shift_color(
    images: tf.Tensor, patch: paste.Patch, pixels: int, levels: tf.Tensor
) -> paste.Edit:
    """Confetti noise of FCDD (the paper's [32]; Table 4): the colour of the patch is shifted.

    "Confetti noise that jitters a color of a local patch" (Section 5.1): one random colour is added
    to the patch. FCDD adds such colours to several turned squares, to dark pixels with one sign and
    to bright ones with the other. Here the range is FCDD's, all 256 levels, the sign is random, and
    the patch is that of Table 4's other columns. Level 0 subtracts the full range from a channel.
    """
    _, target, _ = paste.listed(patch, pixels, tf.shape(images)[2])
    shift = 2.0 * levels - 1.0
    values = tf.cast(paste.read(images, target), tf.float32) + shift[:, None]
    values = tf.clip_by_value(values, 0.0, 1.0)
    return paste.Edit(target, tf.cast(values, images.dtype))
