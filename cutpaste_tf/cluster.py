"""Ray, for the commands that distribute work: starting it, and how many workers fit on it.

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
    text = f"CPU cores for each {unit}; default 1, or the same share of the cores as of the GPUs"
    parser.add(f"cpus_per_{unit}", _CPUS, text, parse=float)
    text = f"GPUs for each {unit}, such as 0.5; default 1 if there are any, else 0"
    parser.add(f"gpus_per_{unit}", _GPUS, text, parse=float)


def load(name: str, flag: str) -> ModuleType:
    """Imports a module of the extra `cluster`; a UserError says that `flag` needs a package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f'{flag}: needs the package {package}; pip install "cutpaste-tf[cluster]"'
        ) from error


def start(address: str | None, flag: str) -> ModuleType:
    """Starts Ray on this machine, or joins the cluster at an address; messages name the flag.

    Returns the module ray, whose `shutdown` ends the connection.
    """
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # With this variable Ray expects no cluster, and listens only on the loopback address.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        options["include_dashboard"] = False
    ray = load("ray", flag)
    where = flag if address is None else f"{flag}={address}"
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself tries for minutes.
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
    """Returns the CPU cores and GPUs of each unit, and how many units fit on the machines.

    By default (None) a unit has one GPU if a machine has any; and one core, or the same share of a
    machine's cores as of its GPUs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    if gpus is None:
        gpus = 1.0 if any(all_gpus >= 1.0 for _, all_gpus in machines) else 0.0
    if cpus is None:  # A GPU needs cores that decode its images.
        shares = [
            all_cpus * gpus // all_gpus for all_cpus, all_gpus in machines if gpus and all_gpus
        ]
        cpus = max(1.0, min(shares, default=1.0))
    slots = sum(int(min(c / cpus, g / gpus if gpus else math.inf)) for c, g in machines)
    if not slots:
        most = "; ".join(f"{c:g} CPUs and {g:g} GPUs" for c, g in machines)
        raise UserError(
            f"--cpus_per_{unit}={cpus:g} --gpus_per_{unit}={gpus:g}: no machine is large enough; "
            f"Ray has {most}"
        )
    return cpus, gpus, slots


def prepare_worker(cpus: float, gpus: float) -> int:
    """Limits libraries to a worker's share of its machine; returns the number of threads.

    Call this before the libraries are imported.
    """
    cli.prepare_libraries()
    threads = max(1, math.ceil(cpus))
    # By default each library of each worker has a thread for every core of the machine.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif gpus < 1:  # By default TensorFlow takes all memory of a GPU.
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return threads


def reason(error: Exception) -> str:
    """Returns the last line of a Ray error, which names what was raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no reason given'}"
