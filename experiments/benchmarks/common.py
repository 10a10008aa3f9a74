"""What the benchmarks share: measuring in turn, describing the machine, results, processes.

Import this before TensorFlow: it sets variables that TensorFlow reads at import.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from cutpaste_tf.machine import cores

_MARK = "RESULT "


def parser(doc: str, rounds: int = 5) -> argparse.ArgumentParser:
    """Makes a script's parser, from its docstring, with --rounds, which all scripts have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help="measurements of each method")
    return made


def machine(*packages: str) -> str:
    """Describes the processor and the versions of packages in a line, without importing them."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    parts = [model, f"{cores()} cores", f"Python {platform.python_version()}"]
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(parts)


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """Returns a function that calls another and returns the seconds that it took."""

    def call() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return call


def medians(methods: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Runs methods in turn, so that a machine that slows down slows all of them.

    Args:
      methods: functions that return what they measured, by name; each is called once more before
        the first round, to warm up.
      rounds: how often each is measured.

    Returns:
      The median by name.
    """
    measured = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, method in methods.items():
            value = method()
            if turn:
                measured[name].append(value)
    return {name: statistics.median(values) for name, values in measured.items()}


@dataclasses.dataclass(frozen=True)
class Result:
    """One comparison.

    Attributes:
      name: what was compared.
      ours: our number.
      baseline: the number that ours is compared with.
      unit: the unit of both.
      ratio: above one if ours is better.
      against: what the baseline is.
    """

    name: str
    ours: float
    baseline: float
    unit: str
    ratio: float
    against: str


def result(name: str, ours: float, baseline: float, unit: str, against: str) -> None:
    """Prints a comparison as a line that `python -m experiments.benchmarks` collects.

    Args:
      name: what was compared.
      ours: our number.
      baseline: the number that ours is compared with.
      unit: the unit of both. More is better for a rate ("images/s"), less for all others.
      against: what the baseline is.
    """
    ratio = ours / baseline if "/s" in unit else baseline / ours
    one = Result(name, float(ours), float(baseline), unit, float(ratio), against)
    print(_MARK + json.dumps(dataclasses.asdict(one)), flush=True)


def read_result(line: str) -> Result | None:
    """Returns the comparison that a line of output has, or None."""
    return Result(**json.loads(line[len(_MARK) :])) if line.startswith(_MARK) else None


class Worker:
    """A process of its own for one method, which waits while others run.

    TensorFlow and PyTorch in one process would share thread pools, and slow each other down.

    Args:
      arguments: the script's arguments in this process, with which it calls `serve`.
    """

    def __init__(self, *arguments: str):
        command = [sys.executable, os.path.abspath(sys.argv[0]), *arguments]
        # What libraries print is shown only if the worker fails.
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._printed.close()

    def send(self, method: str, **options: Any) -> None:
        """Asks for a method to be run; `receive` waits for its answer."""
        with contextlib.suppress(BrokenPipeError):  # `receive` says why the worker has ended.
            print(json.dumps([method, options]), file=self._process.stdin, flush=True)

    def receive(self) -> Any:
        """Returns what the method returned."""
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._printed.seek(0)
            raise RuntimeError(f"{self._printed.read()}\na worker ended with status {status}")
        return json.loads(line)

    def ask(self, method: str, **options: Any) -> Any:
        """Runs a method and returns what it returns."""
        self.send(method, **options)
        return self.receive()

    def cpu_seconds(self) -> float:
        """Returns the processor time that the process has used."""
        stat = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def serve(make: Callable[[], Mapping[str, Callable[..., Any]]]) -> None:
    """Runs the methods that the parent process asks for, until it closes the pipe.

    Args:
      make: imports what is needed and returns the methods by name; they return JSON's types.
    """
    # Libraries must not print between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    methods = make()
    for line in sys.stdin:
        method, options = json.loads(line)
        print(json.dumps(methods[method](**options)), file=answers, flush=True)


@dataclasses.dataclass(frozen=True)
class Usage:
    """A command's seconds, and its peak memory in MiB, the largest of its processes."""

    seconds: float
    mebibytes: float
    status: int
    output: str
    cpu_seconds: float | None = None  # of processor time, where it was measured


def run(command: Sequence[str], **environment: str) -> Usage:
    """Runs a command in a fresh process, with further environment variables.

    A started process counts its parent's memory too, until it runs the command. So scripts that
    measure memory should import little themselves.
    """
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        cpu = used.ru_utime + used.ru_stime
        memory = used.ru_maxrss / 2**10
        return Usage(seconds, memory, process.returncode, output.read(), cpu)


def multiply_adds(model: Any) -> int:
    """Counts the multiplications of a Keras model's convolutions and dense layers, for one image.

    The model must be built for images of a fixed size.
    """
    import keras

    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += multiply_adds(layer)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            total += np.prod(layer.output.shape[1:]) * np.prod(layer.kernel.shape[:2])
        elif isinstance(layer, keras.layers.Conv2D):
            total += np.prod(layer.output.shape[1:]) * np.prod(layer.kernel.shape[:3])
        elif isinstance(layer, keras.layers.Dense):
            total += np.prod(layer.kernel.shape)
    return int(total)


@contextlib.contextmanager
def image_folder(
    count: int, size: int, tests: int = 0, categories: int = 1
) -> Iterator[pathlib.Path]:
    """Makes a temporary folder of categories in MVTec layout.

    The images are smooth with some noise, and compress to png about as photographs do.

    Args:
      count: normal images to train on.
      size: the images' height and width.
      tests: normal test images, and the same number of anomalous ones with masks.
      categories: how many; a single one is called "made", several "made0", "made1" and so on.
    """
    import PIL.Image

    rng = np.random.default_rng(0)
    square = np.zeros((size, size), bool)
    square[size // 4 : size // 2, size // 4 : size // 2] = True

    def write(folder, number, defect=False):
        folder.mkdir(parents=True, exist_ok=True)
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((size, size), PIL.Image.Resampling.BICUBIC), np.float32)
        pixels = smooth + rng.normal(scale=3.0, size=(size, size, 1)).astype(np.float32)
        if defect:
            pixels[square] = 255.0 - pixels[square]
        image = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:05d}.png", compress_level=1)

    with tempfile.TemporaryDirectory() as folder:
        for category in range(categories):
            root = pathlib.Path(folder) / ("made" if categories == 1 else f"made{category}")
            for number in range(count):
                write(root / "train" / "good", number)
            for number in range(tests):
                write(root / "test" / "good", number)
                write(root / "test" / "square", number, defect=True)
                mask = root / "ground_truth" / "square" / f"{number:05d}_mask.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(square).save(mask)
        yield pathlib.Path(folder)
