"""Runs benchmarks one after the other and prints all their ratios in one table.

    python -m experiments.benchmarks [NAME ...] [--markdown] [--rounds=N]

Without names all of them but anomalib_models.py and pixel_gaussian.py, which need a data set, and
ray_prediction.py, which needs Ray. Each is a script that can be run by itself, with flags of its
own, and runs in a fresh process here. From the root of the repository.
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
    found = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            one = common.read_result(line)
            if one is None:
                print(line, end="", flush=True)
            else:
                found.append(one)
    return None if process.returncode else found


def table(results: list[common.Result], markdown: bool) -> str:
    """Lays the ratios out.

    Args:
      results: of all scripts.
      markdown: whether as a table for a README.

    Returns:
      A line for each.
    """
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
    """Runs what is named, and returns the exit status: 1 if a script failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--markdown", action="store_true", help="print the table for a README")
    parser.add_argument("--rounds", type=int, help="measurements of each method")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"{name}: must be one of {', '.join(NAMES)}")
    flags = [] if arguments.rounds is None else [f"--rounds={arguments.rounds}"]
    results, failed = [], []
    for name in arguments.names or NAMES:
        print(f"== {name}", flush=True)
        found = run(name, flags)
        if found is None:
            failed.append(name)
        else:
            results += found
        print(flush=True)
    print(table(results, arguments.markdown))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
