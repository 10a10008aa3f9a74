"""Verdicts from anomaly scores: thresholds by normal images' scores alone, drift, and ensembles.

The threshold at a false-positive rate is a quantile of normal images' scores by densities that were
fitted without them (a run's normal_scores.csv), so that it can be changed without any training.
Images that stand out among the normal ones, such as a bad part that has slipped in, would put it
above most defects; the rule "robust" leaves them out, and "conformal" does not.

An ensemble's score is the mean of its runs' standardised scores (Section 4.1, Table 1: "We further
improve the AUC to 96.1 by ensembling anomaly scores from 5 CutPaste (3-way) models"). No test image
has a part in the standardising, so an ensemble scores one image as well as many.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from cutpaste_tf.files import UserError

VERDICTS = ("normal", "anomalous")
RATES = (0.01, 0.02, 0.05, 0.10)  # the false-positive rates that every run tells the thresholds of


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold, above which scores are anomalous.

    One by the scores of normal images has the share of them that is to be above it, in (0, 1), and
    their number; one that was given has neither. `median` is that of the normal images' scores,
    where there are any.
    """

    value: float
    false_positive_rate: float | None = None
    num_normal: int | None = None
    median: float | None = None

    def __post_init__(self):
        rate, count = self.false_positive_rate, self.num_normal
        numbers = [self.value] if rate is count is None else [self.value, rate, count]
        numbers += [] if self.median is None else [self.median]
        if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
            raise ValueError("a threshold's numbers are finite")
        if rate is not None and not (0.0 < rate < 1.0 and count > 0):
            raise ValueError("a threshold's rate is in (0, 1), of some normal images")

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

    def relative(self, scores: float | np.ndarray) -> float | np.ndarray | None:
        """Returns scores, a number or an array, with 0 at the normal median and 1 at the threshold.

        None where there are no normal scores, or the threshold is not above their median.
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
    """Chooses a given threshold, or one by the scores of normal images, [n], or the recorded one.

    Messages name the `source` of the scores, such as a run's folder; the rule is as in `counted`.
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
    """Makes the threshold at a false-positive rate by the scores of normal images, [n], n >= 1."""
    scores = counted(normal_scores, rule)
    value = at_rate(scores, false_positive_rate)
    return Threshold(value, false_positive_rate, len(scores), _median(normal_scores))


def counted(normal_scores: np.ndarray, rule: str) -> np.ndarray:
    """Returns the scores that thresholds are chosen by: all, or all but the odd ones.

    Args:
      normal_scores: [n], of normal images by densities fitted without them.
      rule: "robust" leaves out those that `odd` finds; "conformal" takes all of them, with which a
        false-positive rate is kept wherever new normal images are like these.
    """
    return np.delete(normal_scores, odd(normal_scores)) if rule == "robust" else normal_scores


def _median(scores):
    return float(np.median(scores)) if len(scores) else None


def at_rate(normal_scores: np.ndarray, false_positive_rate: float) -> float:
    """Finds the threshold that a share of normal images, in (0, 1), is above.

    Of the scores of n >= 1 normal images that the density was not fitted to, it is the
    ceil((n + 1) (1 - rate))-th smallest, as in split conformal prediction: where a new normal
    image's score has each rank among them with the same probability, it is above with at most that
    rate. At rates below `smallest_rate` it is the largest score.
    """
    scores = np.sort(np.asarray(normal_scores, np.float64))
    # Rounding may have put a whole number just above itself.
    rank = math.ceil((len(scores) + 1) * (1.0 - false_positive_rate) - 1e-9)
    return float(scores[min(max(rank, 1), len(scores)) - 1])


def smallest_rate(count: int) -> float:
    """Returns the smallest false-positive rate that `count` normal scores can vouch for."""
    return 1.0 / (count + 1)


def odd(normal_scores: np.ndarray) -> np.ndarray:
    """Finds which of normal images' scores, [n], stand out: indices, int [m], the worst first.

    They are above Tukey's outer fence, three interquartile ranges over the upper quartile. As
    scores have a longer tail above than below, the range is twice its upper half.
    """
    if not len(normal_scores):
        return np.zeros([0], np.int64)
    median, upper = np.quantile(normal_scores, [0.5, 0.75])
    order = np.argsort(-normal_scores, kind="stable")
    return order[normal_scores[order] > upper + 6.0 * (upper - median)]


class Drift:
    """Whether images as a whole are unlike those trained on: another lamp, camera or material.

    Defects raise the scores of some images and drift those of nearly all, so the lower half of the
    latest scores is compared with the normal ones, by the Mann-Whitney test. As long as half of the
    images are good, whatever the others are, it is a false alarm each time with a probability of at
    most 0.01, and of next to nothing where most are good.

    Args:
      normal_scores: [M], of normal images by densities fitted without them; maybe none.
    """

    WINDOW, FEWEST = 50, 20  # the latest scores are so many
    _LIMIT = statistics.NormalDist().inv_cdf(0.99)
    ADVICE = (
        "images as a whole are unlike those trained on: another lamp, camera or material? If they "
        "are good, refit --add takes them in"
    )

    def __init__(self, normal_scores: np.ndarray):
        self._normal = np.sort(normal_scores)
        self._latest = collections.deque(maxlen=self.WINDOW)

    def add(self, score: float) -> bool | None:
        """Takes the score of a further image; returns whether there is drift, None if too early."""
        self._latest.append(score)
        if not len(self._normal) or len(self._latest) < self.FEWEST:
            return None
        lower = np.sort(self._latest)[: (len(self._latest) + 1) // 2]
        above = np.searchsorted(self._normal, lower).sum()  # of all pairs with a normal score
        pairs = len(lower) * len(self._normal)
        deviation = math.sqrt(pairs * (len(lower) + len(self._normal) + 1) / 12.0)
        return bool(above - pairs / 2.0 > self._LIMIT * deviation)


def ensemble(scores: Sequence[np.ndarray], normal_scores: Sequence[np.ndarray]) -> np.ndarray:
    """Averages the scores of several runs, standardised by each one's scores of normal images.

    Args:
      scores: each run's [N] negative log densities of the same images, up to a constant.
      normal_scores: each run's [n], n >= 2, cross-validated, of its normal training images.

    Returns:
      float64 [N].
    """
    standardized = []
    for tested, normal in zip(scores, normal_scores, strict=True):
        deviation = max(float(np.std(normal, ddof=1)), 1e-12 * abs(float(np.mean(normal))))
        standardized.append((tested - np.mean(normal)) / (deviation or 1.0))
    return np.mean(standardized, axis=0)
