"""A prediction of files and folders, from the first image to the last.

Nothing here imports TensorFlow.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence

from cutpaste_tf import command
from cutpaste_tf.data import search, stream
from cutpaste_tf.files import UserError
from cutpaste_tf.predict import tables
from cutpaste_tf.predict.model import Model
from cutpaste_tf.predict.rows import AREAS, CSV, JOB, JSONL, MAPS, Judge, common_root
from cutpaste_tf.threshold import VERDICTS


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


def count_images(sources: Sequence[str | os.PathLike], output: pathlib.Path) -> int:
    """Counts the images to score; a UserError says if there are none, or a source is missing."""
    count = sum(1 for _ in stream.find(sources, output / MAPS, CSV, JOB))
    if not count:
        raise UserError(
            f"--images={' '.join(map(str, sources))}: no images there; files that end in "
            f"{search.endings()} are"
        )
    return count


def predict(
    model: Model,
    sources: Sequence[str | os.PathLike],
    output: pathlib.Path,
    *,
    count: int,
    batch_size: int,
    log: Callable[[str], None],
) -> Summary:
    """Scores images and writes predictions.csv, predictions.jsonl and, with maps, overlays.

    Args:
      model: what scores them.
      sources: images, and folders to search for them.
      output: the folder to write to. The tables take their names when all is done, or at Ctrl-C;
        what was there before stays until then.
      count: how many images there are, as `count_images` returns.
      batch_size: inputs of the network at a time.
      log: takes lines of text.

    Returns:
      What was done.

    Raises:
      UserError: for what the user can mend; what was in the tables stays then.
      KeyboardInterrupt: at Ctrl-C, after the rows of what was scored were written.
    """
    log(f"threshold {model.threshold}; {count} images, on {model.device}")
    judge = Judge(model, output, common_root(sources), batch_size)
    areas = model.scale is not None and model.scale.outlined
    output.mkdir(parents=True, exist_ok=True)
    done = scored = anomalous = failed = 0
    first_error = None
    began = time.perf_counter()
    with (
        tables.written(output, areas) as write,
        command.Progress(count, "image", log) as progress,
    ):
        for batch in judge(stream.find(sources, output / MAPS, CSV, JOB)):
            for judged in batch:
                row = judged.row
                done += 1
                scored += row["score"] is not None
                anomalous += row["verdict"] == VERDICTS[1]
                if row["error"] is not None:
                    failed += 1
                    first_error = first_error or f"{row['path']}: {row['error']}"
                write(judged)
            progress.update(len(batch))
            progress.tell()
    seconds = time.perf_counter() - began
    log(
        f"{anomalous} of {scored} images anomalous; {scored} images in {seconds:.1f} s, "
        f"{scored / seconds:.1f} images a second"
    )
    also = [AREAS] if areas else []
    beside = [JSONL, *also, *([f"{MAPS}/"] if model.scale is not None else [])]
    log(f"written to {output / CSV}, {', '.join(beside)}")
    return Summary(done, scored, anomalous, failed, first_error, seconds)
