"""The machine: its device, its cores, and the versions of the packages."""

import importlib.metadata
import os
import platform

import cutpaste_tf

_PACKAGES = ("tensorflow", "keras", "scikit-learn", "numpy")


def device() -> str:
    """Returns the names of the GPUs, or a text such as "CPU (2 cores)"."""
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
    """Returns the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version(), "cutpaste-tf": cutpaste_tf.__version__}
    return versions | {name: importlib.metadata.version(name) for name in _PACKAGES}
