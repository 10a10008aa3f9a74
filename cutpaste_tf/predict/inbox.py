"""A folder in which images arrive: which of them are new, and whole.

Nothing here imports TensorFlow.
"""

import collections
import math
import os
import pathlib
import stat
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cutpaste_tf.data import decode, search
from cutpaste_tf.predict.rows import CSV

PERIOD = 0.2  # seconds from one look at the folder to the next
# Seconds that a file must stay as it is. A bit less than a period, so that the next look will do.
_UNCHANGED = 0.15
_BROKEN = 5.0  # seconds that a file may be no image: it may still be written
_AGAIN = 1.0  # seconds until such a file is tried again
_SWEEP = 0.01  # seconds a look for files that were scored before
_SHARE = 10  # folders that seem to be as they were are listed in a tenth of the time

Stamp = tuple[int, int]  # a file's size and time of modification: by these it is the same or new


class Arrival(NamedTuple):
    """A file that is new and seems to be whole.

    Attributes:
      path: where it is.
      stamp: its size in bytes and time of modification in ns.
      since: when it was first seen like that, by the inbox's clock.
    """

    path: str
    stamp: Stamp
    since: float


class Inbox:
    """A folder that is watched, with all folders in it.

    What is hidden is passed over, as in `search.walk`, and so are folders of overlays.

    Args:
      folder: the folder. It may vanish for a time, as what is mounted does.
      outside: the folder that overlays are written to. Folders of its name beside a
        predictions.csv are passed over too.
      done: the stamps of files that need no looking at any more, by their paths.
      tell: takes a line of text about a folder that cannot be read.
      clock: seconds that pass.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        outside: pathlib.Path,
        done: Mapping[str, Stamp],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._root, self._outside = os.fspath(folder), outside
        self._tell, self._clock = tell, clock
        self._taken = dict(done)  # by path, the stamps of files that are ready or done
        self._waiting = {}  # by path: stamp, since when, and when to look again
        self._ready = collections.deque()
        self._folders = {self._root: os.path.realpath(folder)}  # real paths, by path
        self._changed = {}  # folders' times of modification when they were listed
        self._unreadable = set()  # folders
        self._listed, self._listing = -math.inf, 0.0  # when everything was, and how long that took
        self._sweep = iter(())
        self.due = self._list_due = clock()  # when to look again, and into the folders

    def look(self) -> None:
        """Looks what has arrived, if that is due."""
        began = self._clock()
        if began < self.due:
            return
        if began >= self._list_due:
            self._list_folders(began)
            # Half of the time at most goes into long lists.
            self._list_due = 2 * self._clock() - began
        self._look_at_waiting(began)
        self._look_at_taken()
        self.due = self._clock() + PERIOD

    def take(self, count: int) -> list[Arrival]:
        """Returns at most `count` files to score, in the order of their arrival.

        Who takes them tells what has become of each by `stands`.
        """
        taken = []
        while self._ready and len(taken) < count:
            arrival = self._ready.popleft()
            # Of a file that has changed while it was ready there is a later arrival.
            if self._taken.get(arrival.path) == arrival.stamp:
                taken.append(arrival)
        return taken

    def stands(self, arrival: Arrival, scored: bool) -> bool:
        """Whether what was found out about a file is to be kept.

        If not, the file has changed meanwhile or may still be written, and comes again; or it has
        gone before it could be scored.

        Args:
          arrival: the file.
          scored: whether it has got a score.
        """
        path, now = arrival.path, self._clock()
        stamp = _stamp(_status(path))
        if stamp == arrival.stamp:
            if scored or now - arrival.since >= _BROKEN:
                return True
            self._waiting[path] = stamp, arrival.since, now + _AGAIN
        elif stamp is not None:
            self._waiting[path] = stamp, now, now + _UNCHANGED
        elif scored:  # It was moved on right after it was read.
            return True
        self._taken.pop(path, None)
        return False

    def _list_folders(self, now):
        """Finds files that are new, in folders that have changed, and now and then in all."""
        everything = now - self._listed >= _SHARE * self._listing
        pending = list(self._folders)
        while pending:
            folder = pending.pop()
            try:
                changed = os.stat(folder).st_mtime_ns
                # It may hold a million files; nor does every file system keep its time.
                if everything or changed != self._changed.get(folder):
                    pending += self._list(folder, now)
                    self._changed[folder] = changed
            except OSError as error:
                self._changed.pop(folder, None)
                if folder != self._root and isinstance(error, FileNotFoundError):
                    del self._folders[folder]
                elif folder not in self._unreadable:
                    self._unreadable.add(folder)
                    self._tell(f"{folder}: cannot be read ({error.strerror}); waiting for it")
                continue
            if folder in self._unreadable:
                self._unreadable.remove(folder)
                self._tell(f"{folder}: can be read again")
        if everything:
            self._listed, self._listing = now, self._clock() - now

    def _list(self, folder, now):
        """Finds new files in a folder; returns the folders in it that are new."""
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                path, name = entry.path, entry.name
                if path in self._taken or path in self._waiting or search.is_hidden(name):
                    continue
                if entry.is_dir():
                    if path not in self._folders and self._is_searched(folder, entry):
                        self._folders[path] = os.path.realpath(path)
                        folders.append(path)
                elif name.lower().endswith(decode.SUFFIXES):
                    status = _status(path)
                    if status is not None:
                        self._waiting[path] = _stamp(status), now, now + _UNCHANGED
        return folders

    def _is_searched(self, folder, entry):
        """Whether a folder is one to find images in."""
        if entry.name == self._outside.name and os.path.isfile(os.path.join(folder, CSV)):
            return False
        real = os.path.realpath(entry.path)
        if real == os.path.realpath(self._outside):
            return False
        # A folder in the inbox has its own name there, whatever links lead to it.
        if entry.is_symlink() and real.startswith(os.path.join(self._folders[self._root], "")):
            return False
        return real not in self._folders.values()

    def _look_at_waiting(self, now):
        """Makes ready what has not changed for a while."""
        whole = []
        for path, (stamp, since, again) in list(self._waiting.items()):
            if now < again:
                continue
            status = _status(path)
            if status is None:  # It has gone, and nobody has asked for it.
                del self._waiting[path]
            elif _stamp(status) != stamp:
                self._waiting[path] = _stamp(status), now, now + _UNCHANGED
            else:
                del self._waiting[path]
                # Of files found at once: a rename changes this time, and no other.
                whole.append((status.st_ctime_ns, Arrival(path, stamp, since)))
        for _, arrival in sorted(whole):
            self._taken[arrival.path] = arrival.stamp
            self._ready.append(arrival)

    def _look_at_taken(self):
        """Looks whether files have new content, in turns: of that their folder shows nothing."""
        began = self._clock()
        for path in self._sweep:
            stamp = _stamp(_status(path))
            if stamp not in (None, self._taken.get(path)) and path not in self._waiting:
                self._waiting[path] = stamp, began, began + _UNCHANGED
            if self._clock() - began > _SWEEP:
                return
        self._sweep = iter(list(self._taken))


def _status(path):
    """What the system knows of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _stamp(status):
    return None if status is None else (status.st_size, status.st_mtime_ns)
