"""A folder that is watched: images are scored as they arrive, until a signal ends it.

predictions.jsonl is the table that counts: a row is on the disk there before the log shows it. The
other tables are written from it at the start. So whatever ends a watch, the next one with the same
output goes on where it was.
"""

import contextlib
import json
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable

import numpy as np

from cutpaste_tf.files import UserError, as_text, locked
from cutpaste_tf.predict import rows
from cutpaste_tf.predict.model import Model
from cutpaste_tf.threshold import Drift

LOCK = "watch.lock"  # stays in the output folder, whose tables are then a watch's
PERIOD = 0.2  # seconds from one look at the folder to the next
_DRIFT_PERIOD = 60.0  # seconds at least from one line about drift to the next
_RETRY = 5.0  # seconds after which a file that is no image is read again: it may have been written

Stamp = tuple[int, int]  # a file's size and time of modification, by which it is the same or new


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
    # Absolute, so that the next watch recognises the files wherever it is started.
    root = pathlib.Path(os.path.abspath(folder))
    if (output / rows.JSONL).exists() and not (output / LOCK).exists():
        raise UserError(
            f"--output={output}: has tables that --watch would add to; name another folder"
        )
    busy = f"--output={output}: another --watch writes there; end it, or name another folder"
    summary, done = rows.Summary(), {}
    drift, told, told_at = Drift(model.normal_scores), False, -math.inf
    with locked(output / LOCK, busy), rows.open_tables(output, model, resume=True) as tables:
        log(f"{folder}: threshold {model.threshold}; on {model.device}")
        # The first image takes seconds.
        model.score([model.prepare(np.full([64, 64, 3], 128, np.uint8))], [(64, 64)])
        for row in _earlier_rows(output / rows.JSONL):
            done[row["path"]] = row["size"], row["mtime_ns"]
            tables.write_spreadsheets(row)
        inbox = Inbox(root, output, done, log)
        with _signals() as signals:
            log(f"watching {folder}; stop with Ctrl-C")
            while not signals:
                began = time.monotonic()
                arrivals = inbox.look()
                # Half of the time at most goes into long looks.
                due = began + max(PERIOD, 2.0 * (time.monotonic() - began))
                paths, waiting = (path for path, _ in arrivals), iter(arrivals)
                for batch in rows.score_files(paths, model, drift, output, root, batch_size):
                    lines = []
                    for row, (path, stamp) in zip(batch, waiting, strict=False):
                        if inbox.finish(path, stamp, row["score"] is not None):
                            size, mtime_ns = stamp
                            tables.write(row, size=size, mtime_ns=mtime_ns, areas=row["areas"])
                            summary.add(row)
                            lines.append(_line(row, folder / path.relative_to(root)))
                    tables.flush()
                    for line in lines:
                        log(line)
                    known = [row["drift"] for row in batch if row["drift"] is not None]
                    is_due = time.monotonic() - told_at >= _DRIFT_PERIOD
                    if is_due and known and known[-1] != told:
                        told, told_at = known[-1], time.monotonic()
                        log(f"drift: {Drift.ADVICE}" if told else "drift has ended")
                    if signals:  # The rest arrives again at the next start.
                        break
                time.sleep(max(0.0, due - time.monotonic()))
    line = f"{summary.images} images, {summary.anomalous} anomalous, {summary.failed} with an error"
    if signal.SIGTERM not in signals:
        raise KeyboardInterrupt(f"interrupted; {line}")
    log(f"ended; {line}")
    return 0


def _earlier_rows(path):
    """Yields the rows of earlier watches; cuts off half a line at the end, left by a kill."""
    whole = 0
    with open(path, "r+b") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            yield json.loads(line)
        lines.truncate(whole)


def _line(row, path):
    """A line about an image."""
    if row["score"] is None:
        return f"{'error':9} {'':>17}  {path}: {row['error']}"
    relative = "" if row["relative_score"] is None else f"{row['relative_score']:.2f}"
    return f"{row['verdict']:9} {row['score']:10.6g} {relative:>6}  {path}"


@contextlib.contextmanager
def _signals():
    """Yields a list of the signals that ask for the end; a second one does not wait."""
    received = []

    def receive(number, frame):
        if received:
            raise KeyboardInterrupt("interrupted; start again to go on")
        received.append(number)

    # A shell has what it starts in the background ignore Ctrl-C.
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, receive) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Inbox:
    """A folder that is watched, with all folders in it; it may vanish for a time, as a share does.

    `done` has the stamps of files that have rows, by their paths as text; `clock` returns seconds.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        output: pathlib.Path,
        done: dict[str, Stamp],
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder, self._output, self._done = folder, output, done
        self._log, self._clock = log, clock
        self._stamps, self._problems = {}, set()  # at the last look
        self._broken = {}  # stamps by paths, and when to read the files again

    def look(self) -> list[tuple[pathlib.Path, Stamp]]:
        """Returns the files that are new, and as they were at the last look, oldest first."""
        stamps, arrivals, unreadable = {}, [], []
        try:
            for path in rows.find_images([self._folder], self._output, unreadable.append):
                stamp, renamed = _stat(path)
                if stamp is None:
                    continue
                stamps[path] = stamp
                is_new = stamp != self._done.get(as_text(path))
                broken, retry = self._broken.get(path, (None, 0.0))
                waits = stamp == broken and self._clock() < retry
                if is_new and stamp == self._stamps.get(path) and not waits:
                    arrivals.append((renamed, path, stamp))
            problems = {f"{problem}; passed over" for problem in unreadable}
        except UserError as error:
            stamps, arrivals, problems = {}, [], {f"{error}; waiting for it"}
        for problem in sorted(problems - self._problems):
            self._log(problem)
        self._stamps, self._problems = stamps, problems
        return [(path, stamp) for _, path, stamp in sorted(arrivals)]

    def finish(self, path: pathlib.Path, stamp: Stamp, scored: bool) -> bool:
        """Marks a file that was read as done, and returns True, if its row is to be kept.

        Otherwise the file has changed meanwhile or may still be written, and arrives again; or it
        has gone before it could be scored.
        """
        now, _ = _stat(path)
        still_broken = now == stamp == self._broken.get(path, (None, 0.0))[0]
        if still_broken or (scored and now in (stamp, None)):  # None: moved on after it was read.
            self._done[as_text(path)] = stamp
            return True
        if now == stamp:
            self._broken[path] = stamp, self._clock() + _RETRY
        return False


def _stat(path):
    """Returns a file's stamp and when it took its name, in ns; None and 0 if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None, 0
    # A rename changes the third time, and no other.
    return (status.st_size, status.st_mtime_ns), status.st_ctime_ns
