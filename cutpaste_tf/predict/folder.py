"""Prediction of files and folders."""

import os
import pathlib
import time
from collections.abc import Callable, Sequence

import tqdm

from cutpaste_tf.files import locked
from cutpaste_tf.predict import rows
from cutpaste_tf.predict.model import Model
from cutpaste_tf.threshold import Drift


def predict(
    model: Model,
    sources: Sequence[str | os.PathLike],
    output: pathlib.Path,
    *,
    count: int,
    batch_size: int,
    log: Callable[[str], None],
) -> rows.Summary:
    """Scores images and writes predictions.csv, predictions.jsonl and, with maps, overlays.

    `count` is the number of images. The tables replace earlier ones at the end or at Ctrl-C, which
    raises KeyboardInterrupt. After an error the earlier tables stay.
    """
    log(f"threshold {model.threshold}; {count} images, on {model.device}")
    images, root = rows.find_images(sources, output), rows.common_root(sources)
    summary, interrupted = rows.Summary(), False
    drift, began = Drift(model.normal_scores), time.perf_counter()
    with (
        locked(output / rows.LOCK, f"--output={output}: {rows.BUSY}"),
        rows.open_tables(output, model) as tables,
        tqdm.tqdm(total=count, unit="image", leave=False, disable=None) as bar,
    ):
        try:
            for batch in rows.score_files(images, model, drift, output, root, batch_size):
                for row in batch:
                    summary.add(row)
                    tables.write(row)
                bar.update(len(batch))
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt(f"interrupted; the scores so far are in {output}")
    seconds = time.perf_counter() - began
    log(
        f"{summary.anomalous} of {summary.scored} images anomalous; {summary.scored} images in "
        f"{seconds:.1f} s, {summary.scored / seconds:.1f} images a second"
    )
    log(f"written to {output}")
    return summary
