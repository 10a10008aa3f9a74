"""A run's folder, WORKDIR/CATEGORY/seed_N: the names of its files, writing and reading them.

A SHA-256 shows whether a file was altered. This module imports TensorFlow only for some data sets.
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from cutpaste_tf import data, files
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode
from cutpaste_tf.data.split import Category, Split, normal_split
from cutpaste_tf.files import UserError, replacing, say
from cutpaste_tf.threshold import Threshold

CONFIG = "config.json"
IMAGES = "images.json"  # the images that the run began with
BACKBONE_WEIGHTS = "checkpoints/backbone.weights.h5"
PRETRAINED_WEIGHTS = "checkpoints/pretrained.weights.h5"  # with --keep_pretrained
HEAD_WEIGHTS = "checkpoints/head.weights.h5"
DENSITY = "density.npz"
EMBEDDINGS = "embeddings.npz"  # of the normal images
ROI = "roi.png"  # with --roi
NORMAL_SCORES = "normal_scores.csv"
SCORES = "scores.csv"
RESULTS = "results.json"  # written last: its presence means that the run is finished
_LOCK = "lock"  # held while a command works on the run
# The files that scores and the page depend on.
_CHECKED = (BACKBONE_WEIGHTS, PRETRAINED_WEIGHTS, DENSITY, EMBEDDINGS, ROI, NORMAL_SCORES)


def state(config: Config) -> str:
    """Returns what a run's folder holds: "new", "interrupted" or "finished".

    A finished run that lacks one of the wanted densities or test anomalies is "interrupted", so
    that it is evaluated again. A UserError says that the folder holds a run with other settings, or
    a run by refit that lacks one of these.
    """
    run_dir = config.run_dir
    if not (run_dir / CONFIG).is_file():
        return "new"
    earlier = Config.load(run_dir)
    if differences := config.differences(earlier):
        raise UserError(
            f"{run_dir}: holds a run with {earlier.flag(differences[0])}, not "
            f"{config.flag(differences[0])}; name another --workdir or remove it"
        )
    if not (run_dir / RESULTS).is_file():
        return "interrupted"
    densities = set(config.density.split(","))
    if set(config.synthetic_tests) <= set(evaluated_by(config, "test_anomalies")) and (
        len(densities) == 1 or densities <= set(evaluated_by(config, "density"))
    ):
        return "finished"
    if "refit" in read_results(run_dir):
        raise UserError(
            f"{run_dir}: was made by refit and cannot be evaluated again; name another --workdir "
            "or remove it"
        )
    return "interrupted"


def has_trained(config: Config) -> bool:
    """Returns whether a run's training has begun, or the run is finished."""
    return any((config.run_dir / name).exists() for name in ("checkpoints", RESULTS))


def evaluated_by(config: Config, what: str) -> list[str]:
    """Returns the kinds of "density" or "test_anomalies" in the results of a finished run."""
    if not (config.run_dir / RESULTS).is_file():
        return []
    return list(read_results(config.run_dir).get(f"image_auroc_by_{what}") or {})


def locked(config: Config) -> contextlib.AbstractContextManager:
    """Keeps other commands off a run during a block; a UserError if one works on it already."""
    busy = (
        f"{config.run_dir}: another command works on this run; wait for its end, or name another "
        "--workdir"
    )
    return files.locked(config.run_dir / _LOCK, busy)


def begin(config: Config, category: Category) -> None:
    """Writes a run's settings and the stamps of its images, unless its training has begun."""
    if not has_trained(config):  # Until the training begins, both may change.
        write_settings(config.run_dir, config, category)


def write_settings(run_dir: pathlib.Path, config: Config, category: Category) -> None:
    """Writes config.json and images.json; a UserError if an image cannot be read."""
    images = {
        part: {name: [*_stamp(file), _content(file)] for name, file in _named_files(split)}
        for part, split in (("train", category.train), ("test", category.test))
    }
    if config.data_dir:  # The run may be used from another folder than it was trained in.
        config = dataclasses.replace(config, data_dir=os.path.abspath(config.data_dir))
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_json(run_dir / IMAGES, images, indent=None)
    _write_json(run_dir / CONFIG, json.loads(config.to_json()))


def check_images(config: Config, category: Category) -> None:
    """Compares images with those that an interrupted run began with; a UserError if they differ."""
    if not has_trained(config):
        return
    if problem := _first_change(config.run_dir, _read_json(config.run_dir / IMAGES), category):
        raise UserError(f"{problem}; restore the old images, or name another --workdir")


