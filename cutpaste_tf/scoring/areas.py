"""Finds connected areas of an anomaly map above a threshold, to reject parts by a defect's size."""

import dataclasses

import numpy as np
import scipy.ndimage


@dataclasses.dataclass(frozen=True)
class Area:
    """Pixels of an anomaly map above a threshold that touch by a side or a corner.

    `left`, `top`, `width` and `height` are the smallest upright box around them, `pixels` is their
    number, and `peak` and `mean` are their largest and their mean score. Positions and sizes are in
    pixels of the original image, not of the map.
    """

    left: float
    top: float
    width: float
    height: float
    pixels: float
    peak: float
    mean: float


def find(anomaly_map: np.ndarray, threshold: float, image_size: tuple[int, int]) -> list[Area]:
    """Finds the areas of a map above a threshold.

    Args:
      anomaly_map: [H, W] scores.
      threshold: above it a pixel is anomalous.
      image_size: the image's height and width in pixels.

    Returns:
      The areas, the one with the largest peak first.
    """
    labels, _ = scipy.ndimage.label(anomaly_map > threshold, structure=np.ones([3, 3]))
    down, across = (n / side for n, side in zip(image_size, anomaly_map.shape, strict=True))
    areas = []
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(labels), 1):
        scores = anomaly_map[rows, columns][labels[rows, columns] == number]
        areas.append(
            Area(
                left=columns.start * across,
                top=rows.start * down,
                width=(columns.stop - columns.start) * across,
                height=(rows.stop - rows.start) * down,
                pixels=len(scores) * down * across,
                peak=float(scores.max()),
                mean=float(scores.mean()),
            )
        )
    return sorted(areas, key=lambda area: -area.peak)
