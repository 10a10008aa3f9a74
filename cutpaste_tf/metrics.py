"""Metrics of anomaly detection, as fractions in [0, 1]; scikit-learn computes them."""

from collections.abc import Sequence

import numpy as np
import sklearn.metrics


def image_auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve.

    Args:
      labels: [N], 0 for normal and 1 for anomalous.
      scores: [N] anomaly scores; higher is more anomalous.

    Returns:
      The area; None where one of the two classes is missing.
    """
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
    """AUROC of each type of defect against all normal images.

    Args:
      labels: [N], 0 for normal and 1 for anomalous.
      scores: [N] anomaly scores.
      defect_types: the N images' types of defect.

    Returns:
      The area by type, types sorted; None where there are no normal images.
    """
    labels, types = np.asarray(labels), np.asarray(defect_types)
    result = {}
    for name in sorted(set(types[labels == 1].tolist())):
        chosen = (labels == 0) | ((labels == 1) & (types == name))
        result[name] = image_auroc(labels[chosen], np.asarray(scores)[chosen])
    return result
