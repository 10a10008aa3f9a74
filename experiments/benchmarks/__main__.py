"""Runs benchmarks one after the other and prints all their ratios in one table.

    python -m experiments.benchmarks [NAME ...] [--rounds=N]

Run it from the root of the repository. Without names, it runs all benchmarks except
anomalib_models.py, which needs a data set, and ray_prediction.py, which needs Ray. Each benchmark
is a script with its own flags, and runs in a fresh process here.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys

import pandas as pd

from experiments.benchmarks import common

FOLDER = pathlib.Path(__file__).parent
NAMES = (
    "augmentation",
    "training_step",
    "finetuning_step",
    "input_pipeline",
    "scoring",
    "anomaly_maps",
    "density",
    "locations",
    "tiles",
    "pixel_metrics",
    "startup",
    "memory",
    "cost",
)


def run(name: str, flags: list[str]) -> list[common.Result] | None:
    """Runs a script, showing its output; returns its ratios, or None if it fails."""
    command = [sys.executable, "-u", str(FOLDER / f"{name}.py"), *flags]
    results = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            result = common.read_result(line)
            if result is None:
                print(line, end="", flush=True)
            else:
                results.append(result)
    return None if process.returncode else results


def table(results: list[common.Result]) -> str:
    """Returns the results as a table in Markdown."""
    rows = pd.DataFrame([dataclasses.asdict(result) for result in results])
    return rows.to_markdown(index=False, floatfmt=".4g")


def main() -> int:
    """Runs the named benchmarks, and returns the exit status: 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, help="measurements of each method")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"{name}: must be one of {', '.join(NAMES)}")
    flags = [] if arguments.rounds is None else [f"--rounds={arguments.rounds}"]
    results, failed = [], []
    for name in arguments.names or NAMES:
        print(f"== {name}", flush=True)
        its_results = run(name, flags)
        if its_results is None:
            failed.append(name)
        else:
            results += its_results
        print(flush=True)
    print(table(results))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
