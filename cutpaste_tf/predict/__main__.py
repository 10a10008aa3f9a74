"""Scores new images with a finished run.

    python -m cutpaste_tf.predict --run=RUNDIR --images=DIR_OR_FILES --output=DIR [--maps]

Writes predictions.csv and predictions.jsonl: path, anomaly score, verdict and threshold of each
image. With --maps also an overlay of its anomaly map in maps/, the map itself beside it as .npy,
and, of runs with --maps=features, areas.csv: what of each image lies above the pixels' threshold.
Images may be of any size and format and any number; one that cannot be read is a row with its
error, and the exit status is then 2.

The threshold is the run's unless --threshold or --false_positive_rate gives another: an image whose
score is above it is anomalous.
"""

import pathlib
import sys
from collections.abc import Sequence

from cutpaste_tf import command
from cutpaste_tf.errors import UserError
from cutpaste_tf.predict import folder
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.predict.rows import CSV

# Nothing here imports TensorFlow before the command line is checked.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0, or 2 for a mistake of the user's or images that could not be read, told
      in one line on stderr.
    """
    return command.exit_status(
        lambda: _predict(sys.argv if argv is None else argv),
        interrupted="interrupted; nothing was written",
    )


def _predict(argv):
    arguments = _parser().parse_args(argv[1:])
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size={arguments.batch_size}: must be at least 1")
    if not arguments.output:
        raise UserError("--output=: must name a folder")
    output = pathlib.Path(arguments.output)
    with command.output_faults_as_user_errors(arguments.output):
        count = folder.count_images(arguments.images, output)
        model = RunModel(
            arguments.run, arguments.threshold, arguments.false_positive_rate, arguments.maps
        )
        summary = folder.predict(
            model,
            arguments.images,
            output,
            count=count,
            batch_size=arguments.batch_size,
            log=lambda text: print(text, flush=True),
        )
    if summary.failed:
        raise UserError(
            f"{summary.failed} of {summary.images} images have an error, the first: "
            f"{summary.first_error}; see {output / CSV}"
        )
    return 0


def _parser():
    parser = command.Parser(prog="python -m cutpaste_tf.predict", description=__doc__)
    parser.add_argument("--run", required=True, help="a finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        action="extend",
        help="images, or folders to search for them",
    )
    parser.add_argument("--output", required=True, help="the folder to write to")
    parser.add_argument("--maps", action="store_true", help="draw anomaly maps over the images")
    command.add_threshold_flags(parser)
    parser.add_argument(
        "--batch_size", type=int, default=32, help="images that are scored at a time; 32"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
