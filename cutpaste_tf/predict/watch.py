"""Folders that are watched: images are scored as they arrive, until a signal ends it.

Nothing here imports TensorFlow.
"""

import collections
import contextlib
import csv
import itertools
import os
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cutpaste_tf.files import UserError, locked
from cutpaste_tf.predict.inbox import Inbox
from cutpaste_tf.predict.ledger import Ledger
from cutpaste_tf.predict.model import Model
from cutpaste_tf.predict.rows import MAPS, Judge
from cutpaste_tf.threshold import VERDICTS

_LOCK = "watch.lock"


class Place(NamedTuple):
    """A folder to watch.

    Attributes:
      folder: where images arrive.
      run: the run that scores them; None where there is another model.
      output: the folder of their tables and overlays.
    """

    folder: pathlib.Path
    run: str | None
    output: pathlib.Path


def read_places(table: str | os.PathLike, output: str | os.PathLike) -> list[Place]:
    """Reads which folders are to be watched, and by which runs.

    Args:
      table: a CSV with the columns folder and run, relative to where it lies, and perhaps name.
      output: the folder that gets a folder for each, called by its name; by that of the folder
        where there is none.

    Returns:
      The folders.

    Raises:
      UserError: if the table cannot be read, or two names are the same.
    """
    beside = pathlib.Path(table).parent
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--runs={table}: cannot be read as a CSV ({reason})") from error
    if not {"folder", "run"} <= columns <= {"folder", "run", "name"}:
        raise UserError(f"--runs={table}: must have the columns folder and run, and may have name")
    if not rows:
        raise UserError(f"--runs={table}: names no folders")
    places = {}
    for number, row in enumerate(rows, 1):
        if None in row or not row["folder"] or not row["run"]:
            raise UserError(f"--runs={table}: row {number} must have a folder and a run")
        folder = beside / row["folder"]
        name = row.get("name") or os.path.basename(os.path.abspath(folder))
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise UserError(f"--runs={table}: name={name}: must be the name of a folder")
        if name in places:
            raise UserError(
                f"--runs={table}: {places[name].folder} and {folder} are both called {name}; give "
                "them other names in a column name"
            )
        places[name] = Place(folder, str(beside / row["run"]), pathlib.Path(output) / name)
    return list(places.values())


def check_places(places: Sequence[Place]) -> None:
    """Checks folders to watch.

    Raises:
      UserError: if one is missing, lies in another or where overlays are written to.
    """
    real = [pathlib.Path(os.path.realpath(place.folder)) for place in places]
    for place, folder in zip(places, real, strict=True):
        if not folder.is_dir():
            raise UserError(f"{place.folder}: there is no such folder to watch")
        for other in places:
            if folder.is_relative_to(os.path.realpath(other.output / MAPS)):
                raise UserError(f"{place.folder}: is where overlays are written to")
    for (place, folder), (other, above) in itertools.permutations(
        zip(places, real, strict=True), 2
    ):
        if folder == above:
            raise UserError(f"{place.folder} and {other.folder} are the same folder; name it once")
        if folder.is_relative_to(above):
            raise UserError(f"{place.folder} lies in {other.folder}; leave one of them out")


