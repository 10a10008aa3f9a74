"""Ray, for the commands that share work out: started here or reached, and what fits on it.

Nothing here imports TensorFlow.
"""

import importlib
import math
import os
import socket
from types import ModuleType

from cutpaste_tf import choices, cli
from cutpaste_tf.files import UserError

_CPUS = choices.Rule("a number above 0", lambda cpus: 0 < cpus < math.inf)
_GPUS = choices.Rule(
    "a number from 0 to 1, or a whole number",
    lambda gpus: 0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer()),
)


def add_flags(parser: cli.Parser, unit: str) -> None:
    """Adds --cpus_per_UNIT and --gpus_per_UNIT to a command's flags."""
    text = "CPU cores; default 1, or with GPUs their share"
    parser.add(f"cpus_per_{unit}", _CPUS, text, parse=float)
    text = "GPUs, such as 0.5; default 1 if there are any, else 0"
    parser.add(f"gpus_per_{unit}", _GPUS, text, parse=float)


def load(name: str, flag: str) -> ModuleType:
    """Imports a module of the extra `cluster`.

    Raises:
      UserError: if the package that the flag needs is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f'{flag}: needs the package {package}; pip install "cutpaste-tf[cluster]"'
        ) from error


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
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Ray takes this for a machine that no cluster can reach, and listens on loopback alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        options["include_dashboard"] = False
    ray = load("ray", flag)
    where = flag if address is None else f"{flag}={address}"
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=10).close()
        # "local" starts Ray here even where RAY_ADDRESS names a cluster.
        ray.init("local" if address is None else address, **options)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: Ray cannot be started or reached ({line})") from error
    return ray


def share_out(
    ray: ModuleType, unit: str, cpus: float | None, gpus: float | None
) -> tuple[float, float, int]:
    """Finds what fits on the machines at a time.

    Args:
      ray: as `start` returned it.
      unit: as in `add_flags`.
      cpus: CPU cores of each unit; None for 1 or, with GPUs, their share of a machine's.
      gpus: GPUs of each unit; None for 1 if a machine has any.

    Returns:
      The CPU cores and GPUs of each unit, and how many units fit, at least 1.

    Raises:
      UserError: if no machine is large enough for one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    if gpus is None:
        gpus = 1.0 if any(has >= 1.0 for _, has in machines) else 0.0
    if cpus is None:  # Images must be decoded for a GPU.
        shares = [cores * gpus // has for cores, has in machines if gpus and has]
        cpus = max(1.0, min(shares, default=1.0))
    slots = sum(int(min(c // cpus, g // gpus if gpus else math.inf)) for c, g in machines)
    if not slots:
        most = "; ".join(f"{cores:g} CPUs and {has:g} GPUs" for cores, has in machines)
        raise UserError(
            f"--cpus_per_{unit}={cpus:g} --gpus_per_{unit}={gpus:g}: no machine is large enough; "
            f"Ray has {most}"
        )
    return cpus, gpus, slots


def prepare_worker(cpus: float, gpus: float) -> int:
    """Keeps libraries, before they are imported in a worker, to what it has of its machine.

    Args:
      cpus: CPU cores.
      gpus: GPUs.

    Returns:
      The number of threads.
    """
    cli.prepare_libraries()
    threads = max(1, math.ceil(cpus))
    # Each library would have a thread for each core, and so would every worker beside this one.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpus < 1:  # TensorFlow would take all of a GPU that it shares.
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return threads


def reason(error: Exception) -> str:
    """Returns the last line of what Ray says: of a traceback, what was raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no reason given'}"
