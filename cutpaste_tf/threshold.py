"""Verdicts from anomaly scores: thresholds, drift, and ensembles.

The threshold at a false-positive rate is a quantile of the scores of normal images. Each of these
images was scored by a density that was fitted without it (a run's normal_scores.csv), so another
threshold needs no training. A few images that stand out, such as bad parts among the good ones,
can raise the threshold above most defects. The rule "robust" leaves such images out; the rule
"conformal" takes all images.

An ensemble's score is the mean of its runs' standardised scores (Section 4.1, Table 1: "We further
improve the AUC to 96.1 by ensembling anomaly scores from 5 CutPaste (3-way) models"). Only normal
training images standardise the scores, so an ensemble can score a single image.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from cutpaste_tf.files import UserError

VERDICTS = ("normal", "anomalous")
RATES = (0.01, 0.02, 0.05, 0.10)  # the false-positive rates of the thresholds that a run prints


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold: an image with a higher score is anomalous.

    Attributes:
      value: the threshold, in units of the anomaly score.
      false_positive_rate: the share of normal images above it, in (0, 1); None if the user gave the
        value.
      num_normal: the number of normal images that chose the value; None if the user gave it.
      median: of the normal images' scores; None if there are none.
    """

    value: float
    false_positive_rate: float | None = None
    num_normal: int | None = None
    median: float | None = None

    def __post_init__(self):
        rate, count = self.false_positive_rate, self.num_normal
        numbers = [self.value] if rate is None and count is None else [self.value, rate, count]
        numbers += [] if self.median is None else [self.median]
        if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
            raise ValueError("a threshold needs finite numbers")
        if rate is not None and not (0.0 < rate < 1.0 and count > 0):
            raise ValueError("a threshold needs a rate in (0, 1), and a normal image")

    def __str__(self) -> str:
        if self.false_positive_rate is None:
            return f"{self.value:.6g} (given)"
        least = smallest_rate(self.num_normal)
        note = f", too few for rates below {least:.2g}" if self.false_positive_rate < least else ""
        return (
            f"{self.value:.6g} (false-positive rate {self.false_positive_rate:g}, from the scores "
            f"of {self.num_normal} normal images{note})"
        )

    def verdicts(self, scores: np.ndarray) -> list[str]:
        """Returns "anomalous" for each score above the threshold, "normal" for the others."""
        return [VERDICTS[int(score > self.value)] for score in scores]

    def relative(self, scores: float | np.ndarray) -> float | np.ndarray | None:
        """Returns scores rescaled to 0 at the median of normal images and 1 at the threshold.

        Returns None if there are no normal scores, or the threshold is not above their median.
        """
        if self.median is None or self.value <= self.median:
            return None
        return (scores - self.median) / (self.value - self.median)


def choose(
    recorded: Threshold | None,
    normal_scores: np.ndarray,
    source: str,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    rule: str = "robust",
) -> Threshold:
    """Chooses the threshold for verdicts.

    Args:
      recorded: the run's own threshold, which is the default.
      normal_scores: [n], of normal images by densities fitted without them; may be empty.
      source: what messages name, such as a run's folder.
      threshold: a value that replaces the run's.
      false_positive_rate: in (0, 1), replaces the run's.
      rule: as in `without_odd`.

    Returns:
      The threshold.

    Raises:
      UserError: if both replacements are given, or there are no scores to choose by.
    """
    if threshold is not None and false_positive_rate is not None:
        raise UserError("--threshold and --false_positive_rate: leave one of them out")
    if threshold is not None:
        return Threshold(float(threshold), median=_median(normal_scores))
    if false_positive_rate is None and recorded is not None:
        return dataclasses.replace(recorded, median=_median(normal_scores))
    if false_positive_rate is None or not len(normal_scores):
        raise UserError(f"{source}: has no scores of normal images; give --threshold")
    return by_normal(normal_scores, false_positive_rate, rule)


def by_normal(
    normal_scores: np.ndarray, false_positive_rate: float, rule: str = "robust"
) -> Threshold:
    """Chooses the threshold at a false-positive rate by the scores of normal images, [n], n >= 1.

    The rule is as in `without_odd`.
    """
    scores = without_odd(normal_scores, rule)
    value = at_rate(scores, false_positive_rate)
    return Threshold(value, false_positive_rate, len(scores), _median(normal_scores))


