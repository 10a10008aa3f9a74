"""The rows of a prediction, one for each image: making, counting and writing them."""

import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from cutpaste_tf.data import decode, search, stream
from cutpaste_tf.files import UserError, as_text, replacing
from cutpaste_tf.predict.model import Model
from cutpaste_tf.threshold import VERDICTS, Drift

CSV, JSONL, MAPS, AREAS = "predictions.csv", "predictions.jsonl", "maps", "areas.csv"
JOB, PARTS = "_job.json", "part-*.parquet"  # with --ray, instead of the tables
LOCK = "_lock"  # stays in the output folder
BUSY = "another command writes there; wait for its end, or name another folder"
COLUMNS = ("path", "score", "relative_score", "verdict", "threshold", "drift", "map", "error")
AREA_COLUMNS = ("path", "left", "top", "width", "height", "pixels", "peak", "mean")


def find_images(
    sources: Sequence[str | os.PathLike],
    output: pathlib.Path,
    warn: Callable[[str], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Finds the images of files and folders, without overlays; see `stream.find`.

    A UserError says that a source is missing or, without `warn`, that there are no images.
    """
    empty = True
    for path in stream.find(sources, output / MAPS, CSV, JOB, warn=warn):
        empty = False
        yield path
    if empty and warn is None:
        raise UserError(
            f"--images={' '.join(map(str, sources))}: no images there; images end in "
            f"{search.endings()}"
        )


def has_areas(model: Model) -> bool:
    """Whether the model has a threshold of pixels, and so areas above it."""
    return model.scale is not None and model.scale.outlined


def score_files(
    paths: Iterable[pathlib.Path],
    model: Model,
    drift: Drift,
    output: pathlib.Path,
    root: pathlib.Path,
    batch_size: int,
    threads: int | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Scores files, and yields their rows batch by batch, in the order of the files.

    Each row has `COLUMNS` and `areas`, a list of dicts with `AREA_COLUMNS[1:]`. The scores are
    added to `drift`. Overlays are written before their rows are yielded, into the same folders
    below `MAPS` as the images have below `root`.
    """
    # A tile counts as an image, so that batches need the same memory with and without tiles.
    batch_size = max(1, batch_size // model.inputs)
    options = batch_size, model.bits, threads, model.scale is not None
    batches = stream.batches(paths, model.prepare, *options)
    make_row = functools.partial(_make_row, model, output / MAPS, root)
    with concurrent.futures.ThreadPoolExecutor(min(4, threads or 4)) as pool:
        for batch in batches:
            readable = [file for file in batch if file.error is None]
            scores = iter(model.score([x.prepared for x in readable], [x.size for x in readable]))
            results = [next(scores) if file.error is None else (None, None) for file in batch]
            rows = list(pool.map(make_row, batch, results))
            for row in rows:
                if row["score"] is not None:
                    row["drift"] = drift.add(row["score"])
            del batch, readable, results  # Frees the images' memory.
            yield rows


def _make_row(model, maps, root, file, result):
    score, anomaly_map = result
    row = dict.fromkeys(COLUMNS) | {"path": as_text(file.path), "error": file.error, "areas": []}
    row["threshold"] = model.threshold.value
    if score is None:
        return row
    if not math.isfinite(score):
        row["error"] = "the network's features of the image are not finite"
        return row
    row["score"], row["relative_score"] = score, model.threshold.relative(score)
    (row["verdict"],) = model.threshold.verdicts([score])
    if anomaly_map is not None:
        target = maps / map_name(file.path, root)
        row["map"] = as_text(target)
        row["areas"] = _write_map(target, model, file, score, anomaly_map)
    return row


def _write_map(target, model, file, score, anomaly_map):
    """Writes an image's overlay and map; returns the areas above the threshold of pixels."""
    from PIL import Image

    from cutpaste_tf.draw.overlay import overlay
    from cutpaste_tf.scoring import areas

    scale = model.scale
    anomaly_map = model.over_image(anomaly_map, *file.size)
    picture = overlay(file.image, scale(anomaly_map, score), scale.outlined)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The best compression takes ten times as long.
    Image.fromarray(picture).save(target, compress_level=1)
    np.save(target.with_suffix(".npy"), anomaly_map.astype(np.float32, copy=False))
    if not scale.outlined:
        return []
    return areas.find(anomaly_map, scale.high, file.size)


def common_root(sources: Sequence[str | os.PathLike]) -> pathlib.Path:
    """Returns the folder that the overlays' names are relative to."""
    folders = [p if p.is_dir() else p.parent for p in map(pathlib.Path, sources)]
    return pathlib.Path(os.path.commonpath([os.path.abspath(p) for p in folders]))


def map_name(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Returns an overlay's unique name: the image's path below the root, with the ending png."""
    name = pathlib.Path(os.path.abspath(path)).relative_to(root)
    if not name.name.lower().endswith(decode.SUFFIXES):
        return name.with_name(name.name + ".image.png")
    # NAME.image.png is the overlay of NAME.
    if name.suffix == ".png" and not name.stem.lower().endswith((*decode.SUFFIXES, ".image")):
        return name
    return name.with_name(name.name + ".png")


@dataclasses.dataclass
class Summary:
    """Counts of rows. Each image has either a score or an error."""

    images: int = 0
    scored: int = 0
    anomalous: int = 0
    drifting: int = 0
    first_drifting: str | None = None
    first_error: str | None = None

    @property
    def failed(self) -> int:
        """How many images have an error."""
        return self.images - self.scored

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row."""
        self.images += 1
        self.scored += row["score"] is not None
        self.anomalous += row["verdict"] == VERDICTS[1]
        if row["drift"]:
            self.drifting += 1
            self.first_drifting = self.first_drifting or row["path"]
        if row["error"] is not None and self.first_error is None:
            self.first_error = f"{row['path']}: {row['error']}"


@contextlib.contextmanager
def open_tables(output: pathlib.Path, model: Model, *, resume: bool = False) -> Iterator["Tables"]:
    """Opens the tables in a folder, which replace earlier ones at the end of the block.

    With `resume`, predictions.jsonl gets further lines, and the other tables begin anew at once.
    """
    with contextlib.ExitStack() as stack:
        files = []
        for name in (JSONL, CSV, AREAS) if has_areas(model) else (JSONL, CSV):
            path = output / name if resume else stack.enter_context(replacing(output / name))
            mode = "a" if resume and name == JSONL else "w"
            file = open(path, mode, encoding="utf-8", newline="")  # noqa: SIM115
            files.append(stack.enter_context(file))
        columns = zip(files[1:], (COLUMNS, AREA_COLUMNS), strict=False)
        spreadsheets = [csv.DictWriter(*pair, extrasaction="ignore") for pair in columns]
        for spreadsheet in spreadsheets:
            spreadsheet.writeheader()
        yield Tables(files, spreadsheets)


@dataclasses.dataclass
class Tables:
    """Writes rows to the open tables: predictions.jsonl, predictions.csv and perhaps areas.csv."""

    files: Sequence[TextIO]
    spreadsheets: Sequence[csv.DictWriter]  # of all files but the first

    def write(self, row: dict[str, Any], **more: Any) -> None:
        """Writes a row to all tables; `more` goes only into predictions.jsonl."""
        line = {name: row[name] for name in COLUMNS} | more
        self.files[0].write(json.dumps(line, allow_nan=False) + "\n")
        self.write_spreadsheets(row)

    def write_spreadsheets(self, row: dict[str, Any]) -> None:
        """Writes a row to predictions.csv and its areas to areas.csv."""
        self.spreadsheets[0].writerow(row)
        for spreadsheet in self.spreadsheets[1:]:
            spreadsheet.writerows({"path": row["path"], **area} for area in row["areas"])

    def flush(self) -> None:
        """Flushes all tables, and brings predictions.jsonl to the disk."""
        for file in self.files:
            file.flush()
        os.fsync(self.files[0].fileno())
