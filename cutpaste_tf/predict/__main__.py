"""Scores new images with a finished run, or with an ONNX file that was exported from one.

    python -m cutpaste_tf.predict --run=RUNDIR --images=DIR_OR_FILES --output=DIR [--maps]
    python -m cutpaste_tf.predict --model=model.onnx --images=DIR_OR_FILES --output=DIR [--maps]

Writes predictions.csv and predictions.jsonl, with a row for each image: path, anomaly score,
verdict, threshold, and the score relative to normal images, with 0 at their median and 1 at the
threshold. --maps also writes, into maps/, the overlay of each image's anomaly map and the map
itself as .npy; and for runs with --maps=features, areas.csv, which lists each area above the
threshold of pixels.

An image with a score above the threshold is anomalous. The threshold is the run's, unless
--threshold or --false_positive_rate gives another. The column drift and one printed line say
whether images as a whole are unlike the training images. An image that cannot be read has a row
with its error, and the exit status is then 2.

--model needs ONNX Runtime, but neither the run nor TensorFlow.

--watch scores images as they arrive in a folder, until SIGTERM or Ctrl-C, and adds their rows to
those of an earlier watch.

--ray is for millions of images: Ray's workers (extra `cluster`) write the rows to Parquet files,
and the same command resumes an interrupted job. --ray=ADDRESS joins a cluster, whose machines need
cutpaste-tf and the same folders.
"""

import functools
import os
import pathlib
import sys
from collections.abc import Sequence

from cutpaste_tf import choices, cli, cluster, run_folder
from cutpaste_tf.files import UserError, say, warn
from cutpaste_tf.predict import folder, rows, watch
from cutpaste_tf.predict.exported import OnnxModel
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.threshold import Drift

# ONNX Runtime is no faster with more images at a time, and holds images at their own size.
_BATCH_SIZE, _BATCH_SIZE_OF_ONNX = 32, 8


@cli.command(interrupted="interrupted; nothing was written")
def main(arguments: Sequence[str]) -> int:
    """Runs a command line, sys.argv by default; returns 2 even if only single images failed."""
    arguments = _parser().parse_args(arguments)
    images, output = arguments.images, pathlib.Path(arguments.output)
    model, path, batch_size = RunModel, arguments.run, _BATCH_SIZE
    if arguments.run is None:
        model, path, batch_size = OnnxModel, arguments.model, _BATCH_SIZE_OF_ONNX
    threshold = arguments.threshold, arguments.false_positive_rate
    # The path is absolute, as Ray's workers run in another folder.
    make_model = functools.partial(model, os.path.abspath(path), *threshold, arguments.maps)
    options = {"batch_size": arguments.batch_size or batch_size, "log": say}
    with cli.writing("--output", output):
        if arguments.watch:
            if len(images) > 1 or not os.path.isdir(images[0]) or arguments.ray is not None:
                raise UserError("--watch: needs a single folder as --images, and no --ray")
            # Finds mistakes before the model loads; there may be no image yet.
            next(rows.find_images(images, output, say), None)
            return watch.watch(images[0], output, make_model(), **options)
        if (output / watch.LOCK).exists():
            raise UserError(
                f"--output={output}: holds the tables of a --watch; name another folder"
            )
        if arguments.ray is not None:
            summary, table = _predict_parts(arguments, make_model, options), rows.PARTS
        else:
            options["count"] = sum(1 for _ in rows.find_images(images, output))
            summary, table = folder.predict(make_model(), images, output, **options), rows.CSV
    if summary.drifting:
        warn(
            f"warning: drift at {summary.drifting} of {summary.scored} images, the first "
            f"{summary.first_drifting}: {Drift.ADVICE}"
        )
    if summary.failed:
        raise UserError(
            f"{summary.failed} of {summary.images} images have an error, the first: "
            f"{summary.first_error}; see the column error in {output / table}"
        )
    return 0


def _predict_parts(arguments, make_model, options):
    """Predicts on Ray; finds mistakes before anything is written."""
    cluster.load("pyarrow.parquet", "--ray")
    from cutpaste_tf.predict import parallel

    gpus = arguments.gpus_per_worker
    if arguments.model is None:
        config = run_folder.checked(arguments.run)
        settings = {"run": run_folder.checksums(arguments.run, config)}
        given = arguments.threshold, arguments.false_positive_rate
        threshold = run_folder.choose_threshold(arguments.run, *given)
    else:
        threshold = make_model().threshold
        settings = {"model": run_folder.checksum(arguments.model)}
        gpus = gpus or 0.0  # ONNX Runtime runs on the CPU.
    settings |= {"threshold": threshold.value, "maps": arguments.maps}
    options |= {"address": arguments.ray or None, "cpus": arguments.cpus_per_worker, "gpus": gpus}
    output = pathlib.Path(arguments.output)
    try:
        return parallel.predict(make_model, settings, arguments.images, output, **options)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; start again to resume") from error


def _parser():
    parser = cli.Parser("predict", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="a finished run: WORKDIR/CATEGORY/seed_N")
    source.add_argument("--model", help="an ONNX file that was exported from a run")
    add = parser.add_argument
    add("--images", nargs="+", action="extend", required=True, help="images, or folders of images")
    add("--output", required=True, help="the folder to write to")
    add("--watch", action="store_true", help="score images as they arrive in a folder")
    add("--maps", action="store_true", help="write anomaly maps, and overlays of them")
    parser.add_threshold()
    text = f"images at a time; default {_BATCH_SIZE}, with --model {_BATCH_SIZE_OF_ONNX}"
    parser.add("batch_size", choices.whole(1), text, parse=int)
    text = "distribute the images over Ray's workers, on this machine or the cluster at an address"
    add("--ray", nargs="?", const="", metavar="ADDRESS", help=text)
    cluster.add_flags(parser, "worker")
    return parser


if __name__ == "__main__":
    sys.exit(main())
