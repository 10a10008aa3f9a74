"""From the scores of patches or of a feature map's places to the scores of pixels."""

from collections.abc import Callable

import numpy as np
import scipy.ndimage
import tensorflow as tf

from cutpaste_tf.scoring.patch import patches_along

# Of the Gaussian that spreads a patch's score over its pixels, for a patch of 32: FCDD's (the
# paper's [32]).
DEVIATION_OF_32 = 10.0


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


def between(at: np.ndarray, first: float, step: float, count: int) -> np.ndarray:
    """Returns linear interpolation between evenly spaced places as a matrix.

    Args:
      at: [M], where values are wanted.
      first: where the first place is.
      step: the distance from one place to the next.
      count: the number of places, P.

    Returns:
      float64 [M, P]: a value is the matrix's row times what is at the places. Beyond the first and
      the last place it is as there.
    """
    place = np.clip((np.asarray(at, np.float64) - first) / step, 0.0, count - 1.0)
    return np.maximum(1.0 - np.abs(place[:, None] - np.arange(count)), 0.0)


def smooth_enlargement(
    size: int, first: float, step: float, count: int, deviation: float
) -> np.ndarray:
    """Returns as a matrix how a map's places become pixels, along one axis.

    Args:
      size: height or width of the image, in pixels.
      first: the pixel in the middle of the first place.
      step: pixels from one place to the next.
      count: the number of places, P.
      deviation: of the Gaussian that the pixels are smoothed by, in pixels.

    Returns:
      float64 [size, P]; rows add up to one.
    """
    matrix = between(np.arange(size), first, step, count)
    return scipy.ndimage.gaussian_filter1d(matrix, deviation, axis=0, mode="nearest")


def bilinear_matrix(size: int, count: int) -> np.ndarray:
    """Returns as a matrix, float64 [size, count], what `bilinear` does along one axis."""
    step = size / count
    return between(np.arange(size), (step - 1.0) / 2.0, step, count)


def bilinear(maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Brings maps, float32 [N, h, w], to some height and width, [N, *size], bilinearly."""
    return tf.image.resize(maps[..., None], size)[..., 0]
