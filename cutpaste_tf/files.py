"""Files that are whole or not there, locks among commands, the user's error, lines of a log."""

import contextlib
import errno
import glob
import io
import math
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    import numpy as np


class UserError(Exception):
    """A mistake of the user's: a flag's value, a missing folder, a broken image.

    Its message is one line that names the thing and the mend; a command prints it on stderr without
    a traceback and exits with status 2.
    """


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a file to write in another's place.

    Args:
      path: the file to make or to replace.

    Yields:
      The path of a file beside it, to be written. It takes the name `path` at the end of the block;
      where the block raises, it goes and what was at `path` stays.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def locked(path: str | os.PathLike, busy: str | None = None) -> Iterator[None]:
    """Keeps other processes from what a file stands for while the block lasts.

    The system lets a lock go when its process ends, however that ends; the file stays.

    Args:
      path: the lock's file; its folder is made.
      busy: what to tell the user where another process holds the lock; None to wait for its end.

    Raises:
      UserError: `busy`.
      OSError: if the file cannot be written.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    lock = filelock.FileLock(path, timeout=-1 if busy is None else 0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(busy) from error
    try:
        yield
    finally:
        lock.release()


def read_text(path: str | os.PathLike, most: int = 2**26) -> str:
    """Returns a text file's text, UTF-8 with a byte-order mark or without.

    Args:
      path: the file.
      most: bytes that it may have.

    Raises:
      OSError: if it is no regular file, or cannot be read.
      ValueError: if it is larger, or not UTF-8.
    """
    check_regular(path)
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most} bytes")
    return data.decode("utf-8-sig")


def check_regular(path: str | os.PathLike) -> None:
    """Raises an OSError for what is no regular file: a pipe would be waited for, without end."""
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "there is no such file", os.fspath(path))


def read_npz(path: str | os.PathLike) -> dict[str, "np.ndarray"]:
    """Reads what `np.savez` wrote: arrays of numbers and names, no larger together than the file.

    Raises:
      UserError: if the file cannot be read, or says that it holds more than it has bytes for.
    """
    import numpy as np

    arrays = {}
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > os.path.getsize(path):
                raise ValueError("it is packed")
            for member in members:
                data = archive.read(member)
                header = io.BytesIO(data)
                version = np.lib.format.read_magic(header)
                read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, _, dtype = read_header(header)
                if header.tell() + math.prod(shape) * dtype.itemsize != len(data):
                    raise ValueError("it is cut, or says that it is larger")
                array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
                if array.dtype.kind not in "biufU" or not (
                    array.dtype.kind == "U" or np.isfinite(array).all()
                ):
                    raise ValueError("its numbers are none")
                arrays[member.filename.removesuffix(".npy")] = array
    except Exception as error:  # zipfile and numpy raise almost anything for a damaged file.
        raise UserError(f"{path}: damaged; copy the run again, or train it again") from error
    return arrays


def read_lines(path: str, flag: str) -> list[str]:
    """Reads a text file that a flag names, with a byte-order mark or without.

    Args:
      path: the file.
      flag: the flag's name, for messages.

    Returns:
      Its lines without space around them, but for those that are empty.

    Raises:
      UserError: if it cannot be read, or is not UTF-8.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        not_text = isinstance(error, UnicodeDecodeError)
        reason = "not UTF-8" if not_text else getattr(error, "strerror", None) or error
        raise UserError(f"--{flag}={path}: cannot be read ({reason})") from error
    return list(filter(None, map(str.strip, text.split("\n"))))


@contextlib.contextmanager
def scratch(parent: str | os.PathLike, prefix: str) -> Iterator[pathlib.Path]:
    """Gives a new folder in `parent`, called by a prefix, which goes at the end of the block.

    Those of the same prefix that killed processes have left go now: nobody holds their locks.
    """
    parent = pathlib.Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob(f"{glob.escape(prefix)}*/lock"):
        with contextlib.suppress(UserError, OSError), locked(lock, "in use"):
            shutil.rmtree(lock.parent)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder,
        locked(os.path.join(folder, "lock")),
    ):
        yield pathlib.Path(folder)


def as_text(name: str | os.PathLike) -> str:
    r"""Returns a name as UTF-8 can have it: on Linux a name is any bytes.

    A byte XX that is not UTF-8 becomes the six characters `\udcXX`, as Python prints it on stderr.
    """
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")


def cell(value: object) -> object:
    """Returns a value as a CSV has it: a text that a spreadsheet takes for a formula begins with '.

    In front of such a text that has apostrophes already there is one more, so that taking one away
    gives any text back.
    """
    is_formula = isinstance(value, str) and value.lstrip("'").startswith(
        ("=", "+", "-", "@", "\t", "\r")
    )
    return f"'{value}" if is_formula else value


def escaped(text: str) -> str:
    """Returns a text without what a terminal obeys: names of files may hold line breaks and codes.

    A character that is not printable, such as one that turns the direction of writing, becomes
    Python's escape of it.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def say(text: str) -> None:
    """Prints a line of a log; one that cannot be written is dropped, and ends nothing."""
    # A full disk, a reader that has left, a terminal that is closed.
    with contextlib.suppress(OSError, ValueError):
        print(escaped(text), flush=True)


def warn(text: str) -> None:
    """Prints a line on stderr, as `say` does on stdout."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(escaped(text), file=sys.stderr, flush=True)
