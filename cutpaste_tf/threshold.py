"""Verdicts from anomaly scores: thresholds that are chosen on normal images alone.

An image is anomalous where its anomaly score is above the threshold. The threshold at a
false-positive rate is a quantile of scores of normal images by densities that were fitted without
them, a run's normal_scores.csv, so it can be changed without training anything again.

Nothing here imports TensorFlow.
"""

import dataclasses
import json
import math
import os
import pathlib

import numpy as np

from cutpaste_tf import ensemble
from cutpaste_tf.errors import UserError

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


def of_run(
    run_dir: str | os.PathLike,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
) -> Threshold:
    """Finds a run's threshold.

    Args:
      run_dir: the folder of a finished run.
      threshold: takes the place of the run's.
      false_positive_rate: takes the place of the one that the run was made with.

    Returns:
      The threshold.

    Raises:
      UserError: for a value that is not allowed, or if the run has left no scores of normal images.
    """
    run_dir = pathlib.Path(run_dir)
    if threshold is not None and false_positive_rate is not None:
        raise UserError(
            f"--false_positive_rate={false_positive_rate:g}: a threshold is given already, "
            f"--threshold={threshold:g}; leave one of them out"
        )
    if threshold is not None:
        if not math.isfinite(threshold):
            raise UserError(f"--threshold={threshold}: must be a finite number")
        return Threshold(float(threshold))
    if false_positive_rate is None:
        stored = _stored(run_dir)
        if stored is not None:
            return stored
        false_positive_rate = 0.01
    elif not 0.0 < false_positive_rate < 1.0:
        raise UserError(
            f"--false_positive_rate={false_positive_rate:g}: must be above 0 and below 1"
        )
    scores = ensemble.read_normal_scores(run_dir)
    if scores is None or not len(scores):
        raise UserError(
            f"{run_dir}: has no scores of normal images to choose a threshold from (too few, or an "
            "older run); give --threshold"
        )
    return Threshold(at_rate(scores, false_positive_rate), false_positive_rate, len(scores))


def _stored(run_dir):
    """The threshold in results.json; None where there is none."""
    path = run_dir / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: there is no such file; has the run finished?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable; remove it and start the run again") from error
    names = ("threshold", "false_positive_rate", "num_normal_scores")
    values = [results.get(name) for name in names] if isinstance(results, dict) else [None]
    if None in values:
        return None
    try:
        value, rate, count = float(values[0]), float(values[1]), int(values[2])
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: holds a threshold that is no number") from error
    if not (math.isfinite(value) and 0.0 < rate < 1.0 and count > 0):
        raise UserError(f"{path}: holds a threshold that is none")
    return Threshold(value, rate, count)
