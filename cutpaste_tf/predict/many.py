"""A prediction of millions of files, on Ray (extra `cluster`).

It is done in parts of `SHARD` files. In the folder that is written to are

    _job.json           what is predicted
    _files.parquet      the list of files, as the first start found them; a row group is a part's
    part-00000.parquet  rows of a part

and with maps the overlays. A part takes its name when it is whole, so whatever ends the job, the
same command does those that are missing. Who reads a folder of Parquet passes over names that begin
with "_".

Nothing here imports TensorFlow.
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

from cutpaste_tf import cli, cluster
from cutpaste_tf.data import stream
from cutpaste_tf.files import UserError, as_text, locked, replacing
from cutpaste_tf.predict import folder
from cutpaste_tf.predict.model import Model
from cutpaste_tf.predict.rows import AREA_COLUMNS, COLUMNS, CSV, JOB, MAPS, Judge, common_root

PARTS = "part-*.parquet"
SHARD = 1000  # files; a worker that is lost loses what it has done of one part
_FILES, _LOCK = "_files.parquet", "_lock"
_RETRIES = 3  # of a part that ends its worker


def predict(
    make_model: Callable[[], Model],
    settings: Mapping[str, Any],
    sources: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    batch_size: int = 32,
    log: Callable[[str], None] = lambda text: None,
) -> folder.Summary:
    """Scores images and writes their rows to parts in Parquet, or goes on with that.

    `make_model` is called in each worker, so its paths are absolute. `settings` are what rows
    depend on besides the images, by flags' names, as JSON has it. An address, CPUs and GPUs of None
    are as in `cluster`. What is returned is of all parts.
    """
    pq = cluster.load("pyarrow.parquet", "--ray")
    output = pathlib.Path(output)
    settings = {**settings, "images": [os.path.abspath(source) for source in sources]}
    if not any(output.glob(PARTS)):
        folder.count_images(sources, output)  # A mistake is told before anything is written.
    busy = f"--output={output}: another command is at it; wait for its end, or name another folder"
    with locked(output / _LOCK, busy):
        _begin(output, settings)
        files = pq.read_metadata(output / _FILES)
        parts = [_part(output, i) for i in range(files.num_row_groups)]
        missing = [i for i, part in enumerate(parts) if not part.exists()]
        count = sum(files.row_group(i).num_rows for i in missing)
        there = len(parts) - len(missing)
        done = f", {there} are there already" if there else ""
        log(f"{files.num_rows} images in {len(parts)} parts{done}")
        seconds = 0.0
        if missing:
            worker = make_model, output.absolute(), common_root(settings["images"]), batch_size
            try:
                with cli.Progress(count, "image", log) as progress:
                    seconds = _score(missing, worker, address, cpus, gpus, progress, log)
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt("interrupted; start again to go on") from error
        summary = _summary(parts)
    rate = f"; {count} in {seconds:.1f} s, {count / seconds:.1f} images a second" if count else ""
    log(f"{summary.anomalous} of {summary.scored} images anomalous{rate}")
    log(f"written to {output / PARTS}")
    return summary


def _part(output, number):
    return output / f"part-{number:05d}.parquet"


def _begin(output, settings):
    """Writes the list of files, as it is found, unless this very job has been begun before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        before = json.loads((output / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    if before == settings:
        return
    if any(output.glob(PARTS)):
        others = [f"--{name}" for name in settings if before.get(name) != settings[name]]
        raise UserError(
            f"--output={output}: holds a prediction with other {', '.join(others)}; name another "
            "folder"
        )
    schema = pa.schema([("path", pa.string())])
    paths = map(as_text, stream.find(settings["images"], output / MAPS, CSV, JOB))
    with replacing(output / _FILES) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while shard := list(itertools.islice(paths, SHARD)):
            writer.write_table(pa.table({"path": shard}, schema), row_group_size=SHARD)
    with replacing(output / JOB) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _score(missing, arguments, address, cpus, gpus, progress, log):
    """Has Ray's workers write the parts that are missing; returns the seconds that takes."""
    ray = cluster.start(address, "--ray")
    try:
        cpus, gpus, slots = cluster.share_out(ray, "worker", cpus, gpus)
        workers = min(len(missing), slots)
        log(f"{workers} workers, of {cpus:g} CPUs and {gpus:g} GPUs each")
        began = time.perf_counter()
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_task_retries": _RETRIES}
        actor = ray.remote(max_restarts=-1, **options)(Worker)
        pool = ray.util.ActorPool([actor.remote(*arguments, cpus, gpus) for _ in range(workers)])
        for count in pool.map_unordered(lambda one, number: one.write.remote(number), missing):
            progress.update(count)
            progress.tell()
        return time.perf_counter() - began
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise  # a fault of the program
    except ray.exceptions.RayError as error:
        raise UserError(
            f"--ray: {1 + _RETRIES} workers were lost at one part ({cluster.reason(error)}); if "
            "they lacked memory, take fewer by a larger --cpus_per_worker, or a smaller "
            "--batch_size, and start again to go on"
        ) from error
    finally:
        ray.shutdown()


class Worker:
    """What an actor of Ray does: makes rows of the files of a part, and writes them."""

    def __init__(self, make_model, output, root, batch_size, cpus, gpus):
        self._make_model, self._output, self._root = make_model, output, root
        self._batch_size, self._threads = batch_size, cluster.prepare_worker(cpus, gpus)

    @functools.cached_property
    def _model(self):
        # Not made by the constructor: what is wrong there does not reach the user.
        if not self._root.is_dir():
            raise UserError(f"--images: there is no folder {self._root}")
        return self._make_model()

    def write(self, number: int) -> int:
        """Writes a part; returns how many images it has."""
        try:
            with cli.writing("--output", self._output):
                return self._write(number)
        except UserError as error:
            raise UserError(f"{error} (on {platform.node()})") from error

    def _write(self, number):
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._output / _FILES) as files:
            paths = files.read_row_group(number)["path"].to_pylist()
        judge = Judge(self._model, self._output, self._root, self._batch_size, self._threads)
        areas = self._model.scale is not None and self._model.scale.outlined
        rows = [
            judged.row | ({"areas": judged.areas} if areas else {})
            for batch in judge(map(pathlib.Path, paths))
            for judged in batch
        ]
        with replacing(_part(self._output, number)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, _schema(areas)), temporary)
        return len(rows)


def _schema(areas):
    import pyarrow as pa

    numbers = ("score", "threshold")
    columns = [(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS]
    if areas:
        numbers = [(name, pa.float64()) for name in AREA_COLUMNS if name != "path"]
        columns.append(("areas", pa.list_(pa.struct(numbers))))
    return pa.schema(columns)


def _summary(parts):
    """Counts what the parts say."""
    import pyarrow.parquet as pq

    summary = folder.Summary()
    for path in parts:
        try:
            rows = pq.read_table(path, columns=["path", "score", "verdict", "error"]).to_pylist()
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read; remove it and start again") from error
        for row in rows:
            summary.add(row)
    return summary
