"""Ray, for the commands that share work out: started here or reached, and what fits on it.

Nothing here imports TensorFlow.
"""

import argparse
import contextlib
import math
import os
import socket
from collections.abc import Iterator, Sequence
from types import ModuleType

from cutpaste_tf.files import UserError


def add_flags(parser: argparse.ArgumentParser, unit: str, cpus: float | None = 1.0) -> None:
    """Adds --cpus_per_UNIT and --gpus_per_UNIT to a command's flags.

    Args:
      parser: takes them.
      unit: what has these CPUs and GPUs, such as "run".
      cpus: the default; None if the command finds it.
    """
    default = f"{cpus}" if cpus else "1, or with GPUs their share"
    parser.add_argument(
        f"--cpus_per_{unit}", type=float, default=cpus, help=f"CPU cores; default {default}"
    )
    parser.add_argument(
        f"--gpus_per_{unit}",
        type=float,
        help="GPUs, such as 0.5; default 1 if there are any, else 0",
    )


def check_flags(arguments: argparse.Namespace, unit: str) -> None:
    """Checks what `add_flags` has added.

    Raises:
      UserError: for a number that is none of a machine's.
    """
    cpus, gpus = (getattr(arguments, f"{kind}_per_{unit}") for kind in ("cpus", "gpus"))
    if cpus is not None and not 0 < cpus < math.inf:
        raise UserError(f"--cpus_per_{unit}={cpus:g}: must be a number above 0")
    if gpus is not None and not 0 <= gpus < math.inf:
        raise UserError(f"--gpus_per_{unit}={gpus:g}: must be a number, at least 0")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise UserError(f"--gpus_per_{unit}={gpus:g}: above 1, it must be a whole number")


def start(address: str | None, flag: str) -> ModuleType:
    """Starts Ray, or joins a cluster.

    Args:
      address: the cluster's; None for this machine alone.
      flag: what names the address, such as "--ray_address".

    Returns:
      The module ray; `ray.shutdown` ends what was begun.

    Raises:
      UserError: if Ray is not installed, or cannot be started or reached.
    """
    # No word to the outside.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f'{flag}: needs the package ray; pip install "cutpaste-tf[cluster]"'
        ) from error
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options["include_dashboard"] = False
    where = flag if address is None else f"{flag}={address}"
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=10).close()
        # "local" starts Ray here even where RAY_ADDRESS names a cluster.
        with quiet():
            ray.init("local" if address is None else address, **options)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: Ray cannot be started or reached ({line})") from error
    return ray


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off stderr what Ray's core, which is no Python, writes there as things start."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def machines(ray: ModuleType) -> list[dict[str, float]]:
    """Returns the resources of each machine, such as {"CPU": 8.0, "GPU": 1.0}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def default_gpus(nodes: Sequence[dict[str, float]]) -> float:
    """Returns 1 if a machine has a GPU, else 0."""
    return 1.0 if any(node.get("GPU", 0.0) >= 1.0 for node in nodes) else 0.0


def count_slots(nodes: Sequence[dict[str, float]], cpus: float, gpus: float, unit: str) -> int:
    """Counts what fits on the machines at a time.

    Args:
      nodes: as `machines` returns.
      cpus: of each, which has them on one machine.
      gpus: likewise.
      unit: as in `add_flags`.

    Returns:
      The number, at least 1.

    Raises:
      UserError: if no machine is large enough for one.
    """
    wanted = {"CPU": cpus, "GPU": gpus}
    slots = sum(
        int(min(node.get(kind, 0.0) // amount for kind, amount in wanted.items() if amount))
        for node in nodes
    )
    if not slots:
        most = ", ".join(
            f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes
        )
        raise UserError(
            f"--cpus_per_{unit}={cpus:g} --gpus_per_{unit}={gpus:g}: no machine is large enough; "
            f"Ray has {most}"
        )
    return slots


def share_gpus(gpus: float) -> None:
    """Keeps TensorFlow, before it is imported in a worker, to what the worker has of GPUs."""
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpus < 1:  # TensorFlow would take all of a GPU that it shares.
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"


def reason(error: Exception) -> str:
    """Returns the last line of what Ray says: of a traceback, what was raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no reason given'}"
