"""Whether the images are those that runs were begun with.

Nothing here imports TensorFlow, unless the data set does.
"""

import sys
from collections.abc import Callable, Sequence

from cutpaste_tf import data, workers
from cutpaste_tf.config import Config
from cutpaste_tf.data import fingerprint
from cutpaste_tf.files import UserError
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
    leads = workers.leads(config)
    # What was refused before its training can be mended, and begun again.
    if state != "finished" and not files.has_trained(config):
        return present(config) if leads else None
    recorded = files.recorded_images(config.run_dir)
    if recorded is None:
        return None
    try:
        now = present(config)
    except UserError as error:
        if state != "finished":
            raise
        # Its results can be shown where its images are not.
        _warn(leads, f"{config.run_dir}: not compared with the images: {error}")
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
        _warn(leads, told)
        return None
    return now


def _warn(leads, text):
    if leads:
        print(f"warning: {text}", file=sys.stderr)
