"""Prediction of millions of files by Ray's workers (extra `cluster`), in parts.

The output folder has the list of files, with a row group for each part; the rows of each part; and
the job's settings. The file of a part appears when it is complete. So the same command writes the
missing parts, whatever ended the job before.
"""

import functools
import itertools
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tqdm

from cutpaste_tf import cli, cluster
from cutpaste_tf.files import UserError, as_text, locked, replacing
from cutpaste_tf.predict import rows
from cutpaste_tf.predict.model import Model
from cutpaste_tf.threshold import Drift

SHARD = 1000  # files of a part; if a worker is lost, so is its work on one part
_FILES = "_files.parquet"
_RETRIES = 3  # of a part whose worker was lost
_FILES_SCHEMA = pa.schema({"path": pa.string()})
_NUMBERS = ("score", "relative_score", "threshold")
_TYPES = dict.fromkeys(_NUMBERS, pa.float64()) | {"drift": pa.bool_()}
_SCHEMA = pa.schema({name: _TYPES.get(name, pa.string()) for name in rows.COLUMNS})
_AREAS = pa.list_(pa.struct({name: pa.float64() for name in rows.AREA_COLUMNS[1:]}))


def predict(
    make_model: Callable[[], Model],
    settings: Mapping[str, Any],
    sources: Sequence[str | os.PathLike],
    output: pathlib.Path,
    *,
    batch_size: int,
    log: Callable[[str], None],
    **resources: Any,
) -> rows.Summary:
    """Scores images and writes their rows to parts in Parquet, or resumes such a job.

    Args:
      make_model: makes the model in each worker, so its paths are absolute.
      settings: what the rows depend on, apart from the images, by flag.
      sources: images, and folders of images.
      output: the folder to write to.
      batch_size: images at a time.
      log: takes a line of text.
      **resources: `address` of a Ray cluster; `cpus` and `gpus` of each worker, as in
        `cluster.share_out`.

    Returns:
      The counts of all parts' rows.
    """
    settings = {**settings, "images": [os.path.abspath(source) for source in sources]}
    if not any(output.glob(rows.PARTS)):
        next(rows.find_images(sources, output))  # Finds mistakes before anything is written.
    with locked(output / rows.LOCK, f"--output={output}: {rows.BUSY}"):
        _begin(output, settings)
        files = pq.read_metadata(output / _FILES)
        parts = [output.absolute() / f"part-{n:05d}.parquet" for n in range(files.num_row_groups)]
        missing = [(number, part) for number, part in enumerate(parts) if not part.exists()]
        count = sum(files.row_group(number).num_rows for number, _ in missing)
        done = len(parts) - len(missing)
        note = f", {done} of them written already" if done else ""
        log(f"{files.num_rows} images in {len(parts)} parts{note}")
        rate = ""
        if missing:
            root = rows.common_root(settings["images"])
            worker = make_model, output.absolute(), root, batch_size
            with tqdm.tqdm(total=count, unit="image", leave=False, disable=None) as bar:
                seconds = _score(missing, worker, bar, log, **resources)
            rate = f"; {count} in {seconds:.1f} s, {count / seconds:.1f} images a second"
        summary = rows.Summary()
        for part in parts:
            for row in pq.read_table(part, columns=list(rows.COLUMNS)).to_pylist():
                summary.add(row)
    log(f"{summary.anomalous} of {summary.scored} images anomalous{rate}")
    log(f"written to {output / rows.PARTS}")
    return summary


def _begin(output, settings):
    """Writes the job's settings and its list of files, unless the job is resumed."""
    try:
        earlier = json.loads((output / rows.JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    if earlier == settings:
        return
    if any(output.glob(rows.PARTS)):
        others = [f"--{name}" for name in settings if earlier.get(name) != settings[name]]
        raise UserError(
            f"--output={output}: holds a prediction with another {', '.join(others)}; name another "
            "folder"
        )
    (output / rows.JOB).unlink(missing_ok=True)  # It must never stand beside another job's list.
    paths = map(as_text, rows.find_images(settings["images"], output))
    with replacing(output / _FILES) as path, pq.ParquetWriter(path, _FILES_SCHEMA) as writer:
        while shard := list(itertools.islice(paths, SHARD)):
            writer.write_table(pa.table({"path": shard}, _FILES_SCHEMA), row_group_size=SHARD)
    with replacing(output / rows.JOB) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _score(missing, worker, bar, log, address=None, cpus=None, gpus=None):
    """Writes the missing parts by Ray's workers; returns the seconds."""
    ray = cluster.start(address, "--ray")
    try:
        cpus, gpus, slots = cluster.share_out(ray, "worker", cpus, gpus)
        workers = min(len(missing), slots)
        log(f"{workers} workers, of {cpus:g} CPUs and {gpus:g} GPUs each")
        began = time.perf_counter()
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_task_retries": _RETRIES}
        actor = ray.remote(max_restarts=-1, **options)(Worker)
        pool = ray.util.ActorPool([actor.remote(*worker, cpus, gpus) for _ in range(workers)])
        for count in pool.map_unordered(lambda one, part: one.write.remote(*part), missing):
            bar.update(count)
        return time.perf_counter() - began
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise UserError(
            f"--ray: {1 + _RETRIES} workers were lost at one part ({cluster.reason(error)}); if "
            "memory was short, set a larger --cpus_per_worker, for fewer workers, or a smaller "
            "--batch_size, and start again to resume"
        ) from error
    finally:
        ray.shutdown()


class Worker:
    """A Ray actor that scores the files of parts and writes their rows."""

    def __init__(self, make_model, output, root, batch_size, cpus, gpus):
        self._make_model, self._output, self._root = make_model, output, root
        self._batch_size, self._threads = batch_size, cluster.prepare_worker(cpus, gpus)

    @functools.cached_property
    def _model(self):
        # Not in the constructor, whose errors do not reach the user.
        if not self._root.is_dir():
            raise UserError(f"--images: {platform.node()} has no folder {self._root}")
        return self._make_model()

    def write(self, number: int, part: pathlib.Path) -> int:
        """Writes a part, by its number, to its file; returns the number of images."""
        model, output = self._model, self._output
        schema = _SCHEMA.append(pa.field("areas", _AREAS)) if rows.has_areas(model) else _SCHEMA
        with cli.writing("--output", output):
            with pq.ParquetFile(output / _FILES) as files:
                paths = map(pathlib.Path, files.read_row_group(number)["path"].to_pylist())
            options = self._root, self._batch_size, self._threads
            batches = rows.score_files(paths, model, Drift(model.normal_scores), output, *options)
            table = pa.Table.from_pylist(list(itertools.chain.from_iterable(batches)), schema)
            with replacing(part) as temporary:
                pq.write_table(table, temporary)
        return len(table)
