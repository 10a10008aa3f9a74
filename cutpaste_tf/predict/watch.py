"""Watching a folder: images are scored as they arrive, until a signal ends the watch.

A row is on the disk, in predictions.jsonl, before the log shows it. At the start, the other tables
are written anew from predictions.jsonl. So the next watch with the same output continues the last
one, whatever ended it.
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

LOCK = "watch.lock"  # stays in the output folder, and marks its tables as those of a watch
PERIOD = 0.2  # seconds from one look at the folder to the next
_DRIFT_PERIOD = 60.0  # seconds, at least, from one line about drift to the next
_RETRY = 5.0  # seconds until a broken file is read again, as it may have been incomplete

Stamp = tuple[int, int]  # a file's size and time of modification, which show whether it changed


def watch(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    model: Model,
    *,
    batch_size: int = 32,
    log: Callable[[str], None],
) -> int:
    """Scores images as they arrive in a folder, until SIGTERM (returns 0) or Ctrl-C (raises).

    The first images are those in the folder at the start. An image that has a row from an earlier
    watch with the same output is skipped, unless the image has changed.
    """
    folder, output = pathlib.Path(folder), pathlib.Path(output)
    # Absolute, so that the next watch recognises the files wherever it is started.
    root = pathlib.Path(os.path.abspath(folder))
    if (output / rows.JSONL).exists() and not (output / LOCK).exists():
        raise UserError(
            f"--output={output}: holds the tables of a predict without --watch; name another folder"
        )
    busy = f"--output={output}: another --watch writes there; end it, or name another folder"
    summary, done = rows.Summary(), {}
    drift, drifting, logged_at = Drift(model.normal_scores), False, -math.inf
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
                # At most half of the time goes into looks at a large folder.
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
                    drifts = [row["drift"] for row in batch if row["drift"] is not None]
                    is_due = time.monotonic() - logged_at >= _DRIFT_PERIOD
                    if is_due and drifts and drifts[-1] != drifting:
                        drifting, logged_at = drifts[-1], time.monotonic()
                        log(f"drift: {Drift.ADVICE}" if drifting else "drift has ended")
                    if signals:  # The next watch scores the rest.
                        break
                time.sleep(max(0.0, due - time.monotonic()))
    line = f"{summary.images} images, {summary.anomalous} anomalous, {summary.failed} with an error"
    if signal.SIGTERM not in signals:
        raise KeyboardInterrupt(f"interrupted; {line}")
    log(f"ended; {line}")
    return 0


def _earlier_rows(path):
    """Yields the rows of earlier watches; removes an incomplete last line, which a kill leaves."""
    whole = 0
    with open(path, "r+b") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            yield json.loads(line)
        lines.truncate(whole)


def _line(row, path):
    """The log's line about an image."""
    if row["score"] is None:
        return f"{'error':9} {'':>17}  {path}: {row['error']}"
    relative = "" if row["relative_score"] is None else f"{row['relative_score']:.2f}"
    return f"{row['verdict']:9} {row['score']:10.6g} {relative:>6}  {path}"


@contextlib.contextmanager
def _signals():
    """Yields a list that receives the first signal to end; a second signal raises at once."""
    received = []

    def receive(number, frame):
        if received:
            raise KeyboardInterrupt("interrupted; start again to resume")
        received.append(number)

    # A shell makes commands in the background ignore Ctrl-C.
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, receive) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Inbox:
    """A watched folder with all folders in it. It may vanish for a time, as network shares do.

    Args:
      folder: the watched folder.
      output: the folder of the tables.
      done: the stamps of files that have rows, by path.
      log: takes a line of text.
      clock: returns seconds.
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
        """Returns the new files that have not changed since the last look, oldest first."""
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
        """Returns whether a file's row should be kept; if so, marks the file as done.

        Returns False if the file changed while it was read or may be incomplete, as it will arrive
        again; or if it vanished before it was scored.
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
    """Returns a file's stamp and its time of arrival in ns; None and 0 if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None, 0
    # A rename, which may end a transfer, changes only st_ctime.
    return (status.st_size, status.st_mtime_ns), status.st_ctime_ns
