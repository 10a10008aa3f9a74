"""Draws anomaly maps as colours over their images."""

import dataclasses

import matplotlib
import numpy as np
import scipy.ndimage
from PIL import Image

from cutpaste_tf.threshold import Threshold

OUTLINE = (90, 220, 255)  # a light blue that the colours of inferno lack


@dataclasses.dataclass(frozen=True)
class Scale:
    """Brings a model's anomaly maps to colours, on one scale for all images.

    Attributes:
      low: the score of the darkest colour: a usual score of normal images or patches.
      high: the score of the brightest colour: the threshold of pixels, or that of images if the
        model has none of pixels.
      absolute: whether maps are on the scores' scale. Such maps are shown by their logarithm, since
        scores of patches are heavy-tailed. GradCAM's values compare only within a map, so the
        image's score gives the brightness of the map's maximum.
      outlined: whether `high` is a threshold of pixels, and a line surrounds what is above it.
    """

    low: float
    high: float
    absolute: bool
    outlined: bool = False

    @classmethod
    def of(
        cls,
        level: float | None,
        normal_scores: np.ndarray | None,
        pixel_threshold: float | None,
        threshold: Threshold,
    ) -> "Scale":
        """Finds the scale of a model's maps by its thresholds of pixels, if any, and of images.

        `level` is the usual score of normal patches. If maps are not on the scores' scale, it is
        None, and the median of `normal_scores`, [n], if there are any, is the usual score.
        """
        low = level
        if low is None:
            scored = normal_scores is not None and len(normal_scores)
            low = float(np.median(normal_scores)) if scored else 0.0
        low = max(low, 1e-6)
        high = threshold.value if pixel_threshold is None else pixel_threshold
        # A threshold below a usual score gives no scale of colours.
        high = high if high > low else 2.0 * low
        return cls(low, high, level is not None, pixel_threshold is not None)

    def __call__(self, anomaly_map: np.ndarray, score: float) -> np.ndarray:
        """Returns values to draw, [H, W] in [0, 1], for a map, [H, W], and its image's score."""
        if self.absolute:
            ratio = np.maximum(anomaly_map, self.low) / self.low
            return np.minimum(np.log(ratio) / np.log(self.high / self.low), 1.0)
        brightest = min(max((score - self.low) / (self.high - self.low), 0.0), 1.0)
        return anomaly_map * (brightest / max(float(anomaly_map.max()), 1e-12))


def overlay(image: np.ndarray, values: np.ndarray, outlined: bool = False) -> np.ndarray:
    """Lays values, [h, w] as a `Scale` returns them, over an image, uint8 [H, W, 3].

    With `outlined`, a line surrounds the areas where the values are 1.
    """
    size = image.shape[1::-1]
    resized = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(resized), 0.0, 1.0)
    result = heat_map(image, values)
    if outlined:
        inside = values >= 1.0 - 1e-6
        # The line must still show when a large photograph is scaled down.
        width = 1 + min(image.shape[:2]) // 400
        # No line is drawn along the image's border.
        inner = scipy.ndimage.binary_erosion(inside, iterations=width, border_value=1)
        result[inside & ~inner] = OUTLINE
    return result


def heat_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lays values, [H, W] in [0, 1], over an image in grey, uint8 [H, W, 3]."""
    grey = Image.fromarray(image).convert("L").convert("RGB")
    # Inferno is even in lightness: it reads the same in greyscale and for the colour-blind.
    colors = matplotlib.colormaps["inferno"](values, bytes=True)[..., :3]
    return np.array(Image.blend(grey, Image.fromarray(colors), 0.65))
