"""Verdicts from anomaly scores: thresholds that are chosen on normal images alone.

An image is anomalous where its anomaly score is above the threshold. The threshold at a
false-positive rate is a quantile of scores of normal images by densities that were fitted without
them, a run's normal_scores.csv, so it can be changed without training anything again.

Nothing here imports TensorFlow.
"""

import dataclasses
import math

import numpy as np

VERDICTS = ("normal", "anomalous")


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold and where it comes from.

    Attributes:
      value: scores above it are anomalous.
      false_positive_rate: the share of normal images that is to be above it, in (0, 1); None where
        the value was given.
      num_normal: the normal images that it is from; None where the value was given.
    """

    value: float
    false_positive_rate: float | None = None
    num_normal: int | None = None

    def __str__(self) -> str:
        if self.false_positive_rate is None:
            return f"{self.value:.6g} (given)"
        least = smallest_rate(self.num_normal)
        note = f", which vouch for {least:.2g} at best" if self.false_positive_rate < least else ""
        return (
            f"{self.value:.6g} (false-positive rate {self.false_positive_rate:g}, from the scores "
            f"of {self.num_normal} normal images{note})"
        )

    def verdicts(self, scores: np.ndarray) -> list[str]:
        """Returns "anomalous" for each score above the threshold, "normal" for the others."""
        return [VERDICTS[int(score > self.value)] for score in scores]


def at_rate(normal_scores: np.ndarray, false_positive_rate: float) -> float:
    """Finds the threshold that a share of normal images is above.

    Of n normal scores it is the ceil((n + 1) (1 - rate))-th smallest, as in split conformal
    prediction: for a new normal image whose score is as likely to have any rank among them as any
    other, the chance to be above is at most the rate. Where that is more than n, which is at rates
    below `smallest_rate`, it is the largest one.

    Args:
      normal_scores: [n] anomaly scores of normal images that the density was not fitted to; n >= 1.
      false_positive_rate: in (0, 1).

    Returns:
      The threshold, one of the scores.

    Raises:
      ValueError: if there are no scores or the rate is not in (0, 1).
    """
    scores = np.sort(np.asarray(normal_scores, np.float64))
    if not len(scores):
        raise ValueError("a threshold needs scores of normal images")
    if not 0.0 < false_positive_rate < 1.0:
        raise ValueError(f"a false-positive rate must be in (0, 1), not {false_positive_rate}")
    # Less a hair: what rounding put just above a whole number is that number.
    rank = math.ceil((len(scores) + 1) * (1.0 - false_positive_rate) - 1e-9)
    return float(scores[min(max(rank, 1), len(scores)) - 1])


def smallest_rate(count: int) -> float:
    """Returns the smallest false-positive rate that `count` normal scores can vouch for."""
    return 1.0 / (count + 1)
