"""Finds connected areas of an anomaly map above a threshold, to reject parts by a defect's size."""

import numpy as np
import scipy.ndimage


def find(anomaly_map: np.ndarray, threshold: float, image_size: tuple[int, int]) -> list[dict]:
    """Finds the areas of a map above a threshold: pixels that touch by a side or a corner.

    Args:
      anomaly_map: [H, W] scores.
      threshold: above it a pixel is anomalous.
      image_size: the image's height and width in pixels.

    Returns:
      The areas, the one with the largest peak first: `left`, `top`, `width` and `height` of the
      smallest upright box around an area, and the number of its `pixels`, in pixels of the image,
      not of the map; and `peak` and `mean`, its largest and its mean score.
    """
    labels, _ = scipy.ndimage.label(anomaly_map > threshold, structure=np.ones([3, 3]))
    down, across = (n / side for n, side in zip(image_size, anomaly_map.shape, strict=True))
    areas = []
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(labels), 1):
        scores = anomaly_map[rows, columns][labels[rows, columns] == number]
        areas.append(
            {
                "left": columns.start * across,
                "top": rows.start * down,
                "width": (columns.stop - columns.start) * across,
                "height": (rows.stop - rows.start) * down,
                "pixels": len(scores) * down * across,
                "peak": float(scores.max()),
                "mean": float(scores.mean()),
            }
        )
    return sorted(areas, key=lambda area: -area["peak"])
