"""Ensembles of runs: the mean of their standardised anomaly scores (Section 4.1, Table 1).

"We further improve the AUC to 96.1 by ensembling anomaly scores from 5 CutPaste (3-way) models."
What is added is Equation 2's negative log density: half the squared distance, where a run's scores
are distances. Those of different networks have different scales, so each run's are standardised
first, by mean and deviation of what it gives normal images: the cross-validated scores of its
training images. No test image has a part in that, so an ensemble scores one image as well as many.

Nothing here imports TensorFlow.
"""

from collections.abc import Sequence

import numpy as np


def standardize(scores: np.ndarray, normal_scores: np.ndarray) -> np.ndarray:
    """Brings a run's anomaly scores to the scale of normal images.

    Args:
      scores: [N] anomaly scores.
      normal_scores: [M] cross-validated scores of the run's normal training images; at least 2.

    Returns:
      float64 [N]: the scores less the mean of the normal ones, in units of their deviation.

    Raises:
      ValueError: if there are fewer than two normal scores.
    """
    normal_scores = np.asarray(normal_scores, np.float64)
    if len(normal_scores) < 2:
        raise ValueError("at least two normal scores are needed")
    deviation = max(float(normal_scores.std(ddof=1)), 1e-12 * abs(float(normal_scores.mean())))
    return (np.asarray(scores, np.float64) - normal_scores.mean()) / (deviation or 1.0)


def negative_log_density(distances: np.ndarray) -> np.ndarray:
    """Returns Equation 2's negative log density of Mahalanobis distances, up to a constant."""
    return 0.5 * np.square(distances)


def average(scores: Sequence[np.ndarray], normal_scores: Sequence[np.ndarray]) -> np.ndarray:
    """Averages the standardised negative log densities of several runs.

    Args:
      scores: each run's [N] negative log densities of the same images, up to a constant.
      normal_scores: each run's own of normal images, as in `standardize`.

    Returns:
      float64 [N].
    """
    pairs = zip(scores, normal_scores, strict=True)
    return np.mean([standardize(one, normal) for one, normal in pairs], axis=0)
