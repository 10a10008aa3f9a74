"""Whether the images are those that runs were begun with.

Nothing here imports TensorFlow, unless the data set does.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from cutpaste_tf import data
from cutpaste_tf.config import Config
from cutpaste_tf.data import fingerprint
from cutpaste_tf.data.split import Category, normal
from cutpaste_tf.files import UserError, replacing
from cutpaste_tf.run import files


def check(runs: Sequence[Config], states: Sequence[str]) -> list[dict | None]:
    """Compares the images that are there now with those that runs were begun with.

    A category's are read once, however many seeds it has. Runs that do not say what theirs were are
    not compared.

    Args:
      runs: the runs' settings.
      states: the runs' states, as `files.run_state` returns them.

    Returns:
      For each run, what config.json is to hold of the images; None where it holds that already.

    Raises:
      UserError: if they have changed, unless --allow_changed_data; or if they cannot be read.
    """
    known = {}

    def present(config):
        place = (config.dataset, config.data_dir, config.category)
        if place not in known:
            known[place] = fingerprint.of_category(data.load(config))
        return known[place]

    return [_check_one(*run, present) for run in zip(runs, states, strict=True)]


def _check_one(config: Config, state: str, present: Callable[[Config], dict]) -> dict | None:
    # What was refused before its training can be mended, and begun again.
    if state != "finished" and not files.has_trained(config):
        return present(config)
    recorded = files.recorded_images(config.run_dir)
    # A refitted run's are others on purpose.
    if recorded is None or "refit" in recorded:
        return None
    try:
        now = present(config)
    except UserError as error:
        if state != "finished":
            raise
        # Its results can be shown where its images are not.
        _warn(f"{config.run_dir}: not compared with the images: {error}")
        return None
    names = {"train": "training", "test": "test"}
    changed = [
        f"{names[part]} images ({recorded[part]['images']} then, {now[part]['images']} now)"
        for part in now
        if now[part] != recorded[part]
    ]
    if not changed:
        return None
    told = f"{config.run_dir}: was trained with other {' and other '.join(changed)}"
    if not config.allow_changed_data:
        does = "leaves it as it is" if state == "finished" else "goes on with those of now"
        raise UserError(f"{told}; --allow_changed_data {does}, or name another --workdir")
    if state == "finished":
        _warn(told)
        return None
    return now


def of_run(config: Config, run_dir: pathlib.Path) -> Category:
    """Finds the images that a finished run's densities are of, and those that it was tested on.

    Args:
      config: the run's settings; `data_dir` is where its data set is now.
      run_dir: the run's folder.

    Returns:
      The images. Those that refit has added are called by their paths.

    Raises:
      UserError: if an image is gone or changed.
    """
    category = data.load(config)
    recorded = files.recorded_images(run_dir)
    if recorded is None:
        return category
    train = category.train
    if "refit" in recorded:
        known = dict(zip(train.names, train.images, strict=True))
        names = recorded["refit"]["names"]
        for name in names:
            if name not in known and not os.path.isfile(name):
                raise UserError(f"{name}: is no longer where it was; the run {run_dir} is of it")
        train = normal(names, [known.get(name, name) for name in names])
    for part, split in (("train", train), ("test", category.test)):
        if recorded[part] != fingerprint.of_split(split):
            what = {"train": "training", "test": "test"}[part]
            raise UserError(f"{run_dir}: its {what} images are no longer what they were")
    return Category(train, category.test)


def write_refitted(
    run_dir: pathlib.Path, output: pathlib.Path, config: Config, category: Category
) -> None:
    """Writes the config.json of a run that was made of another by other images.

    Args:
      run_dir: the folder of the other run.
      output: the folder of the run.
      config: its settings.
      category: its images.

    Raises:
      UserError: if an image cannot be read.
    """
    settings = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    settings["data_dir"] = config.data_dir
    # `main` is to know that this run is no longer of the images of its training.
    settings["data"] = fingerprint.of_category(category) | {
        "refit": {"from": os.path.abspath(run_dir), "names": list(category.train.names)}
    }
    with replacing(output / "config.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _warn(text):
    print(f"warning: {text}", file=sys.stderr)