def load_images(config: Config, run_dir: str | os.PathLike, drop: Iterable[str] = ()) -> Category:
    """Finds the training and test images of a finished run.

    Args:
      config: the run's settings, with the present `data_dir`.
      run_dir: the run's folder.
      drop: names or paths of training images to leave out, which need not exist any more.

    Returns:
      The run's images. Images that were added by refit have their paths as names.

    Raises:
      UserError: if an image is gone or has changed, or `drop` names an image of another run.
    """
    run_dir, category = pathlib.Path(run_dir), data.load(config)
    images = dict(zip(category.train.names, category.train.images, strict=True))
    by_path = {os.path.abspath(x): name for name, x in images.items() if isinstance(x, str)}
    recorded = _read_json(run_dir / IMAGES)
    train = dict(recorded["train"])
    for text in drop:
        path = os.path.abspath(text)
        matches = [name for name in (text, path, by_path.get(path)) if name in recorded["train"]]
        if not matches:
            table = run_dir / NORMAL_SCORES
            raise UserError(f"--drop={text}: is no image of the run; {table} lists its images")
        train.pop(matches[0], None)
    if gone := [name for name in train if name not in images and not os.path.isfile(name)]:
        raise UserError(f"{gone[0]}: does not exist, and the run {run_dir} needs it")
    tested = [i for i, name in enumerate(category.test.names) if name in recorded["test"]]
    category = Category(
        normal_split(list(train), [images.get(name, name) for name in train]),
        category.test.subset(tested),
    )
    if problem := _first_change(run_dir, recorded | {"train": train}, category):
        raise UserError(problem)
    return category


def _first_change(run_dir, recorded, category):
    """A line about the first image that has changed since the run began; None if none has."""
    for part, split in (("train", category.train), ("test", category.test)):
        then, now = recorded[part], dict(_named_files(split))
        for name in {**now, **then}:
            if name not in then:
                change = "is new"
            elif name not in now:
                change = "is gone"
            elif not _is_same(now[name], *then[name]):
                change = "has changed"
            else:
                continue
            return f"{run_dir}: began with other images: {name} {change}"
    return None


def _is_same(file, size, time, content):
    """Whether a file or array is as `write_settings` recorded it."""
    # The content decides for arrays, and for files that were copied or touched.
    return (size is not None and [size, time] == _stamp(file)) or content == _content(file)


def _named_files(split):
    """Yields names with images, then names with masks; an image or mask is a path or an array."""
    yield from zip(split.names, split.images, strict=True)
    for name, mask in zip(split.names, split.masks, strict=True):
        if mask is not None:
            yield f"the mask of {name}", mask


def _stamp(file):
    """A file's size in bytes and time of change in nanoseconds; None for an array."""
    if isinstance(file, np.ndarray):
        return [None, None]
    with _reading(file):
        status = os.stat(file)
        return [status.st_size, status.st_mtime_ns]


def _content(file):
    """The SHA-256, in hexadecimal, of a file or of an array."""
    if not isinstance(file, np.ndarray):
        return checksum(file)
    digest = hashlib.sha256(f"{file.dtype.str} {file.shape}".encode())
    digest.update(np.ascontiguousarray(file))
    return digest.hexdigest()


def write_results(run_dir: pathlib.Path, results: dict) -> None:
    """Writes results.json, whole or not at all, which makes the run a finished one."""
    _write_json(run_dir / RESULTS, results)


def write_scores(run_dir: pathlib.Path, split: Split, scores: np.ndarray) -> None:
    """Writes scores.csv: the N test images and their scores, [N]."""
    columns = (split.names, split.labels.tolist(), split.defect_types, map(float, scores))
    names = ["path", "label", "defect_type", "score"]
    _write_csv(run_dir / SCORES, names, zip(*columns, strict=True))


def write_normal_scores(run_dir: pathlib.Path, names: Sequence[str], scores: np.ndarray) -> None:
    """Writes normal_scores.csv: the training images and their cross-validated scores, if any.

    The highest scores are on top, where a bad part among the good ones is found.
    """
    worst_first = np.argsort(-scores, kind="stable")
    rows = [(names[i], float(scores[i])) for i in worst_first]
    _write_csv(run_dir / NORMAL_SCORES, ["path", "score"], rows)


def write_embeddings(run_dir: pathlib.Path, names: Sequence[str], embeddings: np.ndarray) -> None:
    """Writes the embeddings, float32 [N, D], of the N training images without copies."""
    files.write_npz(run_dir / EMBEDDINGS, {"names": np.array(names), "embeddings": embeddings})


def read_embeddings(run_dir: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Reads the names and embeddings, [N, D], of a run's training images without copies."""
    arrays = files.read_npz(pathlib.Path(run_dir) / EMBEDDINGS)
    return arrays["names"].tolist(), arrays["embeddings"]


def read_results(run_dir: str | os.PathLike) -> dict:
    """Reads a finished run's results.json; a UserError if the run is not finished."""
    path = pathlib.Path(run_dir) / RESULTS
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such file; has the run finished? "
            "A run's folder looks like runs/bolt/seed_0"
        )
    return _read_json(path)


