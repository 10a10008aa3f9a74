"""Turns the scores of patches or of a feature map's places into scores of pixels."""

import functools
from collections.abc import Callable

import numpy as np
import scipy.ndimage
from keras import ops

from cutpaste_tf.models.backbone import Places
from cutpaste_tf.scoring import layers

# The standard deviation in pixels of the Gaussian that spreads a patch's score over its pixels, for
# a patch of 32 pixels: FCDD's (the paper's [32]).
DEVIATION_OF_32 = 10.0
# The least that the weight of places in the region counts, so that no pixel is divided by zero.
LEAST_WEIGHT = 1e-6


def between(at: np.ndarray, places: Places) -> np.ndarray:
    """Returns linear interpolation between P places at M pixels, along one axis, as float64 [M, P].

    A pixel's value is its row times the places' values. Beyond the first and the last place, values
    stay constant.
    """
    number = np.clip((np.asarray(at) - places.first) / places.stride, 0.0, places.count - 1.0)
    return np.maximum(1.0 - np.abs(number[:, None] - np.arange(places.count)), 0.0)


def cells(size: tuple[int, int], places: tuple[Places, Places]) -> list[np.ndarray]:
    """Returns which pixels are nearest to each of a map's places, float32 [h, H] and [w, W]."""
    return [
        (between(np.arange(side), axis).T >= 0.5).astype(np.float32)
        for side, axis in zip(size, places, strict=True)
    ]


def enlarger(
    size: tuple[int, int], places: tuple[Places, Places], deviation: float = 0.0
) -> Callable:
    """Returns a function that brings maps to an input's size, by linear interpolation.

    Args:
      size: the input's height and width in pixels.
      places: where the maps' places lie along both axes.
      deviation: standard deviation of the Gaussian that smooths the pixels, as a share of the
        smaller side.

    Returns:
      A function from maps, float32 [N, K, h, w], and which of their places are in the region, of
      that shape or None for all, to float32 [N, K, H, W]. Places outside do not count, so a
      constant map stays constant up to the region's border.
    """
    matrices = [between(np.arange(side), axis) for side, axis in zip(size, places, strict=True)]
    if deviation:
        smooth = functools.partial(scipy.ndimage.gaussian_filter1d, axis=0, mode="nearest")
        matrices = [smooth(matrix, deviation * min(size)) for matrix in matrices]
    multiply = layers.from_both_sides(*matrices)

    def enlarge(maps, inside=None):
        if inside is None:
            return multiply(maps)
        inside = ops.cast(inside, "float32")
        return multiply(maps * inside) / ops.maximum(multiply(inside), LEAST_WEIGHT)

    return enlarge


def receptive_field_enlarger(size: tuple[int, int], patch: int, stride: int) -> Callable:
    """Returns the receptive-field upsampling of FCDD: each patch's score is spread by a Gaussian.

    Squared distances are added, as in negative log densities (Equation 2). Near the border fewer
    patches cover a pixel, and scores fade to the level, the usual distance of a normal patch. By
    the paper's formula they would fade to zero.

    Args:
      size: the image's height and width in pixels.
      patch: the side of a patch in pixels.
      stride: pixels from one patch to the next, from the image's corner on.

    Returns:
      A function from patches' distances, float32 [N, K, P, Q], and the level, to pixels' distances,
      [N, K, H, W].
    """
    multiply = layers.from_both_sides(*(receptive_field(side, patch, stride) for side in size))

    def enlarge(maps, level):
        squared = multiply(ops.square(maps) - level**2) + level**2
        return ops.sqrt(ops.maximum(squared, 0.0))

    return enlarge


def receptive_field(size: int, patch: int, stride: int) -> np.ndarray:
    """Returns how patches' scores become pixels' along one axis, float64 [size, P]."""
    at = np.arange(patch) - (patch - 1) / 2.0
    line = np.exp(-0.5 * (at / (DEVIATION_OF_32 * patch / 32.0)) ** 2)
    line *= stride / line.sum()  # Patches that cover a pixel then have weights that add up to 1.
    count = (size - patch) // stride + 1
    matrix = np.zeros([size, count])
    for number in range(count):
        matrix[number * stride : number * stride + patch, number] = line
    return matrix
