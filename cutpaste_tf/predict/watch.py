"""A folder that is watched: images are scored as they arrive, until a signal ends it.

predictions.jsonl is the table that counts. A line of it has a file's row, its size and time of
modification, and its areas; it is on the disk before its verdict is told. The other tables are
written from it at the start. So whatever ends a watch, the next one with the same output knows what
is done.

Nothing here imports TensorFlow.
"""

import collections
import contextlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cutpaste_tf.files import UserError, locked
from cutpaste_tf.predict import tables
from cutpaste_tf.predict.inbox import Arrival, Inbox, Stamp
from cutpaste_tf.predict.model import Model
from cutpaste_tf.predict.rows import AREAS, CSV, JSONL, MAPS, Judge, Judged
from cutpaste_tf.threshold import VERDICTS

PERIOD = 0.2  # seconds from one look at the folder to the next
_LOCK = "watch.lock"


def watch(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    model: Model,
    *,
    batch_size: int = 32,
    log: Callable[[str], None],
) -> int:
    """Scores images as they arrive in a folder, until SIGTERM (returns 0) or Ctrl-C (raises).

    Images that are there already are the first. Those that have a row from an earlier watch with
    the same output are passed over, unless they have changed.
    """
    folder, output = pathlib.Path(folder), pathlib.Path(output)
    # So that the next watch knows the files, wherever it is started.
    root = pathlib.Path(os.path.abspath(folder))
    busy = f"--output={output}: another --watch writes there; end it, or name another folder"
    counts = collections.Counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(output / _LOCK, busy))
        log(f"{folder}: threshold {model.threshold}; on {model.device}")
        _warm_up(model)
        journal = stack.enter_context(Journal(output, model))
        inbox = Inbox(root, output / MAPS, journal.done, log)
        judge = Judge(model, output, root, batch_size)
        asked = stack.enter_context(_signals())
        log(f"watching {folder}; stop with Ctrl-C")
        while not asked:
            began = time.monotonic()
            arrivals = inbox.look()
            # Half of the time at most goes into long looks.
            due = began + max(PERIOD, 2.0 * (time.monotonic() - began))
            waiting = iter(arrivals)
            for batch in judge(arrival.path for arrival in arrivals):
                done = [
                    (arrival, judged)
                    for judged, arrival in zip(batch, waiting, strict=False)
                    if inbox.stands(arrival, judged.row["score"] is not None)
                ]
                journal.add(done)
                for arrival, judged in done:
                    counts[judged.row["verdict"]] += 1
                    log(_said(judged.row, folder / arrival.path.relative_to(root)))
                if asked:  # The rest is found again at the next start.
                    break
            time.sleep(max(0.0, due - time.monotonic()))
    line = f"{counts.total()} images, {counts[VERDICTS[1]]} anomalous, {counts[None]} with an error"
    if signal.SIGTERM not in asked:
        raise KeyboardInterrupt(f"interrupted; {line}")
    log(f"ended; {line}")
    return 0


def is_watched(output: pathlib.Path) -> bool:
    """Whether a folder's tables are those of a watch."""
    try:
        with open(output / JSONL, "rb") as lines:
            return b'"mtime_ns": ' in lines.readline()
    except OSError:
        return False


class Journal:
    """The tables of a watch; `done` has the stamps of the files that have rows, by their paths."""

    def __init__(self, output: pathlib.Path, model: Model):
        self._path = output / JSONL
        areas = model.scale is not None and model.scale.outlined
        self._tables = [output / CSV, *([output / AREAS] if areas else [])]
        self.done: dict[str, Stamp] = {}

    def __enter__(self) -> "Journal":
        temporary = [path.with_name(path.name + ".tmp") for path in self._tables]
        with contextlib.ExitStack() as opened:
            # Without a buffer: what one write takes is there whole, or half of its last line is.
            self._lines = opened.enter_context(open(self._path, "a+b", buffering=0))
            try:
                with tables.spreadsheets(temporary, "w") as write:
                    for line in self._read():
                        self.done[line["path"]] = line["size"], line["mtime_ns"]
                        write(line, line["areas"])
                for source, target in zip(temporary, self._tables, strict=True):
                    os.replace(source, target)
            finally:
                for path in temporary:
                    path.unlink(missing_ok=True)
            self._write = opened.enter_context(tables.spreadsheets(self._tables, "a"))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._opened.close()

    def add(self, done: Sequence[tuple[Arrival, Judged]]) -> None:
        """Adds the rows of files."""
        lines = []
        for arrival, judged in done:
            size, mtime_ns = arrival.stamp
            line = judged.row | {"size": size, "mtime_ns": mtime_ns, "areas": judged.areas}
            lines.append(json.dumps(line, allow_nan=False) + "\n")
        rest = "".join(lines).encode()
        while rest:  # once, unless the disk is full
            rest = rest[self._lines.write(rest) :]
        os.fsync(self._lines.fileno())
        for _, judged in done:
            self._write(judged.row, judged.areas)

    def _read(self):
        """Yields the lines; cuts off half a line at the end."""
        whole = 0
        with open(self._path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    values = json.loads(line)
                    if not {"path", "mtime_ns", "areas"} <= values.keys():
                        raise ValueError("no line of a watch")
                except (ValueError, AttributeError) as error:
                    raise UserError(
                        f"{self._path}: was not written by --watch, which adds to its tables, or "
                        "is damaged; name another --output"
                    ) from error
                yield values
        self._lines.truncate(whole)


def _said(row, path):
    """A line about an image."""
    if row["score"] is None:
        return f"{'error':9} {'':>10}  {path}: {row['error']}"
    also = f": {row['error']}" if row["error"] else ""
    return f"{row['verdict']:9} {row['score']:10.6g}  {path}{also}"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields a list of the signals that ask for the end; a second one does not wait."""
    asked, before = [], {}

    def take(number, frame):
        if asked:
            raise KeyboardInterrupt("interrupted; start again to go on")
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        # A shell has what it starts in the background ignore Ctrl-C.
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, take)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warm_up(model):
    """Scores an image, as the first one takes seconds."""
    model.score([model.prepare(np.full([64, 64, 3], 128, np.uint8))], [(64, 64)])