def without_odd(normal_scores: np.ndarray, rule: str) -> np.ndarray:
    """Returns the scores that thresholds are chosen by.

    Args:
      normal_scores: [n], of normal images by densities fitted without them.
      rule: "robust" leaves out the scores that `odd` finds. "conformal" takes all scores; then the
        false-positive rate holds wherever new normal images are like these.
    """
    return np.delete(normal_scores, odd(normal_scores)) if rule == "robust" else normal_scores


def _median(scores):
    return float(np.median(scores)) if len(scores) else None


def at_rate(normal_scores: np.ndarray, false_positive_rate: float) -> float:
    """Finds the threshold that a share of normal images, in (0, 1), is above.

    The threshold is the ceil((n + 1) (1 - rate))-th smallest of n >= 1 scores, as in split
    conformal prediction. If the score of a new normal image has each rank among these with the
    same probability, the score is above the threshold with at most this rate. At rates below
    `smallest_rate` the threshold is the largest score.
    """
    scores = np.sort(np.asarray(normal_scores, np.float64))
    # Rounding may lift a whole number, which ceil would take to the next one.
    rank = math.ceil((len(scores) + 1) * (1.0 - false_positive_rate) - 1e-9)
    return float(scores[min(max(rank, 1), len(scores)) - 1])


def smallest_rate(count: int) -> float:
    """Returns the smallest false-positive rate that `count` normal scores can guarantee."""
    return 1.0 / (count + 1)


def odd(normal_scores: np.ndarray) -> np.ndarray:
    """Finds the scores of normal images, [n], that stand out: indices, int [m], the highest first.

    These scores are above Tukey's outer fence: the upper quartile plus three interquartile ranges.
    As scores have a longer tail above than below, twice the upper half of the range is taken.
    """
    if not len(normal_scores):
        return np.zeros([0], np.int64)
    median, upper = np.quantile(normal_scores, [0.5, 0.75])
    order = np.argsort(-normal_scores, kind="stable")
    return order[normal_scores[order] > upper + 6.0 * (upper - median)]


class Drift:
    """Whether images as a whole are unlike the training images: another lamp, camera or material.

    Defects raise the scores of some images; drift raises the scores of nearly all. So the
    Mann-Whitney test compares the lower half of the latest scores with the scores of normal images.
    If at least half of the images are good, each test gives a false alarm with a probability of at
    most 0.01.

    Args:
      normal_scores: [M], of normal images by densities fitted without them; may be empty.
    """

    WINDOW, FEWEST = 50, 20  # how many of the latest scores are compared, at most and at least
    _LIMIT = statistics.NormalDist().inv_cdf(0.99)
    ADVICE = (
        "images as a whole are unlike the training images: another lamp, camera or material? If "
        "they are good, add them by refit --add"
    )

    def __init__(self, normal_scores: np.ndarray):
        self._normal = np.sort(normal_scores)
        self._latest = collections.deque(maxlen=self.WINDOW)

    def add(self, score: float) -> bool | None:
        """Takes the score of the next image; returns whether there is drift, None if too early."""
        self._latest.append(score)
        if not len(self._normal) or len(self._latest) < self.FEWEST:
            return None
        lower = np.sort(self._latest)[: (len(self._latest) + 1) // 2]
        # The number of pairs in which the normal score is the lower one.
        above = np.searchsorted(self._normal, lower).sum()
        pairs = len(lower) * len(self._normal)
        deviation = math.sqrt(pairs * (len(lower) + len(self._normal) + 1) / 12.0)
        return bool(above - pairs / 2.0 > self._LIMIT * deviation)


def ensemble(scores: Sequence[np.ndarray], normal_scores: Sequence[np.ndarray]) -> np.ndarray:
    """Averages the scores of several runs, standardised by each run's scores of normal images.

    Args:
      scores: each run's negative log densities, [N], of the same images, up to a constant.
      normal_scores: each run's cross-validated scores, [n] with n >= 2, of its training images.

    Returns:
      float64 [N].
    """
    standardized = []
    for tested, normal in zip(scores, normal_scores, strict=True):
        deviation = max(float(np.std(normal, ddof=1)), 1e-12 * abs(float(np.mean(normal))))
        standardized.append((tested - np.mean(normal)) / (deviation or 1.0))
    return np.mean(standardized, axis=0)