def watch(
    places: Sequence[Place],
    load: Callable[[str | None], Model],
    *,
    batch_size: int = 32,
    log: Callable[[str], None],
) -> int:
    """Scores images as they arrive in folders, until SIGTERM or Ctrl-C.

    Images that are there already are the first. Those that have a row from an earlier watch with
    the same output are passed over, unless they have changed.

    Args:
      places: the folders, as `check_places` wants them.
      load: returns what scores the images, of a place's run.
      batch_size: inputs of the network at a time, where more than one image is there.
      log: takes lines of text: of each image its verdict, score and path.

    Returns:
      The exit status after SIGTERM: 0.

    Raises:
      UserError: for what the user can mend.
      KeyboardInterrupt: at Ctrl-C, with a line that says what was done.
    """
    counts = collections.Counter()
    with _Stop() as stop, contextlib.ExitStack() as stack:
        try:
            for place in places:
                stack.enter_context(_locked(place.output))
            models = {run: load(run) for run in dict.fromkeys(place.run for place in places)}
            watched = []
            for place in places:
                model = models[place.run]
                log(f"{place.folder}: threshold {model.threshold}; on {model.device}")
                watched.append(stack.enter_context(_Watched(place, model, batch_size, log, counts)))
            for model in models.values():
                _warm_up(model)
            stop.at_once = False
            folders = ", ".join(str(place.folder) for place in places)
            log(f"watching {folders}; stop with Ctrl-C")
            while not stop.asked:
                if not any([one.step(stop) for one in watched]):
                    due = min(one.due for one in watched)
                    time.sleep(max(0.0, due - time.monotonic()))
        except KeyboardInterrupt:  # before there was anything to finish, or the second one
            pass
    line = f"{counts.total()} images, {counts[VERDICTS[1]]} anomalous, {counts[None]} with an error"
    if stop.asked != signal.SIGTERM:
        raise KeyboardInterrupt(f"interrupted; {line}")
    log(f"ended; {line}")
    return 0


class _Watched:
    """A folder with its tables."""

    def __init__(self, place, model, batch_size, log, counts):
        self._place, self._log, self._counts = place, log, counts
        self._batch_size = batch_size
        with _faults(place.output):
            areas = model.scale is not None and model.scale.outlined
            self._ledger = Ledger(place.folder, place.output, areas)
        root = pathlib.Path(os.path.abspath(place.folder))
        self._judge = Judge(model, place.output, root, batch_size)
        self._inbox = Inbox(place.folder, place.output / MAPS, self._ledger.done, log)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._ledger.__exit__(*error)

    @property
    def due(self):
        """When there may be something to do."""
        return self._inbox.due

    def step(self, stop):
        """Scores what is there, a batch at most; returns whether there was anything."""
        self._inbox.look()
        arrivals = self._inbox.take(self._batch_size)
        waiting = iter(arrivals)
        with _faults(self._place.output):
            for batch in self._judge(pathlib.Path(arrival.path) for arrival in arrivals):
                done = [
                    (arrival, judged)
                    for judged, arrival in zip(batch, waiting, strict=False)
                    if self._inbox.stands(arrival, judged.row["score"] is not None)
                ]
                self._ledger.add(done)
                for _, judged in done:
                    self._counts[judged.row["verdict"]] += 1
                    self._log(_said(judged.row))
                if stop.asked:  # The rest is found again at the next start.
                    break
        return bool(arrivals)


def _said(row):
    """A line about an image."""
    if row["score"] is None:
        return f"{'error':9} {'':>10}  {row['path']}: {row['error']}"
    also = f": {row['error']}" if row["error"] else ""
    return f"{row['verdict']:9} {row['score']:10.6g}  {row['path']}{also}"


class _Stop:
    """Takes SIGTERM and Ctrl-C while it is entered.

    Attributes:
      asked: the signal that has come; None before.
      at_once: whether a signal is a KeyboardInterrupt. The first one makes it so for the next.
    """

    def __init__(self):
        self.asked, self.at_once = None, True

    def __enter__(self):
        self._before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            # A shell has what it starts in the background ignore Ctrl-C.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number, frame):
        self.asked = number
        if self.at_once:
            raise KeyboardInterrupt
        self.at_once = True


@contextlib.contextmanager
def _locked(output):
    """Keeps other watches from an output folder."""
    busy = f"--output={output}: another --watch writes there; end it, or name another folder"
    with contextlib.ExitStack() as held:
        with _faults(output):
            held.enter_context(locked(output / _LOCK, busy))
        yield


@contextlib.contextmanager
def _faults(output):
    """Makes a UserError of an output folder that cannot be written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"--output={output}: cannot be written ({error.strerror or error}); make room or mend "
            "its permissions, and start again to go on"
        ) from error


def _warm_up(model):
    """Scores an image, as the first one takes seconds."""
    with contextlib.suppress(UserError):  # It may show nothing of a region of interest.
        prepared = model.prepare(np.full([64, 64, 3], 128, np.uint8))
        model.score([prepared], [(64, 64)])
