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

import concurrent.futures
import contextlib
import csv
import dataclasses
import errno
import itertools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from cutpaste_tf import artifacts, command, machine, names
from cutpaste_tf.errors import UserError
from cutpaste_tf.threshold import VERDICTS

# Nothing here imports TensorFlow before the command line is checked.

CSV, JSONL, MAPS, AREAS = "predictions.csv", "predictions.jsonl", "maps", "areas.csv"
COLUMNS = ("path", "score", "verdict", "threshold", "map", "error")
AREA_COLUMNS = ("path", "left", "top", "width", "height", "pixels", "peak", "mean")
_LINE_SECONDS = 15.0  # between lines of a log file


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a prediction did.

    Attributes:
      images: images that there were.
      scored: those that got a score.
      anomalous: those of them whose score is above the threshold.
      failed: images that have no score, or no overlay where one was asked for.
      first_error: the first of these and why.
      seconds: wall-clock time from the first image on, without loading the run.
    """

    images: int
    scored: int
    anomalous: int
    failed: int
    first_error: str | None
    seconds: float


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
    with command.output_faults_as_user_errors(arguments.output):
        summary = predict(
            arguments.run,
            arguments.images,
            arguments.output,
            maps=arguments.maps,
            threshold=arguments.threshold,
            false_positive_rate=arguments.false_positive_rate,
            batch_size=arguments.batch_size,
            log=lambda text: print(text, flush=True),
        )
    if summary.failed:
        raise UserError(
            f"{summary.failed} of {summary.images} images have an error, the first: "
            f"{summary.first_error}; see {pathlib.Path(arguments.output) / CSV}"
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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after rows were written."""


