"""Metrics of anomaly detection, as fractions in [0, 1]."""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import sklearn.metrics


def image_auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve.

    Args:
      labels: [N], 0 for normal and 1 for anomalous.
      scores: [N] anomaly scores; higher is more anomalous.

    Returns:
      The area; None if one of the two classes is missing.
    """
    if len(np.unique(labels)) < 2:
        return None
    return float(sklearn.metrics.roc_auc_score(labels, scores))


def image_ap(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Average precision, with the anomalous images as positives; None as in `image_auroc`."""
    if len(np.unique(labels)) < 2:
        return None
    return float(sklearn.metrics.average_precision_score(labels, scores))


def f1_max(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float] | None:
    """The largest F1 score that any threshold reaches, and that threshold, chosen by the labels.

    Args:
      labels: [N], 0 for normal and 1 for anomalous.
      scores: [N] anomaly scores.

    Returns:
      F1 and the threshold, which lies midway between two scores: images above it are anomalous.
      None if one of the two classes is missing.
    """
    if len(np.unique(labels)) < 2:
        return None
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(labels, scores)
    f1 = 2.0 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))  # the last point has no threshold
    lowest = thresholds[best]
    below = np.asarray(scores, np.float64)[np.asarray(scores) < lowest]
    threshold = (lowest + below.max()) / 2.0 if len(below) else np.nextafter(lowest, -np.inf)
    # The midpoint of two neighbouring floats is one of them.
    return float(f1[best]), float(min(threshold, np.nextafter(lowest, -np.inf)))


def auroc_by_defect_type(
    labels: np.ndarray, scores: np.ndarray, defect_types: Sequence[str]
) -> dict[str, float | None]:
    """AUROC of each type of defect against all normal images.

    Args:
      labels: [N], 0 for normal and 1 for anomalous.
      scores: [N] anomaly scores.
      defect_types: the N images' types of defect.

    Returns:
      The area by type, types sorted; None if there are no normal images.
    """
    labels, types = np.asarray(labels), np.asarray(defect_types)
    result = {}
    for name in sorted(set(types[labels == 1].tolist())):
        compared = (labels == 0) | ((labels == 1) & (types == name))
        result[name] = image_auroc(labels[compared], np.asarray(scores)[compared])
    return result


_BINS = 2**25  # a bin's scores have the same sign, exponent and 16 bits after these


class PixelScores:
    """Pixel AUROC, average precision and AUPRO of anomaly maps that come one at a time.

    Exact metrics take four bytes for each normal pixel, for a moment eight, and about 80 for each
    anomalous one during the computation: 1,000 maps of 256 x 256 take 0.6 GB, and 0.8 GB if a tenth
    of all pixels is anomalous.

    Otherwise pixels are counted in bins, which take some megabytes as a rule and 0.8 GB at most.
    The scores in a bin differ by at most 0.0015% and count as equal. AUROC's error is at most half
    the share of pairs of a normal and an anomalous pixel that are in the same bin; AUPRO's is that
    divided by its limit, with each region weighted alike. If scores have a standard deviation of a
    tenth of their mean, one pair in 30,000 is in the same bin: errors of 0.00002 and 0.00006.

    Args:
      exact: whether to keep every score.
    """

    def __init__(self, exact: bool = True):
        self._normal, self._anomalous, self._weights = [], [], []
        self._regions = 0
        # Each bin's normal pixels, anomalous ones and their weights. The operating system gives
        # memory only to bins that are used.
        self._bins = None if exact else np.zeros([3, _BINS])

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
        normal, anomalous = scores[~mask if region is None else region & ~mask], scores[mask]
        if self._bins is None:
            self._normal.append(normal)
            self._anomalous.append(anomalous)
            self._weights.append(weights)
            return
        anomalous = _bins_of(anomalous)
        np.add.at(self._bins[0], _bins_of(normal), 1.0)
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
        normal, above, at_least, hits, overlap = (
            self._sorted() if self._bins is None else self._binned()
        )
        if not normal or not hits.any():
            return {"pixel_auroc": None, "pixel_ap": None, "pixel_aupro": None}
        new_hits = np.diff(hits, prepend=0)
        # A pair of a normal and an anomalous pixel with the same score counts half.
        wrong = (int(new_hits @ above) + int(new_hits @ at_least)) / 2.0
        average_precision = float(new_hits @ (hits / (hits + at_least))) / int(hits[-1])
        del new_hits
        # AUPRO needs no threshold after the first that passes the limit.
        used = np.searchsorted(above, limit * normal, "right") + 1
        rates = above[:used] / normal, at_least[:used] / normal
        return {
            "pixel_auroc": 1.0 - wrong / (int(hits[-1]) * normal),
            "pixel_ap": average_precision,
            "pixel_aupro": _area_up_to(limit, *rates, overlap[:used] / self._regions),
        }

    # Both return the number of normal pixels and, at falling thresholds, how many of them are above
    # the threshold, how many reach it, how many anomalous pixels reach it, and their weights' sum.

    def _sorted(self):
        # One array replaces the images' own, to free their memory; the order does not matter.
        parts = self._normal, self._anomalous, self._weights
        for part in parts:
            part[:] = [np.concatenate(part or [np.zeros([0], np.float32)])]
        (normal,), (scores,), (weights,) = parts
        normal.sort()
        order = np.argsort(-scores, kind="stable")
        scores, weights = scores[order], weights[order]
        del order
        # Recall and overlap rise only at thresholds that are scores of anomalous pixels.
        last = np.flatnonzero(scores != np.append(scores[1:], np.float32(np.nan)))
        thresholds = scores[last]
        overlap = np.cumsum(weights, out=weights)[last]
        del scores, weights
        above, at_least = (
            len(normal) - np.searchsorted(normal, thresholds, side) for side in ("right", "left")
        )
        return len(normal), above, at_least, last + 1, overlap

    def _binned(self):
        bins = self._bins[:, np.flatnonzero(self._bins.any(axis=0))[::-1]]
        at_least, hits, overlap = np.cumsum(bins, axis=1)
        return int(at_least.max(initial=0.0)), at_least - bins[0], at_least, hits, overlap


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
    inside = rates < limit
    at_limit = np.interp(limit, rates, heights)
    rates, heights = np.append(rates[inside], limit), np.append(heights[inside], at_limit)
    return float(sklearn.metrics.auc(rates, heights) / limit)
