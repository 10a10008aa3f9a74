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

    It is a function of the patches' Mahalanobis distances, float32 [N, P, P'], and the level, a
    normal patch's distance, to the pixels' distances, float32 [N, (P - 1) * stride + patch,
    (P' - 1) * stride + patch]: the roots of sums of squares, as negative log densities (Equation 2)
    are what is added. Lengths are in pixels, and the patch in row i and column j covers those from
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
    """What `receptive_field_upsampler` does along one axis, as a matrix, float64 [size, P]."""
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
    """Returns linear interpolation between P places at M pixels, along one axis, as float64 [M, P].

    A value is a row times what is at the places; beyond the first and the last it is as there.
    """
    number = np.clip((np.asarray(at) - places.first) / places.stride, 0.0, places.count - 1.0)
    return np.maximum(1.0 - np.abs(number[:, None] - np.arange(places.count)), 0.0)


def cells(size: tuple[int, int], places: tuple[Places, Places]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixels a map's places are the nearest to: bool [h, H] and [w, W]."""
    return tuple(
        between(np.arange(side), its).T >= 0.5 for side, its in zip(size, places, strict=True)
    )


def enlargements(
    size: tuple[int, int], places: tuple[Places, Places], deviation: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns as matrices, float64 [H, h] and [W, w], how a map's places become pixels.

    Their rows add up to one: a map of pixels is the first, times the map, times the second
    transposed. The pixels are smoothed by a Gaussian, its deviation a share of the smaller side.
    """
    matrices = [between(np.arange(side), its) for side, its in zip(size, places, strict=True)]
    if deviation:
        smooth = functools.partial(scipy.ndimage.gaussian_filter1d, axis=0, mode="nearest")
        matrices = [smooth(matrix, deviation * min(size)) for matrix in matrices]
    return tuple(matrices)


def enlarger(
    size: tuple[int, int], places: tuple[Places, Places], deviation: float = 0.0
) -> Callable[..., tf.Tensor]:
    """Returns what enlarges maps, float32 [N, h, w], to float32 [N, H, W]; see `enlargements`.

    It also takes what is looked at, bool [N, H, W], or None for all. Places that are the nearest to
    no pixel that is looked at have no part in the pixels: a level map stays level to the border.
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
