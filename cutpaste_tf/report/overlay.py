"""Anomaly maps as colours over their images."""

import dataclasses
import os

import matplotlib
import numpy as np
from PIL import Image

from cutpaste_tf import artifacts
from cutpaste_tf.threshold import Threshold


@dataclasses.dataclass(frozen=True)
class Scale:
    """Brings a run's anomaly maps to colours, on one scale for all images.

    Attributes:
      low: the score that is dark: a usual one of normal images or patches.
      high: the score from which on a map is at its brightest: the threshold.
      absolute: whether maps are on the scores' scale. GradCAM's are not: only within a map do its
        values compare, so a map is as bright as its image's score at its brightest. Scores of
        patches are heavy-tailed, and shown by their logarithm.
    """

    low: float
    high: float
    absolute: bool

    @classmethod
    def of_run(cls, run_dir: str | os.PathLike, level: float | None, chosen: Threshold) -> "Scale":
        """Finds the scale of a run's maps.

        Args:
          run_dir: the run's folder.
          level: the run's `Detector.level`.
          chosen: the threshold.

        Returns:
          The scale.
        """
        low = level
        if low is None:
            normal = artifacts.read_normal_scores(run_dir)
            low = float(np.median(normal)) if normal is not None and len(normal) else 0.0
        low = max(low, 1e-6)
        # A threshold below what is usual calls everything anomalous, and says nothing of colours.
        return cls(low, chosen.value if chosen.value > low else 2.0 * low, level is not None)

    def __call__(self, anomaly_map: np.ndarray, score: float) -> np.ndarray:
        """Returns what to draw, [H, W] in [0, 1], for a map, [H, W], and its image's score."""
        if self.absolute:
            ratio = np.maximum(anomaly_map, self.low) / self.low
            return np.minimum(np.log(ratio) / np.log(self.high / self.low), 1.0)
        brightest = min(max((score - self.low) / (self.high - self.low), 0.0), 1.0)
        return anomaly_map * (brightest / max(float(anomaly_map.max()), 1e-12))


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lays what a `Scale` returned over an image of any size.

    Args:
      image: uint8 [H, W, 3].
      values: [h, w] in [0, 1]; brought to the image's size, bilinearly.

    Returns:
      uint8 [H, W, 3].
    """
    size = image.shape[1::-1]
    resized = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return heat_map(image, np.clip(np.asarray(resized), 0.0, 1.0))


def heat_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lays a map over an image.

    Args:
      image: uint8 [H, W, 3].
      values: [H, W] in [0, 1].

    Returns:
      uint8 [H, W, 3]: the image in grey, under colours that grow both lighter and more opaque.
    """
    # Inferno is even in lightness: it reads the same in greyscale and for the colour-blind.
    colors = matplotlib.colormaps["inferno"](np.arange(256))[:, :3]
    colors = (0.65 * 255.0 * colors).astype(np.float32)
    result = np.empty_like(image)
    for first in range(0, len(image), 64):  # photographs have many rows, and floats take space
        rows = slice(first, first + 64)
        grey = 0.35 * image[rows].mean(axis=-1, keepdims=True, dtype=np.float32)
        levels = np.minimum(values[rows] * 256.0, 255.0).astype(np.uint8)
        result[rows] = (grey + colors[levels]).astype(np.uint8)
    return result
