"""The machine: what it computes on, which versions are on it, and what the flags ask of it."""

import os
import platform

from cutpaste_tf.config import Config

_PACKAGES = ("cutpaste-tf", "tensorflow", "keras", "scikit-learn", "numpy")


def device() -> str:
    """Returns what the computation runs on, such as "CPU (2 cores)" or the GPUs' names."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = map(tf.config.experimental.get_device_details, gpus)
        return ", ".join(one.get("device_name", "GPU") for one in details)
    return f"CPU ({cores()} cores)"


def cores() -> int:
    """Returns how many of the processor's cores this process may use."""
    available = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if available else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Returns the versions of what the result depends on."""
    import importlib.metadata

    result = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
            result[name] = "unknown"
    return result


def needs_check(config: Config) -> bool:
    """Returns whether `check` has anything to check."""
    return config.weights != "none"


def check(config: Config) -> None:
    """Checks what the flags ask of this machine, before anything is written.

    The weights that --weights names are fetched or read.

    Args:
      config: the settings.

    Raises:
      UserError: if the weights cannot be had or are another network's.
    """
    if not needs_check(config):
        return
    from cutpaste_tf.models import backbone

    backbone.build_backbone(config)
