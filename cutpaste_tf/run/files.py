"""A run's folder before and while it is written: its state, its settings, its tables.

Nothing here imports TensorFlow.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from cutpaste_tf import artifacts
from cutpaste_tf.config import Config, shown
from cutpaste_tf.data.split import Split
from cutpaste_tf.files import UserError, replacing
from cutpaste_tf.files import locked as locked_file

_LOCK = "lock"  # in a run's folder, while a command is at it


def run_state(config: Config) -> str:
    """Looks at what a run's folder holds; writes nothing.

    Args:
      config: the run's settings.

    Returns:
      "new", "interrupted" or "finished".

    Raises:
      UserError: if the folder belongs to a run with other settings, or is a refitted run that has
        not all that is asked for.
    """
    run_dir = config.run_dir
    path = run_dir / "config.json"
    if not path.is_file():
        return "new"
    earlier = Config.from_json(path.read_text(encoding="utf-8"), str(path))
    different = config.differences(earlier)
    if different:
        name = different[0]
        raise UserError(
            f"{run_dir}: holds a run with --{name}={shown(earlier, name)}, not "
            f"{shown(config, name)}; name another --workdir or remove it"
        )
    if not is_fully_evaluated(config) and _was_refitted(path):
        raise UserError(
            f"{run_dir}: was made by refit, of other images than those of its training, and is not "
            "trained or evaluated again; name another --workdir or remove it"
        )
    # A run without all that is asked for is trained, and only to be evaluated again.
    return "finished" if is_fully_evaluated(config) else "interrupted"


def _was_refitted(path):
    """Whether a config.json is of a run that `refit` made."""
    return "refit" in (json.loads(path.read_text(encoding="utf-8")).get("data") or {})


def has_trained(config: Config) -> bool:
    """Returns whether a run has left anything of its training, or is finished."""
    return any((config.run_dir / name).exists() for name in ("checkpoints", artifacts.RESULTS))


def is_fully_evaluated(config: Config) -> bool:
    """Returns whether a run has results of all densities and test anomalies that are asked for."""
    if not (config.run_dir / artifacts.RESULTS).is_file():
        return False
    densities = config.density.split(",")
    return set(config.synthetic_tests) <= set(evaluated_by(config, "test_anomalies")) and (
        len(densities) == 1 or set(densities) <= set(evaluated_by(config, "density"))
    )


def evaluated_by(config: Config, what: str) -> list[str]:
    """Returns by what a run has been evaluated before.

    Args:
      config: the run's settings.
      what: "density" or "test_anomalies".

    Returns:
      Names of densities, or of kinds of test anomalies; none where the run is not finished.

    Raises:
      UserError: if its results cannot be read.
    """
    if not (config.run_dir / artifacts.RESULTS).is_file():
        return []
    return list(artifacts.read_results(config.run_dir).get(f"image_auroc_by_{what}") or {})


@contextlib.contextmanager
def locked(config: Config) -> Iterator[None]:
    """Keeps other commands from a run while the block lasts.

    Args:
      config: the run's settings; its folder is made.

    Raises:
      UserError: if another command is at it, or the folder cannot be written.
    """
    busy = (
        f"{config.run_dir}: another command is at this run; wait for its end, or name another "
        "--workdir"
    )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_file(config.run_dir / _LOCK, busy))
        except OSError as error:
            raise _not_written(config, error) from error
        yield


def begin(config: Config, state: str, images: Mapping | None) -> None:
    """Writes config.json where that is to be done before a run is begun or goes on.

    Args:
      config: the run's settings.
      state: what `run_state` has returned.
      images: as `images.check` returned them.

    Raises:
      UserError: if another command has been at the run since, or the folder cannot be written.
    """
    if run_state(config) != state:
        raise UserError(f"{config.run_dir}: another command has just been at this run; start again")
    if state == "new":
        make_run_dir(config, images)
    elif images is not None:
        path = config.run_dir / "config.json"
        _write_config(config, json.loads(path.read_text(encoding="utf-8")) | {"data": images})


def make_run_dir(config: Config, images: Mapping | None = None) -> None:
    """Makes a run's folder and writes config.json.

    Args:
      config: the run's settings.
      images: what `data.fingerprint` says of its images, if that is to be written too.

    Raises:
      UserError: if the folder cannot be written.
    """
    if config.data_dir:  # The run may be used from another folder than it was trained in.
        config = dataclasses.replace(config, data_dir=os.path.abspath(config.data_dir))
    values = json.loads(config.to_json())
    _write_config(config, values | ({} if images is None else {"data": images}))


def _write_config(config, values):
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        with replacing(config.run_dir / "config.json") as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise _not_written(config, error) from error


def _not_written(config, error):
    return UserError(f"--workdir={config.workdir}: cannot be written ({error.strerror or error})")


def recorded_images(run_dir: pathlib.Path) -> dict[str, dict] | None:
    """Returns what a run's images were when it was begun.

    Args:
      run_dir: the run's folder; it has been begun.

    Returns:
      As `data.fingerprint.of_category`; None if config.json does not say it.
    """
    values = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    images = values.get("data")
    try:
        known = all("images" in images[part] for part in ("train", "test"))
    except (TypeError, KeyError):
        known = False
    return images if known else None


def recorded_results(config: Config) -> dict:
    """Returns a finished run's results, and says that it is skipped.

    Args:
      config: the run's settings.

    Raises:
      UserError: if the results cannot be read.
    """
    results = artifacts.read_results(config.run_dir)
    rate = results.get("false_positive_rate", config.false_positive_rate)
    stays = ""
    if rate != config.false_positive_rate:
        stays = f"; its threshold stays that of --false_positive_rate={rate:g}"
    print(f"{config.run_dir}: finished already, skipped{stays}")
    return results


def write_results(run_dir: pathlib.Path, results: dict) -> None:
    """Writes results.json, whole or not at all; its presence means that the run is finished."""
    with replacing(run_dir / artifacts.RESULTS) as temporary:
        text = json.dumps(results, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_scores(run_dir: pathlib.Path, split: Split, scores: np.ndarray) -> None:
    """Writes scores.csv: path, label, defect_type, score, and the data set's further columns.

    Args:
      run_dir: the run's folder.
      split: the test images.
      scores: [N] anomaly scores of them.
    """
    columns = (split.names, split.labels.tolist(), split.defect_types, _exact(scores))
    names = ["path", "label", "defect_type", "score", *split.extra]
    rows = zip(*columns, *split.extra.values(), strict=True)
    _write_csv(run_dir / artifacts.SCORES, names, rows)


def write_normal_scores(
    run_dir: pathlib.Path, image_names: Sequence[str], scores: np.ndarray
) -> None:
    """Writes normal_scores.csv: path and cross-validated score of every training image.

    The images that look least normal are on top: a bad one that has slipped in is found there.

    Args:
      run_dir: the run's folder.
      image_names: of the normal training images, N of them.
      scores: [N] or none, as `Evaluator.normal_scores` returns them.
    """
    worst_first = np.argsort(-scores, kind="stable")
    sorted_names = [image_names[i] for i in worst_first]
    rows = zip(sorted_names, _exact(scores[worst_first]), strict=True)
    _write_csv(run_dir / artifacts.NORMAL_SCORES, ["path", "score"], rows)


def _exact(scores):
    return [repr(float(score)) for score in scores]


def _write_csv(path: pathlib.Path, names: Sequence[str], rows: Iterable[Sequence]) -> None:
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
