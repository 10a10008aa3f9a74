"""From the scores of patches or of a feature map's places to the scores of pixels."""

import functools
from collections.abc import Callable

import numpy as np
import scipy.ndimage
import tensorflow as tf

from cutpaste_tf.models.backbone import Places
from cutpaste_tf.scoring.patch import patches_along

# Of the Gaussian that spreads a patch's score over its pixels, for a patch of 32: FCDD's (the
# paper's [32]).
DEVIATION_OF_32 = 10.0
# Of the places that are looked at, in a pixel: those that are looked at themselves have far more.
LEAST_WEIGHT = 1e-6


def receptive_field_upsampler(patch: int, stride: int) -> Callable[[tf.Tensor, float], tf.Tensor]:
    """Returns the receptive-field upsampling of FCDD: a transposed convolution with a Gaussian.

    Args:
      patch: height and width of the patches, and of the kernel, in pixels.
      stride: distance of one patch from the next, in pixels.

    Returns:
      A function of the patches' Mahalanobis distances, float32 [N, P, P'], and the level, a normal
      patch's distance. It returns the pixels' distances, float32 [N, (P - 1) * stride + patch,
      (P' - 1) * stride + patch]: the roots of sums of squares, as negative log densities
      (Equation 2) are what is added. The patch in row i and column j covers the pixels from
      (i * stride, j * stride). Near the border fewer patches cover a pixel; a score fades to the
      level there, where the paper's formula, of level 0, would have it fade to nothing.
    """
    line = _gaussian(patch, stride)
    kernel = np.outer(line, line).astype(np.float32)[:, :, None, None]

    def upsample(maps, level):
        shape = tf.shape(maps)
        size = [shape[0], *((shape[i] - 1) * stride + patch for i in (1, 2)), 1]
        above = (tf.square(maps) - level**2)[..., None]
        squared = tf.nn.conv2d_transpose(above, kernel, size, stride, "VALID")[..., 0] + level**2
        return tf.sqrt(tf.maximum(squared, 0.0))

    return upsample


def receptive_field_matrix(size: int, patch: int, stride: int) -> np.ndarray:
    """Returns as a matrix what `receptive_field_upsampler` does along one axis.

    Args:
      size: height or width of the image, in pixels.
      patch: height and width of the patches, in pixels.
      stride: distance of one patch from the next, in pixels.

    Returns:
      float64 [size, P]: what it adds to a pixel is its product with what the P patches have.
    """
    starts = np.arange(patches_along(size, patch, stride)) * stride
    matrix = np.zeros([size, len(starts)])
    for column, start in enumerate(starts):
        matrix[start : start + patch, column] = _gaussian(patch, stride)
    return matrix


def _gaussian(patch, stride):
    """The Gaussian along one axis, its sum the stride: as many patches cover a pixel in all."""
    at = np.arange(patch) - (patch - 1) / 2.0
    line = np.exp(-0.5 * (at / (DEVIATION_OF_32 * patch / 32.0)) ** 2)
    return line * (stride / line.sum())


def between(at: np.ndarray, places: Places) -> np.ndarray:
    """Returns linear interpolation between the places of a map, along one axis, as a matrix.

    Args:
      at: [M], the pixels where values are wanted.
      places: P places.

    Returns:
      float64 [M, P]: a value is the matrix's row times what is at the places. Beyond the first and
      the last place it is as there.
    """
    number = np.clip((np.asarray(at) - places.first) / places.stride, 0.0, places.count - 1.0)
    return np.maximum(1.0 - np.abs(number[:, None] - np.arange(places.count)), 0.0)


def cells(size: tuple[int, int], places: tuple[Places, Places]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixels a map's places are the nearest to, along both axes.

    Args:
      size: height and width of the images, in pixels.
      places: the map's, h and w of them.

    Returns:
      bool [h, H] and [w, W].
    """
    return tuple(
        between(np.arange(side), its).T >= 0.5 for side, its in zip(size, places, strict=True)
    )


def enlargements(
    size: tuple[int, int], places: tuple[Places, Places], deviation: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns as matrices how a map's places become pixels.

    Args:
      size: height and width of the images, in pixels.
      places: the map's, h and w of them.
      deviation: of the Gaussian that the pixels are smoothed by, as a share of the smaller side.

    Returns:
      float64 [H, h] and [W, w], whose rows add up to one: a map of pixels is the first, times the
      map, times the second transposed.
    """
    matrices = [between(np.arange(side), its) for side, its in zip(size, places, strict=True)]
    if deviation:
        smooth = functools.partial(scipy.ndimage.gaussian_filter1d, axis=0, mode="nearest")
        matrices = [smooth(matrix, deviation * min(size)) for matrix in matrices]
    return tuple(matrices)


def enlarger(
    size: tuple[int, int], places: tuple[Places, Places], deviation: float = 0.0
) -> Callable[..., tf.Tensor]:
    """Returns the function that enlarges maps; its arguments are those of `enlargements`.

    Returns:
      A function of maps, float32 [N, h, w], and of what is looked at, bool [N, H, W] or None where
      that is all. It returns the pixels, float32 [N, H, W]. Places that are the nearest to no pixel
      that is looked at have no part in them, so a map that is level stays so up to the border.
    """
    rows, columns = (tf.constant(m, tf.float32) for m in enlargements(size, places, deviation))
    near = [tf.constant(cell, tf.float32) for cell in cells(size, places)]

    def enlarge(maps, regions=None):
        if regions is None:
            return _product(rows, maps, columns)
        seen = tf.cast(_product(near[0], tf.cast(regions, tf.float32), near[1]) > 0.5, tf.float32)
        weights = tf.maximum(_product(rows, seen, columns), LEAST_WEIGHT)
        return _product(rows, maps * seen, columns) / weights

    return enlarge


def _product(rows, maps, columns):
    """A matrix times maps, [N, ., .], times another one transposed."""
    return tf.matmul(tf.matmul(rows, maps), columns, transpose_b=True)
