"""A prediction of millions of files, on Ray Data (extra `cluster`).

It is done shard by shard. In the folder that is written to are

    _job.json           what is predicted; written after the list, so that the list is whole
    _files.parquet      the list of files, as the job found them; a row group is a shard's
    part-00000.parquet  rows of a shard
    _SUCCESS            says that all shards are there

and with maps the overlays. A part takes its name when it is whole, so whatever ends the job, the
same command does those that are missing. Who reads a folder of Parquet passes over names that begin
with "_".

Nothing here imports TensorFlow.
"""

import contextlib
import itertools
import json
import logging
import math
import os
import pathlib
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cutpaste_tf import cluster, command
from cutpaste_tf.data import stream
from cutpaste_tf.files import UserError, locked, replacing
from cutpaste_tf.predict import folder
from cutpaste_tf.predict.model import Model
from cutpaste_tf.predict.rows import AREA_COLUMNS, COLUMNS, CSV, JOB, MAPS, Judge, common_root
from cutpaste_tf.threshold import VERDICTS

FILES, SUCCESS, _LOCK = "_files.parquet", "_SUCCESS", "_lock"
PARTS = "part-*.parquet"
SHARD = 1000  # files; a worker that is lost loses what it has done of one, or of two
_TRIES = 4  # of a shard that ends its worker


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
    """Scores images and writes their rows to shards in Parquet, or goes on with that.

    Args:
      make_model: makes what scores them; called in each worker, so its paths are absolute.
      settings: what rows depend on besides the images, by flags' names, as JSON has it. A job goes
        on with the same alone.
      sources: images, and folders to search for them.
      output: the folder to write to.
      address: a Ray cluster's; None for this machine alone.
      cpus: CPU cores of a worker, and threads; by default 1, or, with GPUs, its share.
      gpus: GPUs of a worker; by default 1 if there are any.
      batch_size: inputs of the network at a time.
      log: takes lines of text.

    Returns:
      What is done in all. The seconds are those of this time.

    Raises:
      UserError: for what the user can mend; parts that are there stay.
      KeyboardInterrupt: at Ctrl-C, likewise.
    """
    _check_packages()
    output = pathlib.Path(output)
    settings = {**settings, "images": [os.path.abspath(source) for source in sources]}
    _check_same(output, settings)
    if not (output / JOB).is_file():
        folder.count_images(sources, output)  # A mistake is told before anything is written.
    busy = f"--output={output}: another command is at it; wait for its end, or name another folder"
    try:
        with locked(output / _LOCK, busy):
            return _predict(
                make_model, settings, output, address, cpus, gpus, batch_size=batch_size, log=log
            )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; start again to go on") from error


def _check_packages():
    try:
        import pandas  # noqa: F401 - Ray Data takes both
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--ray: needs the package {error.name}; pip install "cutpaste-tf[cluster]"'
        ) from error


def _check_same(output, settings):
    path = output / JOB
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("no object")
    except (FileNotFoundError, NotADirectoryError):
        if any(output.glob(PARTS)):
            raise UserError(
                f"--output={output}: holds parts of another prediction, and no {JOB}; name another "
                "folder"
            ) from None
        return
    except ValueError as error:
        raise UserError(f"{path}: not readable; name another --output") from error
    others = [f"--{name}" for name in settings if before.get(name) != settings[name]]
    if others:
        raise UserError(
            f"--output={output}: holds a prediction with other {', '.join(others)}; name another "
            "folder"
        )


def _predict(make_model, settings, output, address, cpus, gpus, *, batch_size, log):
    import pyarrow.parquet as pq

    _clear(output)
    if not (output / JOB).is_file():
        _write_files(settings["images"], output)
        with replacing(output / JOB) as path:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    files = pq.read_metadata(output / FILES)
    shards = files.num_row_groups
    missing = [number for number in range(shards) if not _part(output, number).is_file()]
    count = sum(files.row_group(number).num_rows for number in missing)
    done = f", {shards - len(missing)} are there already" if len(missing) < shards else ""
    log(f"{files.num_rows} images in {shards} parts{done}")
    began = time.perf_counter()
    if missing:
        (output / SUCCESS).unlink(missing_ok=True)
        folder_there = pathlib.Path(os.path.abspath(output))  # as its workers name it
        arguments = make_model, folder_there, common_root(settings["images"]), batch_size
        try:
            with command.Progress(count, "image", log) as progress:
                began = _score(missing, arguments, address, cpus, gpus, progress, log)
        except UserError:
            if not any(output.glob(PARTS)):  # It is nobody's job yet.
                (output / JOB).unlink()
                (output / FILES).unlink()
            raise
    seconds = time.perf_counter() - began
    _clear(output)
    summary = _summary(output, shards, seconds)
    (output / SUCCESS).touch()
    rate = f"; {count} in {seconds:.1f} s, {count / seconds:.1f} images a second" if count else ""
    log(f"{summary.anomalous} of {summary.scored} images anomalous{rate}")
    log(f"written to {output / PARTS}")
    return summary


def _clear(output):
    """Removes what was left by workers, or a command, that were killed."""
    for path in output.glob("_*.tmp"):
        path.unlink(missing_ok=True)


def _part(output, number):
    return output / f"part-{number:05d}.parquet"


