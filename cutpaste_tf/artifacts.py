"""A finished run's folder, as whoever uses the run reads it: results, scores, threshold, checksums.

Nothing here imports TensorFlow.
"""

import csv
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cutpaste_tf import ensemble
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.choices import GAUSSIANS
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold

# The files in a run's folder.
BACKBONE_WEIGHTS = "checkpoints/backbone.weights.h5"
PRETRAINED_WEIGHTS = "checkpoints/pretrained.weights.h5"  # with --keep_pretrained
HEAD_WEIGHTS = "checkpoints/head.weights.h5"
DENSITY = "density.npz"
MAP_DENSITY = "map_density.npz"  # with --maps=features
ROI = "roi.png"  # with --roi
NORMAL_SCORES = "normal_scores.csv"
SCORES = "scores.csv"
RESULTS = "results.json"  # written last: its presence means that the run is finished
# What scoring depends on, besides the settings.
_SUMMED = (BACKBONE_WEIGHTS, PRETRAINED_WEIGHTS, DENSITY, MAP_DENSITY, ROI, NORMAL_SCORES)


def read_results(run_dir: str | os.PathLike) -> dict:
    """Reads a finished run's results.json.

    Args:
      run_dir: the run's folder.

    Returns:
      The results.

    Raises:
      UserError: if the run is not finished, or the file cannot be read.
    """
    path = pathlib.Path(run_dir) / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: there is no such file; has the run finished?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not readable as a run's results; remove it and start the run again to have "
            "it evaluated"
        ) from error
    if not isinstance(results, dict):
        raise UserError(f"{path}: not readable as a run's results; it must hold a JSON object")
    return results


def read_normal_scores(run_dir: str | os.PathLike) -> np.ndarray | None:
    """Reads the cross-validated scores of a run's normal training images.

    Args:
      run_dir: the run's folder.

    Returns:
      float64 [M]; None where the run has left none.

    Raises:
      UserError: if the file cannot be read.
    """
    path = pathlib.Path(run_dir) / NORMAL_SCORES
    return _numbers(_read_csv(path, ("path", "score")), path) if path.is_file() else None


def ensemble_scores(run_dirs: Sequence[str | os.PathLike]) -> tuple[np.ndarray, np.ndarray] | None:
    """Averages the negative log densities of the same test images by finished runs.

    Args:
      run_dirs: the runs' folders.

    Returns:
      The labels, int64 [N], and the ensemble's scores, float64 [N]; None where a run has left no
      scores of normal images, or only one.

    Raises:
      UserError: if a file cannot be read, or the runs' test images differ.
    """
    scores, normal_scores, first_images = [], [], None
    for run_dir in map(pathlib.Path, run_dirs):
        normal = read_normal_scores(run_dir)
        if normal is None or len(normal) < 2:
            return None
        rows = _read_csv(run_dir / SCORES, ("path", "label", "score"))
        images = [(row["path"], row["label"]) for row in rows]
        if first_images is not None and images != first_images:
            raise UserError(f"{run_dir}: was tested on other images than the runs beside it")
        first_images = images
        run_scores = _numbers(rows, run_dir / SCORES)
        config = Config.load(run_dir)
        # What --image_score=both makes is no distance, and may be below zero.
        if config.main_density in GAUSSIANS and config.image_score != "both":
            run_scores, normal = map(ensemble.negative_log_density, (run_scores, normal))
        scores.append(run_scores)
        normal_scores.append(normal)
    labels = _numbers(rows, run_dir / SCORES, "label").astype(np.int64)
    return labels, ensemble.average(scores, normal_scores)


def choose_threshold(
    run_dir: str | os.PathLike,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
) -> Threshold:
    """Finds a run's threshold, or another in its place.

    Args:
      run_dir: the folder of a finished run.
      threshold: takes the place of the run's.
      false_positive_rate: takes the place of the one that the run was made with.

    Returns:
      The threshold.

    Raises:
      UserError: for a value that is not allowed, or if the run has left no scores of normal images.
    """
    given = given_threshold(threshold, false_positive_rate)
    if given is not None:
        return given
    if false_positive_rate is None:
        recorded = _recorded_threshold(pathlib.Path(run_dir))
        if recorded is not None:
            return recorded
        false_positive_rate = 0.01
    return threshold_at_rate(read_normal_scores(run_dir), false_positive_rate, str(run_dir))


