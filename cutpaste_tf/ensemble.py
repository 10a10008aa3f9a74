"""Ensembles of runs: the mean of their standardised anomaly scores (Section 4.1, Table 1).

"We further improve the AUC to 96.1 by ensembling anomaly scores from 5 CutPaste (3-way) models."
Distances of different networks have different scales, so each run's are standardised first, by mean
and deviation of what it gives normal images: the cross-validated scores of its training images. No
test image has a part in that, so an ensemble scores one image as well as many.

Nothing here imports TensorFlow.
"""

import csv
import pathlib
from collections.abc import Sequence

import numpy as np

from cutpaste_tf.errors import UserError

SCORES = "scores.csv"
NORMAL_SCORES = "normal_scores.csv"


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


def average(scores: Sequence[np.ndarray], normal_scores: Sequence[np.ndarray]) -> np.ndarray:
    """Averages the standardised scores of several runs.

    Args:
      scores: each run's [N] anomaly scores of the same images.
      normal_scores: each run's own, as in `standardize`.

    Returns:
      float64 [N].
    """
    pairs = zip(scores, normal_scores, strict=True)
    return np.mean([standardize(one, normal) for one, normal in pairs], axis=0)


def of_runs(run_dirs: Sequence[pathlib.Path]) -> tuple[np.ndarray, np.ndarray] | None:
    """Averages the scores of finished runs on the same test images.

    Args:
      run_dirs: the runs' folders.

    Returns:
      The labels, int64 [N], and the ensemble's scores, float64 [N]; None where a run has left no
      scores of normal images, or only one.

    Raises:
      UserError: if a file cannot be read, or the runs' test images differ.
    """
    scores, normal_scores, images = [], [], None
    for run_dir in map(pathlib.Path, run_dirs):
        normal = read_normal_scores(run_dir)
        if normal is None or len(normal) < 2:
            return None
        rows = _read(run_dir / SCORES, ("path", "label", "score"))
        found = [(row["path"], row["label"]) for row in rows]
        if images is not None and found != images:
            raise UserError(f"{run_dir}: was tested on other images than the runs beside it")
        images = found
        scores.append(_numbers(rows, run_dir / SCORES))
        normal_scores.append(normal)
    labels = _numbers(rows, run_dir / SCORES, "label").astype(np.int64)
    return labels, average(scores, normal_scores)


def read_normal_scores(run_dir: pathlib.Path) -> np.ndarray | None:
    """Reads the cross-validated scores of a run's normal training images.

    Args:
      run_dir: the run's folder.

    Returns:
      float64 [M]; None where the run has left none.

    Raises:
      UserError: if the file cannot be read.
    """
    path = run_dir / NORMAL_SCORES
    return _numbers(_read(path, ("path", "score")), path) if path.is_file() else None


def _read(path, columns):
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read; remove results.json beside it and start the run again"
        ) from error
    if not set(columns) <= set(reader.fieldnames or ()):
        raise UserError(f"{path}: must have the columns {', '.join(columns)}")
    return rows


def _numbers(rows, path, column="score"):
    try:
        values = np.array([float(row[column]) for row in rows], np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: holds a {column} that is no number") from error
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds a {column} that is not finite")
    return values
