"""Tables that grow file by file, and are whole whatever ends the process.

Nothing here imports TensorFlow.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import zlib
from collections.abc import Sequence

from cutpaste_tf.files import UserError
from cutpaste_tf.predict import tables
from cutpaste_tf.predict.inbox import Arrival, Stamp
from cutpaste_tf.predict.rows import AREA_COLUMNS, AREAS, COLUMNS, CSV, JSONL, Judged

WATCHED = "watched.jsonl"


class Ledger:
    """predictions.csv, predictions.jsonl and, with areas, areas.csv of a folder that is watched.

    A file's rows are added to each table in one write, and are on the disk before a line of
    watched.jsonl says so: which file they are of, and where each table ends. What is behind that in
    a table is of a file that was at hand when a process was killed, and is cut off at the start.

    Args:
      folder: the folder that is watched.
      output: the folder of the tables; it is made.
      areas: whether there is an areas.csv.

    Attributes:
      done: the stamps of the files that had rows at the start, by their paths.

    Raises:
      UserError: if a table is not as it was left.
      OSError: if they cannot be written.
    """

    def __init__(self, folder: pathlib.Path, output: pathlib.Path, areas: bool):
        headers = {CSV: _csv_text(COLUMNS), JSONL: b""}
        if areas:
            headers[AREAS] = _csv_text(AREA_COLUMNS)
        for name in () if (output / WATCHED).exists() else headers:
            if (output / name).exists():
                raise UserError(
                    f"{output / name}: was not written by --watch, which adds to its tables; name "
                    "another --output"
                )
        output.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            # The first to be made, and the first to be cut.
            state = opened.enter_context(open(output / WATCHED, "a+b", buffering=0))
            self._files = {WATCHED: state}
            self.done: dict[str, Stamp] = {}
            self._ends = {}  # of each table: how many bytes it has, and their checksum
            self._read_state(folder, output)
            ends = dict(self._ends)
            for name, header in headers.items():
                length, checksum = self._ends.setdefault(name, (0, 0))
                file = opened.enter_context(open(output / name, "a+b", buffering=0))
                if _checksum(file, length) != checksum:
                    raise UserError(
                        f"{output / name}: has been changed since --watch wrote it; put it back as "
                        "it was, or name another --output"
                    )
                file.truncate(length)
                self._files[name] = file
                if not length:
                    _write(file, header)
                    self._ends[name] = _longer((0, 0), header)
            if self._ends != ends:
                _write(state, _line({"ends": self._ends}))
            self._opened = opened.pop_all()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *error) -> None:
        self._opened.close()

    def add(self, done: Sequence[tuple[Arrival, Judged]]) -> None:
        """Adds the rows of files: of all of them, or none if that cannot be written.

        Args:
          done: files, and what is known of them.

        Raises:
          OSError: if they cannot be written.
        """
        if not done:
            return
        ends, texts = dict(self._ends), {name: [] for name in self._files}
        for arrival, judged in done:
            for name, text in _texts(judged).items():
                if name in texts:
                    texts[name].append(text)
                    ends[name] = _longer(ends[name], text)
            size, mtime_ns = arrival.stamp
            path = os.path.abspath(arrival.path)
            record = {"path": path, "size": size, "mtime_ns": mtime_ns, "ends": dict(ends)}
            texts[WATCHED].append(_line(record))
        lengths = {file: os.fstat(file.fileno()).st_size for file in self._files.values()}
        try:
            for name in reversed(self._files):  # what says that they are done comes last
                _write(self._files[name], b"".join(texts[name]))
        except BaseException:
            with contextlib.suppress(OSError):
                for file, length in lengths.items():
                    file.truncate(length)
            raise
        self._ends = ends

    def _read_state(self, folder, output):
        """Reads which files are done and where the tables end; cuts off half a line."""
        state = self._files[WATCHED]
        root = os.path.join(os.path.abspath(folder), "")
        whole = 0
        try:
            with open(state.fileno(), "rb", closefd=False) as lines:
                lines.seek(0)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    record = json.loads(line)
                    self._ends = {name: tuple(end) for name, end in record["ends"].items()}
                    path = record.get("path", "")
                    if path.startswith(root):  # as it is called now, wherever one stands
                        path = os.path.join(folder, path.removeprefix(root))
                        self.done[path] = record["size"], record["mtime_ns"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{output / WATCHED}: is damaged; name another --output") from error
        state.truncate(whole)


def _texts(judged):
    """Returns what is to be added to each table."""
    return {
        CSV: _csv_text(COLUMNS, [tables.csv_row(judged.row)]),
        JSONL: tables.json_line(judged.row).encode(),
        AREAS: _csv_text(AREA_COLUMNS, map(tables.area_row, judged.areas)),
    }


def _csv_text(columns, rows=None):
    """Returns rows as they are in a file; the header alone without any."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if rows is None:
        writer.writeheader()
    else:
        writer.writerows(rows)
    return text.getvalue().encode()


def _line(record):
    return json.dumps(record).encode() + b"\n"


def _longer(end, text):
    length, checksum = end
    return length + len(text), zlib.crc32(text, checksum)


def _checksum(file, length):
    """Returns the checksum of a file's beginning; None if it is shorter."""
    file.seek(0)
    checksum = 0
    while length:
        data = file.read(min(length, 2**20))
        if not data:
            return None
        length -= len(data)
        checksum = zlib.crc32(data, checksum)
    return checksum


def _write(file, data):
    """Writes at the end of a file, in one write unless the disk is full, and waits for the disk."""
    if not data:
        return
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())
