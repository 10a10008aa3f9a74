"""Measures predictions on Ray: images a second against `predict` without Ray, and memory.

    python experiments/benchmarks/ray_prediction.py [--counts=10000,100000] [--cpus_per_worker=1]

The images are links to sixteen images of 32x32. The run is an untrained ResNet-18 with a sixteenth
of the width, so that the network takes little time beside the work on files. Ray divides this
machine's cores among its workers. `predict` without Ray scores the first number of images.

Memory is the largest resident set of the command, and of a worker.
"""

import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import common

MAIN = (sys.executable, "-m", "cutpaste_tf.main", "--dataset=folder", "--eval_every=0")
TINY = ("--image_size=32", "--width=0.0625", "--head_dims=8,4", "--batch_size=4", "--steps=0")
PREDICT = (sys.executable, "-m", "cutpaste_tf.predict")
_RATE = re.compile(r"([\d.]+) images a second")


def peaks(command: Sequence[str]) -> tuple[float, float, float]:
    """Runs a command; returns its images a second, and its and its workers' peaks in MiB."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        driver, workers = 0.0, {}
        while process.poll() is None:
            driver = max(driver, _peak(process.pid))
            for pid in _descendants(process.pid):
                # Ray names a worker by its current task.
                if "ray::Worker" in _read(pid, "cmdline"):
                    workers[pid] = _peak(pid)
            time.sleep(1.0)
        output.seek(0)
        text = output.read()
    rates = _RATE.findall(text)
    if process.returncode or not rates:
        raise SystemExit(text)
    return float(rates[-1]), driver, max(workers.values(), default=0.0)


def _peak(pid):
    found = re.search(r"VmHWM:\s+(\d+) kB", _read(pid, "status"))
    return int(found[1]) / 2**10 if found else 0.0


def _descendants(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        for child in _read(pid, f"task/{task.name}/children").split():
            yield int(child)
            yield from _descendants(int(child))


def _read(pid, name):
    with contextlib.suppress(OSError):  # The process has ended.
        return pathlib.Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    return ""


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--counts", default="10000,100000", help="numbers of images")
    parser.add_argument("--cpus_per_worker", default="1", help="as in predict --ray")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    print(common.machine("tensorflow", "keras", "ray"))
    with common.image_folder(8, 32, tests=4) as data, tempfile.TemporaryDirectory() as folder:
        made = [*MAIN, f"--data_dir={data}", "--category=made", *TINY, f"--workdir={folder}/runs"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        targets = sorted(data.glob("made/t*/*/*.png"))[:16]
        found = {}
        for count in counts:
            images = pathlib.Path(folder, f"images{count}")
            images.mkdir()
            for number in range(count):
                (images / f"{number:07d}.png").symlink_to(targets[number % len(targets)])
            command = [*PREDICT, f"--run={folder}/runs/made/seed_0", f"--images={images}"]
            if not found:
                base, memory, _ = peaks([*command, f"--output={folder}/without"])
                print(f"{count} images without Ray: {base:.0f} a second, {memory:.0f} MiB")
            on_ray = ["--ray", f"--cpus_per_worker={arguments.cpus_per_worker}"]
            found[count] = peaks([*command, f"--output={folder}/{count}", *on_ray])
            rate, driver, worker = found[count]
            print(
                f"{count} images on Ray: {rate:.0f} a second, {driver:.0f} MiB, a worker "
                f"{worker:.0f} MiB",
                flush=True,
            )
            common.result(f"{count} images on Ray", rate, base, "images/s", "predict without Ray")
    first, last = counts[0], counts[-1]
    for name, index in (("the command's memory", 1), ("a worker's memory", 2)):
        title, against = f"{name}, {last} images", f"{first} images"
        common.result(title, found[last][index], found[first][index], "MiB", against)


if __name__ == "__main__":
    main()
