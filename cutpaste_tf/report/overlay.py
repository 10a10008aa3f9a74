"""Anomaly maps as colours over their images."""

import dataclasses
import os

import matplotlib
import numpy as np
import scipy.ndimage
from PIL import Image

from cutpaste_tf import run_folder
from cutpaste_tf.threshold import Threshold

OUTLINE = (90, 220, 255)  # Inferno has no blue as light as this.


@dataclasses.dataclass(frozen=True)
class Scale:
    """Brings a run's anomaly maps to colours, on one scale for all images.

    Attributes:
      low: the score that is dark: a usual one of normal images or patches.
      high: the score from which on a map is at its brightest: the threshold, of pixels where the
        run has one.
      absolute: whether maps are on the scores' scale. GradCAM's are not: only within a map do its
        values compare, so a map is as bright as its image's score at its brightest. Scores of
        patches are heavy-tailed, and shown by their logarithm.
      outlined: whether `high` is a threshold of pixels, and a line is to go around what is above.
    """

    low: float
    high: float
    absolute: bool
    outlined: bool = False

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
        normal = run_folder.read_normal_scores(run_dir) if level is None else None
        of_pixels = run_folder.read_results(run_dir)["pixel_threshold"]
        return cls.of(level, normal, of_pixels, chosen)

    @classmethod
    def of(
        cls,
        level: float | None,
        normal_scores: np.ndarray | None,
        pixel_threshold: float | None,
        chosen: Threshold,
    ) -> "Scale":
        """Finds the scale of maps.

        Args:
          level: the run's `Detector.level`.
          normal_scores: [n] the scores of normal images; None or empty where there are none, and
            where there is a level.
          pixel_threshold: the pixels' threshold; None where there is none.
          chosen: the threshold of images.

        Returns:
          The scale.
        """
        low = level
        if low is None:
            known = normal_scores is not None and len(normal_scores)
            low = float(np.median(normal_scores)) if known else 0.0
        low = max(low, 1e-6)
        high = chosen.value if pixel_threshold is None else pixel_threshold
        # A threshold below what is usual calls everything anomalous, and says nothing of colours.
        high = high if high > low else 2.0 * low
        return cls(low, high, level is not None, pixel_threshold is not None)

    def __call__(self, anomaly_map: np.ndarray, score: float) -> np.ndarray:
        """Returns what to draw, [H, W] in [0, 1], for a map, [H, W], and its image's score."""
        if self.absolute:
            ratio = np.maximum(anomaly_map, self.low) / self.low
            return np.minimum(np.log(ratio) / np.log(self.high / self.low), 1.0)
        brightest = min(max((score - self.low) / (self.high - self.low), 0.0), 1.0)
        return anomaly_map * (brightest / max(float(anomaly_map.max()), 1e-12))


def overlay(image: np.ndarray, values: np.ndarray, outlined: bool = False) -> np.ndarray:
    """Lays what a `Scale` returned over an image of any size.

    Args:
      image: uint8 [H, W, 3].
      values: [h, w] in [0, 1]; brought to the image's size, bilinearly.
      outlined: whether a line goes around where the values are 1.

    Returns:
      uint8 [H, W, 3].
    """
    size = image.shape[1::-1]
    resized = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(resized), 0.0, 1.0)
    picture = heat_map(image, values)
    if outlined:
        inside = values >= 1.0 - 1e-6
        # A line that is seen when a large photograph is made small, too.
        width = 1 + min(image.shape[:2]) // 400
        # Beyond the picture's border it goes on, so that no line is drawn along that.
        inner = scipy.ndimage.binary_erosion(inside, iterations=width, border_value=1)
        picture[inside & ~inner] = OUTLINE
    return picture


def heat_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lays values, [H, W] in [0, 1], over an image, uint8 [H, W, 3] as is what it returns.

    The image is grey, under colours that grow both lighter and more opaque.
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
