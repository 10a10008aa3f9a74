"""Which of several machines this one is, with --distribution=multi_worker.

Nothing here imports TensorFlow.
"""

import json
import os

from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError


def worker_number() -> int:
    """Returns this machine's place among the workers, from TF_CONFIG.

    Raises:
      UserError: if TF_CONFIG is not set or does not say it.
    """
    text = os.environ.get("TF_CONFIG")
    form = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}'
    if not text:
        raise UserError(
            f"--distribution=multi_worker: the variable TF_CONFIG must be set, as {form}"
        )
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        number = int(task["index"])
        if set(content["cluster"]) != {"worker"} or task["type"] != "worker":
            raise ValueError("there must be workers only")
        if not 0 <= number < len(workers):
            raise ValueError("the index is not of one of the workers")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"TF_CONFIG={text}: must be {form} ({error})") from error
    return number


def count() -> int:
    """Returns how many workers there are, from TF_CONFIG."""
    return len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"])


def leads(config: Config) -> bool:
    """Returns whether this process evaluates and writes: all do but the workers after the first.

    Args:
      config: the settings.

    Raises:
      UserError: if --distribution=multi_worker lacks its TF_CONFIG.
    """
    return config.distribution != "multi_worker" or worker_number() == 0
