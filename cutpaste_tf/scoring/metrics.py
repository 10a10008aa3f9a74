"""Metrics of anomaly detection, as fractions in [0, 1]."""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import sklearn.metrics


def image_auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve of labels, [N] of 0 and 1, and scores, [N]; None for one class."""
    if len(np.unique(labels)) < 2:
        return None
    return float(sklearn.metrics.roc_auc_score(labels, scores))


def image_ap(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Average precision, with the anomalous images as positives; None as in `image_auroc`."""
    if len(np.unique(labels)) < 2:
        return None
    return float(sklearn.metrics.average_precision_score(labels, scores))


def auroc_by_defect_type(
    labels: np.ndarray, scores: np.ndarray, defect_types: Sequence[str]
) -> dict[str, float | None]:
    """AUROC of each type of defect, types sorted, against all normal images; None without these."""
    labels, types = np.asarray(labels), np.asarray(defect_types)
    result = {}
    for name in sorted(set(types[labels == 1].tolist())):
        compared = (labels == 0) | ((labels == 1) & (types == name))
        result[name] = image_auroc(labels[compared], np.asarray(scores)[compared])
    return result


PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_aupro")
_BINS = 2**25  # a bin's scores have the same sign, exponent and 16 bits after these


class PixelScores:
    """Pixel AUROC, average precision and AUPRO of anomaly maps that come one at a time.

    Pixels are counted in bins, which take some megabytes as a rule and 0.8 GB at most. The scores
    in a bin differ by at most 0.0015% and count as equal. AUROC's error is at most half the share
    of pairs of a normal and an anomalous pixel that are in the same bin; AUPRO's is that divided by
    its limit, with each region weighted alike. If scores have a standard deviation of a tenth of
    their mean, one pair in 30,000 is in the same bin: errors of 0.00002 and 0.00006.
    """

    def __init__(self):
        self._regions = 0
        # Each bin's normal pixels, anomalous ones and their weights. The operating system gives
        # memory only to bins that are used.
        self._bins = np.zeros([3, _BINS])

    def add(
        self, anomaly_map: np.ndarray, mask: np.ndarray, region: np.ndarray | None = None
    ) -> None:
        """Adds an image.

        Args:
          anomaly_map: [H, W], the pixels' anomaly scores; kept as float32.
          mask: bool [H, W], True on defects. Its 8-connected parts are AUPRO's regions.
          region: bool [H, W], the pixels that count; None: all.

        Raises:
          ValueError: if the shapes differ or a score is not finite.
        """
        scores, mask = np.asarray(anomaly_map, np.float32), np.asarray(mask, bool)
        if scores.shape != mask.shape or scores.ndim != 2:
            raise ValueError(f"map and mask must be [H, W], not {scores.shape} and {mask.shape}")
        if not np.isfinite(scores).all():
            raise ValueError("an anomaly map must be finite")
        if region is not None:
            mask = mask & region
        regions, count = scipy.ndimage.label(mask, structure=np.ones([3, 3]))
        regions = regions[mask]
        weights = 1.0 / np.bincount(regions)[regions]
        self._regions += count
        normal = ~mask if region is None else region & ~mask
        anomalous = _bins_of(scores[mask])
        np.add.at(self._bins[0], _bins_of(scores[normal]), 1.0)
        np.add.at(self._bins[1], anomalous, 1.0)
        np.add.at(self._bins[2], anomalous, weights)

    def compute(self, limit: float = 0.3) -> dict[str, float | None]:
        """Computes the metrics of all images added so far.

        Args:
          limit: the largest false positive rate that AUPRO counts (0.3 in Bergmann et al., IJCV
            2021).

        Returns:
          `pixel_auroc`, the area under the ROC curve of all pixels; `pixel_ap`, average precision;
          `pixel_aupro`, the area under the curve of the regions' mean overlap over the false
          positive rate, up to the limit and divided by it. None if there are no anomalous or no
          normal pixels.
        """
        used = np.flatnonzero(self._bins[:2].any(axis=0))[::-1]
        normal, anomalous, weights = self._bins[:, used]
        if not normal.any() or not anomalous.any():
            return dict.fromkeys(PIXEL_METRICS)
        # For each threshold, from the highest to the lowest: how many normal and anomalous pixels
        # reach it, and the sum of the latter's weights.
        reaching, hits, overlap = np.cumsum([normal, anomalous, weights], axis=1)
        above = reaching - normal
        # A pair of a normal and an anomalous pixel in the same bin counts half.
        wrong = anomalous @ (above + reaching) / 2.0
        average_precision = anomalous @ (hits / (hits + reaching)) / hits[-1]
        # AUPRO needs no threshold after the first that passes the limit.
        count = np.searchsorted(above, limit * reaching[-1], "right") + 1
        rates = above[:count] / reaching[-1], reaching[:count] / reaching[-1]
        return {
            "pixel_auroc": float(1.0 - wrong / (hits[-1] * reaching[-1])),
            "pixel_ap": float(average_precision),
            "pixel_aupro": _area_up_to(limit, *rates, overlap[:count] / self._regions),
        }


def _bins_of(scores):
    """The bins of float32 scores, in the scores' order."""
    bits = (scores + 0.0).view(np.int32)  # 0 and -0 get the same bits
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 7) + _BINS // 2


def _area_up_to(limit, before, after, overlap):
    """Area under a curve that at each threshold rises on a line from `before` to `after`.

    Between thresholds the curve is level. All are in the order of falling thresholds.
    """
    rates = np.concatenate([[0.0], np.stack([before, after], axis=1).ravel(), [1.0]])
    reached = np.concatenate([[0.0], overlap])
    heights = np.concatenate([[0.0], np.stack([reached[:-1], reached[1:]], axis=1).ravel(), [1.0]])
    # The first rate that reaches the limit: where the curve jumps there, its lower end counts.
    end = np.searchsorted(rates, limit) + 1
    rates, heights = rates[:end], heights[:end]
    heights[-1] = np.interp(limit, rates, heights)
    rates[-1] = limit
    return float(sklearn.metrics.auc(rates, heights) / limit)