def predict(
    run_dir: str | os.PathLike,
    sources: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    maps: bool = False,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    batch_size: int = 32,
    log: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Scores images and writes predictions.csv, predictions.jsonl and overlays.

    Args:
      run_dir: the folder of a finished run.
      sources: images, and folders to search for them.
      output: the folder to write to. The two files take their names when all is done, or at
        Ctrl-C; what was there before stays until then.
      maps: whether to draw anomaly maps: the run's own, or GradCAM's.
      threshold: takes the place of the run's.
      false_positive_rate: likewise, as the share of normal images above it.
      batch_size: images that are scored at a time.
      log: takes lines of text.

    Returns:
      What was done.

    Raises:
      UserError: for what the user can mend; what was in the two files stays then.
      Interrupted: at Ctrl-C, after the rows of what was scored were written.
    """
    output = pathlib.Path(output)
    chosen = artifacts.choose_threshold(run_dir, threshold, false_positive_rate)
    command.prepare_libraries()
    from cutpaste_tf.data import decode, stream
    from cutpaste_tf.detector import Detector
    from cutpaste_tf.report.overlay import Scale

    # Once for their number, and so that a mistake is told before anything is written.
    count = sum(1 for _ in stream.find(sources, output / MAPS, CSV))
    if not count:
        raise UserError(
            f"--images={' '.join(map(str, sources))}: no images there; files that end in "
            f"{', '.join(decode.SUFFIXES)} are"
        )
    detector = Detector.load(run_dir)
    if maps and not detector.makes_maps:
        raise UserError(
            f"--maps: {run_dir} has --density={detector.config.main_density}, and GradCAM needs a "
            "Gaussian's distance; leave --maps out"
        )
    scale = Scale.of_run(run_dir, detector.level, chosen) if maps else None
    log(f"threshold {chosen}; {count} images, on {machine.device()}")
    root = _root(sources)
    output.mkdir(parents=True, exist_ok=True)
    done = scored = anomalous = failed = 0
    first_error = None
    began = time.perf_counter()
    with (
        _files(output, areas=bool(maps and scale.outlined)) as (write, write_area),
        _Progress(count, log) as progress,
        concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
    ):
        files = stream.find(sources, output / MAPS, CSV)
        # As many inputs of the network at a time, whatever the number of an image's tiles.
        size = max(1, batch_size // detector.preparation.count)
        for batch in stream.batches(files, detector.preparation, size):
            rows, drawing = [], []
            scored_images = iter(_score(detector, batch.images, maps))
            for number, path in enumerate(batch.paths):
                row = dict.fromkeys(COLUMNS) | {"path": names.as_text(path)}
                row["threshold"] = chosen.value
                rows.append(row)
                if number in batch.errors:
                    row["error"] = batch.errors[number]
                    continue
                score, anomaly_map = next(scored_images)
                if not math.isfinite(score):
                    row["error"] = "the network's features of it are not finite"
                    continue
                row["score"] = score
                (row["verdict"],) = chosen.verdicts([score])
                if maps:
                    target = output / MAPS / _map_name(path, root)
                    row["map"] = names.as_text(target)
                    drawing.append((row, target, path, anomaly_map, scale, detector.preparation))
            areas = list(pool.map(_draw, *zip(*drawing, strict=True)) if drawing else ())
            for row in rows:
                done += 1
                scored += row["score"] is not None
                anomalous += row["verdict"] == VERDICTS[1]
                if row["error"] is not None:
                    failed += 1
                    first_error = first_error or f"{row['path']}: {row['error']}"
                write(row)
            for area in itertools.chain.from_iterable(areas):
                write_area(area)
            progress.update(len(rows))
    seconds = time.perf_counter() - began
    log(
        f"{anomalous} of {scored} images anomalous; {scored} images in {seconds:.1f} s, "
        f"{scored / seconds:.1f} images a second"
    )
    also = [AREAS] if maps and scale.outlined else []
    beside = [JSONL, *also, *([f"{MAPS}/"] if maps else [])]
    log(f"written to {output / CSV}, {', '.join(beside)}")
    return Summary(done, scored, anomalous, failed, first_error, seconds)


def _score(detector, images, maps):
    """Yields score and, if asked for, anomaly map of each image; NaN where there is no number."""
    if not images.count:
        return
    try:
        evaluation = detector.evaluate(images, maps=maps)
    except UserError:  # Some image's features are not finite; one by one it shows whose.
        if images.count == 1:
            yield math.nan, None
            return
        for index in range(images.count):
            yield from _score(detector, images.subset([index]), maps)
        return
    for index, score in enumerate(evaluation.scores):
        yield float(score), evaluation.maps.read([index])[0] if maps else None


def _draw(row, target, path, anomaly_map, scale, preparation):
    """Draws an image's overlay; what is wrong with one image's goes into its row.

    Returns the rows of areas.csv.
    """
    import numpy as np
    from PIL import Image

    from cutpaste_tf.data import decode
    from cutpaste_tf.localize import areas
    from cutpaste_tf.report.overlay import overlay

    try:
        image = decode.read(path, preparation.bits)
    except UserError as error:  # It has changed or gone since it was scored.
        row |= {"map": None, "error": str(error).removeprefix(f"{path}: ")}
        return []
    anomaly_map = preparation.over_image(anomaly_map, *image.shape[:2])
    picture = overlay(image, scale(anomaly_map, row["score"]), scale.outlined)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The smallest file takes ten times as long.
        Image.fromarray(picture).save(target, compress_level=1)
        np.save(target.with_suffix(".npy"), anomaly_map.astype(np.float32, copy=False))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        row |= {"map": None, "error": f"no overlay: {error.strerror}"}
    if not scale.outlined:
        return []
    found = areas.find(anomaly_map, scale.high, image.shape[:2])
    return [{"path": row["path"], **dataclasses.asdict(area)} for area in found]


def _root(sources):
    """The folder that the overlays' names are relative to."""
    folders = [p if p.is_dir() else p.parent for p in map(pathlib.Path, sources)]
    return pathlib.Path(os.path.commonpath([os.path.abspath(p) for p in folders]))


def _map_name(path, root):
    """An overlay's name: the image's, below the root, and always a png; no two are the same."""
    from cutpaste_tf.data import decode

    name = pathlib.Path(os.path.abspath(path)).relative_to(root)
    if not name.name.lower().endswith(decode.SUFFIXES):
        return name.with_name(name.name + ".image.png")
    if name.suffix == ".png" and not name.stem.lower().endswith(decode.SUFFIXES):
        return name
    return name.with_name(name.name + ".png")


@contextlib.contextmanager
def _files(
    output: pathlib.Path, areas: bool
) -> Iterator[tuple[Callable[[dict], None], Callable[[dict], None]]]:
    """Opens the files under other names; they take theirs if all goes well, or go.

    Yields what writes a row of predictions, and what writes one of areas.csv.
    """
    targets = [output / CSV, output / JSONL, *([output / AREAS] if areas else [])]
    temporary = [path.with_name(path.name + ".tmp") for path in targets]
    try:
        with contextlib.ExitStack() as opened:
            options = {"newline": "", "encoding": "utf-8"}
            table, lines, *rest = (
                opened.enter_context(open(path, "w", **options)) for path in temporary
            )
            writer = csv.DictWriter(table, COLUMNS)
            writer.writeheader()

            def write(row):
                lines.write(json.dumps(row, allow_nan=False) + "\n")
                writer.writerow(_exact(row, ("score", "threshold")))

            area_writer = csv.DictWriter(rest[0], AREA_COLUMNS) if rest else None
            if rest:
                area_writer.writeheader()

            def write_area(row):
                area_writer.writerow(_exact(row, ("peak", "mean")))

            yield write, write_area
        _rename(temporary, targets)
    except KeyboardInterrupt as error:  # What is scored is scored.
        _rename(temporary, targets)
        raise Interrupted(f"interrupted; what was scored is in {output}") from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _exact(row, numbers):
    """A row with numbers as they are read back to the last bit."""
    return row | {name: None if row[name] is None else repr(row[name]) for name in numbers}


def _rename(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        if source.is_file():
            os.replace(source, target)


class _Progress:
    """A bar in a terminal; in a log file a line now and then."""

    def __init__(self, total, log):
        self._total, self._log, self._done = total, log, 0

    def __enter__(self):
        import tqdm

        self._began = self._said = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=self._total, unit="image", dynamic_ncols=True, leave=False)
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()

    def update(self, count):
        self._done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(count)
        elif now - self._said >= _LINE_SECONDS:
            self._said = now
            left = (now - self._began) / self._done * (self._total - self._done)
            self._log(f"{self._done} of {self._total} images, {math.ceil(left)} s left")


if __name__ == "__main__":
    sys.exit(main())
