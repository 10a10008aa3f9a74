"""Files that are written whole or not at all, locks, the user's error, lines of a log."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    import numpy as np


class UserError(Exception):
    """A mistake that the user can correct: a flag's value, a missing folder, a broken image.

    The message names the thing and the remedy. A command prints it as one line and exits with 2.
    """


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a file to write, which replaces `path` at the end of the block.

    If the block raises, the file at `path` stays as it was.
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
    """Holds a lock during the block; the system releases the lock of a process that is killed.

    If another process holds the lock, raises a UserError with the text `busy`; None waits instead.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        lock = filelock.FileLock(path).acquire(timeout=-1 if busy is None else 0)
    except filelock.Timeout as error:
        raise UserError(busy) from error
    with lock:
        yield


def write_npz(path: str | os.PathLike, arrays: Mapping[str, "np.ndarray"]) -> None:
    """Writes arrays of numbers or names as .npz, without pickle, whole or not at all."""
    import numpy as np

    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_npz(path: str | os.PathLike) -> dict[str, "np.ndarray"]:
    """Reads what `write_npz` wrote; a UserError if the file is damaged or a number not finite."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if not all(x.dtype.kind == "U" or np.isfinite(x).all() for x in arrays.values()):
            raise ValueError("not finite")
    except Exception as error:  # zipfile and numpy raise almost anything for a damaged file.
        raise UserError(f"{path}: damaged; copy the run again, or train it again") from error
    return arrays


def read_lines(path: str, flag: str) -> list[str]:
    """Reads the lines of a text file that a flag names, stripped, without empty ones."""
    try:
        text = pathlib.Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        not_text = isinstance(error, UnicodeDecodeError)
        reason = "not UTF-8" if not_text else getattr(error, "strerror", None) or error
        raise UserError(f"--{flag}={path}: cannot be read ({reason})") from error
    return list(filter(None, map(str.strip, text.split("\n"))))


def as_text(name: str | os.PathLike) -> str:
    r"""Returns a file's name, in which a byte XX that is not UTF-8 becomes the text `\udcXX`."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")


def escaped(text: str) -> str:
    """Returns a text with escapes for control codes, which may be in file names."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def say(text: str) -> None:
    """Prints a line of a log; drops it if the disk is full or the reader has ended."""
    with contextlib.suppress(OSError, ValueError):
        print(escaped(text), flush=True)


def warn(text: str) -> None:
    """Prints a line on stderr, as `say` does on stdout."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(escaped(text), file=sys.stderr, flush=True)
