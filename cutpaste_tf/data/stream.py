"""New images to score: any number, of any size and format, one batch in memory at a time.

Nothing here imports TensorFlow.
"""

import collections
import concurrent.futures
import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cutpaste_tf.data import decode, search
from cutpaste_tf.files import UserError, as_text

T, R = TypeVar("T"), TypeVar("R")
_LARGE = 2**25  # pixels; of larger images, gigabytes as floats, one is decoded at a time


class Read(NamedTuple):
    """A file that was read, or why it could not be."""

    path: pathlib.Path
    prepared: Any  # what `prepare` has made of it; None where there is an error
    size: tuple[int, int] | None  # the image's height and width in pixels
    error: str | None


def find(
    sources: Sequence[str | os.PathLike], outside: pathlib.Path, *tables: str
) -> Iterator[pathlib.Path]:
    """Finds images.

    Args:
      sources: files, taken as they are, and folders, searched with all folders in them for files
        with an image's ending, as in `search.walk`.
      outside: a folder that is not searched, as it is written to. Nor is one of its name that
        lies beside one of `tables`: it was written to earlier.
      tables: names of files.

    Yields:
      The files, those of a folder in the order of their names.

    Raises:
      UserError: if a source is missing or lies in what is not searched, or a folder may not be
        read.
    """
    outside = pathlib.Path(os.path.realpath(outside))
    for text in map(str, sources):
        source = pathlib.Path(text)
        try:
            folder, exists = source.is_dir(), source.exists()
        except OSError as error:
            raise UserError(f"--images={source}: {error.strerror}") from error
        if not text or not exists:
            raise UserError(f"--images={text}: there is no such file or folder")
        if pathlib.Path(os.path.realpath(source)).is_relative_to(outside):
            raise UserError(f"--images={source}: is where overlays are written to")
        if folder:
            for path in filter(search.is_image, search.walk(source, [str(outside)])):
                if not _is_written(path, source, outside.name, tables):
                    yield path
        else:
            yield source


def _is_written(path, source, name, tables):
    """Whether a file lies in a folder of some name with one of some tables beside it."""
    folders = [folder for folder in path.parents if source in folder.parents]
    return any(
        folder.name == name and any((folder.parent / table).is_file() for table in tables)
        for folder in folders
    )


def batches(
    paths: Iterable[pathlib.Path],
    prepare: Callable[[np.ndarray], Any],
    batch_size: int,
    bits: int = 16,
    workers: int | None = None,
) -> Iterator[list[Read]]:
    """Reads files, ahead of who takes them and in their order.

    Args:
      paths: the files; may be endless.
      prepare: makes of an image, uint8 [H, W, 3], what is to be scored; called in threads.
      batch_size: files a batch, M.
      bits: as in `decode.decode`.
      workers: threads that decode; one for each core by default.

    Yields:
      M files, the last time fewer. Two batches are in memory at a time.
    """
    alone = threading.Lock()

    def read(path):
        if as_text(path) != os.fspath(path):
            return Read(path, None, None, "its name is not UTF-8; rename it")
        try:
            data = decode.contents(path)
            with alone if decode.is_large(data, _LARGE) else contextlib.nullcontext():
                image = decode.decode(data, str(path), bits)
                return Read(path, prepare(image), image.shape[:2], None)
        except UserError as error:
            return Read(path, None, None, str(error).removeprefix(f"{path}: "))

    done = []
    for one in in_order(read, paths, batch_size, workers):
        done.append(one)
        if len(done) == batch_size:
            yield done
            done = []
    if done:
        yield done


def in_order(
    work: Callable[[T], R], items: Iterable[T], ahead: int | None = None, workers: int | None = None
) -> Iterator[R]:
    """Does some work on items in threads, and yields what comes of it in the items' order.

    Args:
      work: is called with each.
      items: may be endless; they are taken as they are needed.
      ahead: how many may be done before they are asked for; two for each thread by default.
      workers: threads; one for each core by default.

    Yields:
      What `work` returns, or raises.
    """
    workers = workers or os.cpu_count() or 1
    ahead = ahead or 2 * workers
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # Whoever stops early does not wait for what nobody wants.
            pool.shutdown(wait=False, cancel_futures=True)