def _write_files(sources, output):
    """Writes the list of files, as it is found."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("path", pa.binary())])  # as the file system has it, which need not be text
    paths = map(os.fsencode, stream.find(sources, output / MAPS, CSV, JOB))
    with (
        replacing(output / FILES) as temporary,
        pq.ParquetWriter(temporary, schema, write_statistics=False) as writer,
    ):
        while shard := list(itertools.islice(paths, SHARD)):
            writer.write_table(pa.table({"path": shard}, schema), row_group_size=SHARD)


def _score(missing, arguments, address, cpus, gpus, progress, log):
    """Has Ray's workers write the parts that are missing; returns when they could begin."""
    ray = cluster.start(address, "--ray")
    try:
        import ray.data

        nodes = cluster.machines(ray)
        if gpus is None:
            gpus = cluster.default_gpus(nodes)
        if cpus is None:
            cpus = _default_cpus(nodes, gpus)
        workers = min(len(missing), cluster.count_slots(nodes, cpus, gpus, "worker"))
        log(f"{workers} workers, of {cpus:g} CPUs and {gpus:g} GPUs each")
        began = time.perf_counter()
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        # A block for each, as Ray gives them to workers, and again where a worker is lost.
        shards = [{"shard": number} for number in missing]
        rows = ray.data.from_items(shards, override_num_blocks=len(shards)).map(
            Worker,
            fn_constructor_args=(*arguments, cpus, gpus),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        iterator = iter(rows.iter_rows())
        try:
            with cluster.quiet():
                first = next(iterator)
            for row in itertools.chain([first], iterator):
                if row["problem"]:
                    raise UserError(row["problem"])
                progress.update(row["images"])
                progress.tell()
        except ray.exceptions.RayTaskError:  # a fault of the program
            raise
        except ray.exceptions.RayError as error:
            raise UserError(
                f"--ray: its workers cannot go on ({cluster.reason(error)}); start again to go on"
            ) from error
    finally:
        ray.shutdown()
    return began


def _default_cpus(nodes, gpus):
    """One core; with GPUs what is a worker's share of them, as images must be decoded for it."""
    if not gpus:
        return 1.0
    shares = [n["CPU"] * gpus // n["GPU"] for n in nodes if n.get("CPU") and n.get("GPU")]
    return max(1.0, min(shares, default=1.0))


class Worker:
    """What an actor of Ray does: makes rows of the files of a shard, and a part of the rows.

    Args:
      make_model: makes what scores the files.
      output: the folder that has the list of files, and gets the parts.
      root: the folder that the overlays' names are relative to.
      batch_size: inputs of the network at a time.
      cpus: CPU cores; as many threads decode, and compute.
      gpus: GPUs.
    """

    def __init__(
        self,
        make_model: Callable[[], Model],
        output: pathlib.Path,
        root: pathlib.Path,
        batch_size: int,
        cpus: float,
        gpus: float,
    ):
        self._output = output
        threads = max(1, math.ceil(cpus))
        # Each library would have a thread for each core, and so would every worker beside this one.
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(threads)
        cluster.share_gpus(gpus)
        self._problem = ""
        with self._problems():
            if not root.is_dir():
                raise UserError(f"--images: there is no folder {root}")
            model = make_model()
            self._judge = Judge(model, output, root, batch_size, threads)
            self._areas = model.scale is not None and model.scale.outlined

    def __call__(self, row: dict) -> dict:
        """Writes a part.

        Args:
          row: the number of its `shard`.

        Returns:
          How many `images` it has, and the `problem` that the user has to mend; "" if there is
          none.
        """
        images = 0
        with self._problems():
            if not self._problem:
                images = self._write(int(row["shard"]))
        return {"images": images, "problem": self._problem}

    @contextlib.contextmanager
    def _problems(self):
        """Keeps what is wrong: raised in a worker, it would reach the user as a traceback."""
        try:
            with command.output_faults_as_user_errors(self._output):
                yield
        except UserError as error:
            self._problem = f"{error} (on {platform.node()})"

    def _write(self, number):
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = _part(self._output, number)
        # Of this worker's own, as Ray may take one for lost that is not. One that is killed leaves
        # it: so the tries are known, which Ray would not end.
        temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex}.tmp")
        if len(list(self._output.glob(f"_{target.name}.*.tmp"))) >= _TRIES:
            raise UserError(
                f"--ray: {_TRIES} workers were lost at {target.name}; if they lacked memory, "
                "take fewer by a larger --cpus_per_worker, or a smaller --batch_size, and start "
                "again to go on"
            )
        temporary.touch()
        try:
            rows = self._rows(number)
            pq.write_table(pa.Table.from_pylist(rows, _schema(self._areas)), temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return len(rows)

    def _rows(self, number):
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._output / FILES) as files:
            names = files.read_row_group(number).column("path").to_pylist()
        paths = (pathlib.Path(os.fsdecode(name)) for name in names)
        return [
            judged.row | ({"areas": judged.areas} if self._areas else {})
            for batch in self._judge(paths)
            for judged in batch
        ]


def _schema(areas):
    import pyarrow as pa

    numbers = ("score", "threshold")
    columns = [(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS]
    if areas:
        numbers = [(name, pa.float64()) for name in AREA_COLUMNS if name != "path"]
        columns.append(("areas", pa.list_(pa.struct(numbers))))
    return pa.schema(columns)


def _summary(output, shards, seconds):
    """Counts what the parts say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = scored = anomalous = failed = 0
    first_error = None
    files = pq.read_metadata(output / FILES)
    for number in range(shards):
        path = _part(output, number)
        try:
            table = pq.read_table(path, columns=["path", "score", "verdict", "error"])
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: cannot be read; remove it and start again") from error
        if len(table) != files.row_group(number).num_rows:
            raise UserError(f"{path}: has not a row for each image; remove it and start again")
        images += len(table)
        scored += len(table) - table["score"].null_count
        anomalous += table["verdict"].to_pylist().count(VERDICTS[1])
        failed += len(table) - table["error"].null_count
        if first_error is None and table["error"].null_count < len(table):
            row = next(row for row in table.to_pylist() if row["error"] is not None)
            first_error = f"{row['path']}: {row['error']}"
    return folder.Summary(images, scored, anomalous, failed, first_error, seconds)
