"""Runs benchmarks one after the other and prints all their ratios in one table.

    python -m experiments.benchmarks [NAME ...] [--markdown] [--rounds=N]

Run it from the root of the repository. Without names, it runs all benchmarks except
anomalib_models.py and pixel_gaussian.py, which need a data set, and ray_prediction.py, which needs
Ray. Each benchmark is a script with its own flags, and runs in a fresh process here.
"""

import argparse
import pathlib
import subprocess
import sys

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


def table(results: list[common.Result], markdown: bool) -> str:
    """Returns the results as a table, in Markdown or aligned by spaces."""
    rows = [("", "ours", "baseline", "unit", "ratio", "against")]
    rows += [
        (r.name, f"{r.ours:.4g}", f"{r.baseline:.4g}", r.unit, f"{r.ratio:.2f}", r.against)
        for r in results
    ]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main() -> int:
    """Runs the named benchmarks, and returns the exit status: 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
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
    print(table(results, arguments.markdown))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
