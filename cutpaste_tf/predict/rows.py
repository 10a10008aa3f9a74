"""Files become rows of a table, and with maps overlays and areas.

Nothing here imports TensorFlow.
"""

import concurrent.futures
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cutpaste_tf.data import decode, stream
from cutpaste_tf.files import as_text
from cutpaste_tf.predict.model import Model

CSV, JSONL, MAPS, AREAS = "predictions.csv", "predictions.jsonl", "maps", "areas.csv"
JOB = "_job.json"  # in place of the tables, of a prediction in parts
COLUMNS = ("path", "score", "verdict", "threshold", "map", "error")
AREA_COLUMNS = ("path", "left", "top", "width", "height", "pixels", "peak", "mean")


class Judged(NamedTuple):
    """What is known of a file: its row, by `COLUMNS`, and its areas, by `AREA_COLUMNS[1:]`."""

    row: dict
    areas: Sequence[dict]


class Judge:
    """Makes rows of files; overlays go to `MAPS` in `output`, their names are relative to `root`.

    There are `threads` that read files and, four at most, that draw; one for each core by default.
    """

    def __init__(
        self,
        model: Model,
        output: pathlib.Path,
        root: pathlib.Path,
        batch_size: int = 32,
        threads: int | None = None,
    ):
        self._model, self._maps, self._root = model, output / MAPS, root
        self._threads = threads or os.cpu_count() or 1
        # As many inputs at a time, whatever the number of an image's tiles.
        self._batch_size = max(1, batch_size // model.inputs)

    def __call__(self, paths: Iterable[pathlib.Path]) -> Iterator[list[Judged]]:
        """Yields what is known of files, batch by batch and in their order.

        Overlays are written before their rows are yielded. What is wrong with a file is in its row.
        """
        model, keep = self._model, self._model.scale is not None
        batches = stream.batches(
            paths, model.prepare, self._batch_size, model.bits, self._threads, keep
        )
        with concurrent.futures.ThreadPoolExecutor(min(4, self._threads)) as pool:
            for batch in batches:
                good = [one for one in batch if one.error is None]
                scored = iter(model.score([o.prepared for o in good], [o.size for o in good]))
                found = [next(scored) if one.error is None else (None, None) for one in batch]
                judged = list(pool.map(self._judge, batch, *zip(*found, strict=True)))
                del batch, good  # and with them their images
                yield judged

    def _judge(self, read, score, anomaly_map):
        threshold = self._model.threshold
        row = dict.fromkeys(COLUMNS) | {"path": as_text(read.path)}
        row |= {"threshold": threshold.value, "error": read.error}
        areas = []
        if score is not None and not math.isfinite(score):
            row["error"] = "the network's features of it are not finite"
        elif score is not None:
            row["score"] = score
            (row["verdict"],) = threshold.verdicts([score])
            if anomaly_map is not None:
                areas = self._draw(row, read, anomaly_map)
        return Judged(row, areas)

    def _draw(self, row, read, anomaly_map):
        """Draws an image's overlay, says in its row where, and returns its areas."""
        from PIL import Image

        from cutpaste_tf.draw.overlay import overlay
        from cutpaste_tf.scoring import areas

        scale = self._model.scale
        target = self._maps / map_name(read.path, self._root)
        anomaly_map = self._model.over_image(anomaly_map, *read.size)
        picture = overlay(read.image, scale(anomaly_map, row["score"]), scale.outlined)
        target.parent.mkdir(parents=True, exist_ok=True)
        # The smallest file takes ten times as long.
        Image.fromarray(picture).save(target, compress_level=1)
        np.save(target.with_suffix(".npy"), anomaly_map.astype(np.float32, copy=False))
        row["map"] = str(target)
        found = areas.find(anomaly_map, scale.high, read.size) if scale.outlined else []
        return list(map(dataclasses.asdict, found))


def common_root(sources: Sequence[str | os.PathLike]) -> pathlib.Path:
    """Returns the folder that the overlays' names are relative to."""
    folders = [p if p.is_dir() else p.parent for p in map(pathlib.Path, sources)]
    return pathlib.Path(os.path.commonpath([os.path.abspath(p) for p in folders]))


def map_name(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Returns an overlay's name: the image's, below the root, and a png; no two are the same."""
    name = pathlib.Path(os.path.abspath(path)).relative_to(root)
    if not name.name.lower().endswith(decode.SUFFIXES):
        return name.with_name(name.name + ".image.png")
    # NAME.image.png is the overlay of NAME.
    if name.suffix == ".png" and not name.stem.lower().endswith((*decode.SUFFIXES, ".image")):
        return name
    return name.with_name(name.name + ".png")
