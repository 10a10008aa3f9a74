"""The machine: what it computes on, and which versions are on it."""

import os
import platform

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