def finished_results(config: Config) -> dict:
    """Reads a finished run's results, and prints that it is skipped."""
    results = read_results(config.run_dir)
    rate, note = results["false_positive_rate"], ""
    if rate != config.false_positive_rate:
        note = (
            f"; its threshold stays at --false_positive_rate={rate:g}: give another rate to predict"
        )
    say(f"{config.run_dir}: finished already, skipped{note}")
    return results


def read_normal_scores(run_dir: str | os.PathLike) -> np.ndarray:
    """Reads the cross-validated scores of a run's training images, float64 [M]; may be empty."""
    rows = _read_csv(run_dir, NORMAL_SCORES, path=str, score=float)
    return np.array([row["score"] for row in rows], np.float64)


def choose_threshold(
    run_dir: str | os.PathLike,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
) -> Threshold:
    """Finds a finished run's threshold, or its replacement; see `threshold.choose`."""
    results = read_results(run_dir)
    names = ("threshold", "false_positive_rate", "num_normal_scores")
    with _reading(pathlib.Path(run_dir) / RESULTS):
        recorded = None if results["threshold"] is None else Threshold(*map(results.get, names))
    normal_scores = read_normal_scores(run_dir)
    # A later evaluation may have taken another rule than the settings of the first start.
    rule = results.get("threshold_rule") or Config.load(run_dir).threshold_rule
    given = threshold, false_positive_rate, rule
    return thresholds.choose(recorded, normal_scores, str(run_dir), *given)


def ensemble_scores(run_dirs: Sequence[str | os.PathLike]) -> tuple[np.ndarray, np.ndarray] | None:
    """Averages the scores of finished runs that have the same test images.

    Returns the labels, int64 [N], and the ensemble's scores, float64 [N]; None if a run has fewer
    than two scores of normal images. A UserError says that a file cannot be read, or that the test
    images of the runs differ.
    """
    scores, normal_scores, images = [], [], []
    for run_dir in run_dirs:
        rows = _read_csv(run_dir, SCORES, path=str, label=int, score=float)
        normal = read_normal_scores(run_dir)
        if len(normal) < 2:
            return None
        images.append([(row["path"], row["label"]) for row in rows])
        if images[-1] != images[0]:
            raise UserError(f"{run_dir}: was tested on other images than {run_dirs[0]}")
        tested = np.array([row["score"] for row in rows])
        if Config.load(run_dir).scores_are_distances:  # Equation 2 has half the squared distance.
            tested, normal = 0.5 * np.square(tested), 0.5 * np.square(normal)
        scores.append(tested)
        normal_scores.append(normal)
    labels = np.array([label for _, label in images[0]], np.int64)
    return labels, thresholds.ensemble(scores, normal_scores)


def checksums(run_dir: str | os.PathLike, config: Config) -> dict[str, str]:
    """Returns the SHA-256, in hexadecimal, of the settings and of the files of `_CHECKED`."""
    paths = [pathlib.Path(run_dir) / name for name in _CHECKED]
    sums = {
        name: checksum(path) for name, path in zip(_CHECKED, paths, strict=True) if path.is_file()
    }
    return {"settings": config.fingerprint()} | sums


def checked(run_dir: str | os.PathLike) -> Config:
    """Checks the files of a finished run, and returns its settings.

    A UserError says that the run is not finished, or that a file was damaged or altered.
    """
    run_dir, config = pathlib.Path(run_dir), Config.load(run_dir)
    results, actual = read_results(run_dir), checksums(run_dir, config)
    with _reading(run_dir / RESULTS):
        expected = dict(results["sha256"])
        if results["bit_depth"] not in decode.BITS:
            raise ValueError("bit_depth")
    for name in {**expected, **actual}:
        if actual.get(name) != expected.get(name):
            path = run_dir / (CONFIG if name == "settings" else name)
            problem = "damaged or altered" if path.is_file() else "missing"
            raise UserError(
                f"{path}: {problem} (its SHA-256 differs from the one in {RESULTS}); copy the run "
                "again, or train it again"
            )
    return config


def checksum(path: str | os.PathLike) -> str:
    """Returns a file's SHA-256, in hexadecimal; a UserError if it cannot be read."""
    with _reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _reading(path):
    """Turns the errors of reading a file into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (LookupError, OverflowError, RecursionError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: damaged; copy the run again, or train it again") from error


def _read_json(path):
    with _reading(path):
        return {**json.loads(path.read_text("utf-8-sig"))}


def _read_csv(run_dir, name, **types):
    """The rows of a table, with the columns that `types` names."""
    path = pathlib.Path(run_dir) / name
    with _reading(path), open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        rows = [{column: kind(row[column]) for column, kind in types.items()} for row in rows]
        if not all(math.isfinite(row["score"]) for row in rows):
            raise ValueError("a score is not a number")
        return rows


def _write_json(path: pathlib.Path, values: dict, indent: int | None = 2) -> None:
    with replacing(path) as temporary:
        text = json.dumps(values, indent=indent, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _write_csv(path: pathlib.Path, names: Sequence[str], rows: Iterable[Sequence]) -> None:
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