def given_threshold(threshold: float | None, false_positive_rate: float | None) -> Threshold | None:
    """Checks --threshold and --false_positive_rate, of which one may be given.

    Returns:
      The threshold that is given; None where it is to be found.

    Raises:
      UserError: for a value that is not allowed, or if both are given.
    """
    if threshold is not None and false_positive_rate is not None:
        raise UserError(
            f"--false_positive_rate={false_positive_rate:g}: a threshold is given already, "
            f"--threshold={threshold:g}; leave one of them out"
        )
    if threshold is not None:
        if not math.isfinite(threshold):
            raise UserError(f"--threshold={threshold}: must be a finite number")
        return Threshold(float(threshold))
    if false_positive_rate is not None and not 0.0 < false_positive_rate < 1.0:
        raise UserError(
            f"--false_positive_rate={false_positive_rate:g}: must be above 0 and below 1"
        )
    return None


def threshold_at_rate(
    normal_scores: np.ndarray | None, false_positive_rate: float, source: str
) -> Threshold:
    """Finds the threshold that a share of normal images is above.

    Args:
      normal_scores: [n] their scores; None where there are none.
      false_positive_rate: the share, in (0, 1).
      source: what has the scores, for a message.

    Returns:
      The threshold.

    Raises:
      UserError: if there are no scores.
    """
    if normal_scores is None or not len(normal_scores):
        raise UserError(
            f"{source}: has no scores of normal images to choose a threshold from (too few, or an "
            "older run); give --threshold"
        )
    value = thresholds.at_rate(normal_scores, false_positive_rate)
    return Threshold(value, false_positive_rate, len(normal_scores))


def _recorded_threshold(run_dir):
    """The threshold in results.json; None where there is none."""
    path, results = run_dir / RESULTS, read_results(run_dir)
    values = [results.get(n) for n in ("threshold", "false_positive_rate", "num_normal_scores")]
    if None in values:
        return None
    try:
        value, rate, count = float(values[0]), float(values[1]), int(values[2])
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: holds a threshold that is no number") from error
    if not (math.isfinite(value) and 0.0 < rate < 1.0 and count > 0):
        raise UserError(f"{path}: holds a threshold that is none")
    return Threshold(value, rate, count)


def checksums(run_dir: str | os.PathLike, config: Config) -> dict[str, str]:
    """Returns the SHA-256, in hexadecimal, of all that scoring depends on: files and settings."""
    run_dir = pathlib.Path(run_dir)
    files = [name for name in _SUMMED if (run_dir / name).is_file()]
    return {"settings": config.fingerprint(), **{n: checksum(run_dir / n) for n in files}}


def check_files(run_dir: str | os.PathLike, config: Config) -> None:
    """Checks that a run is finished and that its files are those that it wrote.

    Args:
      run_dir: the run's folder.
      config: what its config.json holds.

    Raises:
      UserError: if results.json is missing or damaged, or another file is missing or not the one
        whose SHA-256 is there. Runs of version 0.1.0 and before left no such sums.
    """
    run_dir = pathlib.Path(run_dir)
    path, results = run_dir / RESULTS, read_results(run_dir)
    # Runs that have no threshold are of a version that left no sums either.
    sums = results.get("sha256") if "threshold" in results else results.get("sha256", {})
    if not isinstance(sums, dict):
        raise UserError(f"{path}: not readable as a run's results; sha256 must be an object")
    if sums and sums.get("settings") != config.fingerprint():
        raise UserError(
            f"{run_dir / 'config.json'}: altered (its settings are not those in {RESULTS}); copy "
            "the run again, or train it again"
        )
    _check_sums(run_dir, {n: x for n, x in sums.items() if n != "settings"}, _SUMMED)


def _check_sums(run_dir, sums, allowed):
    path = run_dir / RESULTS
    for name, expected in sums.items():
        if name not in allowed:
            raise UserError(f"{path}: names a file that no run writes, {name!r}")
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir / name}: there is no such file; copy the run as a whole")
        if checksum(run_dir / name) != expected:
            raise UserError(
                f"{run_dir / name}: damaged or altered (its SHA-256 is not the one in {RESULTS}); "
                "copy the run again, or train it again"
            )


def checksum(path: str | os.PathLike) -> str:
    """Returns a file's SHA-256, in hexadecimal; a UserError names one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _read_csv(path, columns):
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
