"""Draws the paper's figures from finished runs.

    python -m cutpaste_tf.figures --figure=2 --run=RUNDIR [--run=RUNDIR ...] [--output=DIR]
    python -m cutpaste_tf.figures --figure=2,3,5,6 --run=RUNDIR

    2  normal images, their views by Cutout, Scar, CutPaste and CutPaste-Scar, and anomalous images
    3  t-SNE of the embeddings of normal images, of anomalous images, and of normal images with a
       pasted patch or scar
    4  test images, their masks, and the anomaly maps of several runs side by side, such as a patch
       model's and GradCAM's; the paper's figures 7 to 21 show the same
    5  the views of all proxy tasks, with the run's normal images and settings
    6  the synthetic anomalies of --test_anomalies, made from the run's normal test images

Figures 2 and 3 take runs of several categories. Each figure is written as PNG and PDF.
"""

import os
import sys
from collections.abc import Sequence

from cutpaste_tf import choices, cli
from cutpaste_tf.files import UserError, say

# How many images each figure shows; figure 3 embeds so many images of each kind and run.
COUNTS = {"2": 5, "3": 200, "4": 24, "5": 6, "6": 6}


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    parser = cli.Parser("figures", __doc__)
    parser.add_argument(
        "--figure", required=True, help=f"one or more of {', '.join(COUNTS)}, separated by commas"
    )
    parser.add_argument(
        "--run", action="append", required=True, help="a finished run's folder; may be repeated"
    )
    parser.add_argument("--data_dir", help="where the images are, if they have moved")
    counts = ", ".join(f"{count} in figure {number}" for number, count in COUNTS.items())
    text = f"how many images; default {counts}"
    parser.add("count", choices.whole(1), text, parse=int)
    parser.add_argument(
        "--output", help="the folder to write to; default figures/ in the first run"
    )
    arguments = parser.parse_args(arguments)
    numbers, runs = arguments.figure.split(","), arguments.run
    for number in numbers:
        if number not in COUNTS:
            raise UserError(f"--figure={number}: must be one of {', '.join(COUNTS)}")
        if number in ("5", "6") and len(runs) > 1:
            raise UserError(f"--run={runs[1]}: figure {number} shows only one run")

    from cutpaste_tf.draw.figures import drawing
    from cutpaste_tf.run import paper_figures

    folder = arguments.output or os.path.join(runs[0], "figures")
    for number in numbers:
        count = arguments.count or COUNTS[number]
        with drawing():
            figure = paper_figures.FIGURES[number](runs, count, arguments.data_dir)
            with cli.writing("--output", folder):
                os.makedirs(folder, exist_ok=True)
                for ending in ("png", "pdf"):
                    path = os.path.join(folder, f"figure_{number}.{ending}")
                    figure.savefig(path, dpi=120)
                    say(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
