"""A prediction of files and folders, from the first image to the last.

Nothing here imports TensorFlow.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cutpaste_tf import cli
from cutpaste_tf.data import search, stream
from cutpaste_tf.files import UserError
from cutpaste_tf.predict import tables
from cutpaste_tf.predict.model import Model
from cutpaste_tf.predict.rows import AREAS, CSV, JOB, JSONL, MAPS, Judge, common_root
from cutpaste_tf.threshold import VERDICTS


@dataclasses.dataclass
class Summary:
    """What a prediction did; `failed` images have no score, or no overlay as was asked for."""

    images: int = 0
    scored: int = 0
    anomalous: int = 0
    failed: int = 0
    first_error: str | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts an image by its row."""
        self.images += 1
        self.scored += row["score"] is not None
        self.anomalous += row["verdict"] == VERDICTS[1]
        if row["error"] is not None:
            self.failed += 1
            self.first_error = self.first_error or f"{row['path']}: {row['error']}"


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

    The tables take their names when all is done, or at Ctrl-C, which is raised then; what was there
    before stays until then, and after a mistake of the user's. `count` is as `count_images` has it.
    """
    log(f"threshold {model.threshold}; {count} images, on {model.device}")
    judge = Judge(model, output, common_root(sources), batch_size)
    areas = model.scale is not None and model.scale.outlined
    output.mkdir(parents=True, exist_ok=True)
    summary = Summary()
    began = time.perf_counter()
    with (
        tables.written(output, areas) as write,
        cli.Progress(count, "image", log) as progress,
    ):
        for batch in judge(stream.find(sources, output / MAPS, CSV, JOB)):
            for judged in batch:
                summary.add(judged.row)
                write(judged)
            progress.update(len(batch))
            progress.tell()
    seconds = time.perf_counter() - began
    log(
        f"{summary.anomalous} of {summary.scored} images anomalous; {summary.scored} images in "
        f"{seconds:.1f} s, {summary.scored / seconds:.1f} images a second"
    )
    also = [AREAS] if areas else []
    beside = [JSONL, *also, *([f"{MAPS}/"] if model.scale is not None else [])]
    log(f"written to {output / CSV}, {', '.join(beside)}")
    return summary
