"""A folder in which images arrive: which of them are new, and whole.

Nothing here imports TensorFlow.
"""

import os
import pathlib
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from cutpaste_tf.data import stream
from cutpaste_tf.files import UserError, as_text
from cutpaste_tf.predict.rows import CSV, JOB

_BROKEN = 5.0  # seconds that a file may be no image: it may still be written

Stamp = tuple[int, int]  # a file's size and time of modification: by these it is the same or new


class Arrival(NamedTuple):
    """A file that is new and seems to be whole."""

    path: pathlib.Path
    stamp: Stamp


class Inbox:
    """A folder that is watched, with all folders in it; images are found as by `stream.find`.

    The folder may vanish for a time, as what is mounted does. `done` has the stamps of files that
    have rows, by their paths as text; `clock` returns seconds.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        outside: pathlib.Path,
        done: dict[str, Stamp],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder, self._outside, self._done = folder, outside, done
        self._tell, self._clock = tell, clock
        self._before: dict[pathlib.Path, Stamp] = {}  # what the last look found
        self._broken: dict[pathlib.Path, tuple[Stamp, float]] = {}  # until when they may be
        self._problem = ""
        self._told: set[str] = set()  # what the last look could not read

    def look(self) -> list[Arrival]:
        """Returns the files that are new, and as they were at the last look, oldest first."""
        now, whole, problems = {}, [], []
        try:
            for path in stream.find([self._folder], self._outside, CSV, JOB, warn=problems.append):
                found, arrived = _stamp(path)
                if found is None:
                    continue
                now[path] = found
                broken, until = self._broken.get(path, (None, 0.0))
                waits = broken == found and self._clock() < until
                if self._before.get(path) == found != self._done.get(as_text(path)) and not waits:
                    whole.append((arrived, Arrival(path, found)))
            problem = ""
        except UserError as error:
            now, whole, problem = {}, [], str(error)
        if problem and not self._problem:
            self._tell(f"{problem}; waiting for it")
        elif self._problem and not problem:
            self._tell(f"{self._folder}: can be read again")
        for passed_over in sorted(set(problems) - self._told):
            self._tell(f"{passed_over}; passed over")
        self._before, self._problem, self._told = now, problem, set(problems)
        return [arrival for _, arrival in sorted(whole)]

    def stands(self, arrival: Arrival, scored: bool) -> bool:
        """Whether what was found out about a file is to be kept, which is then done.

        If not, the file has changed meanwhile or may still be written, and comes again; or it has
        gone before it could be scored.
        """
        path, found = arrival
        now, _ = _stamp(path)
        still_broken = now == found == self._broken.get(path, (None, 0.0))[0]
        if still_broken or (scored and now in (found, None)):  # None: moved on after it was read.
            self._done[as_text(path)] = found
            return True
        if now == found:
            self._broken[path] = found, self._clock() + _BROKEN
        return False


def _stamp(path):
    """Returns a file's stamp and when it took its name, in ns; None and 0 if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None, 0
    if not stat.S_ISREG(status.st_mode):
        return None, 0
    # A rename changes the third time, and no other.
    return (status.st_size, status.st_mtime_ns), status.st_ctime_ns
