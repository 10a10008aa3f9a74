"""New images to score: any number, of any size and format, one batch in memory at a time.

Nothing here imports TensorFlow.
"""

import collections
import concurrent.futures
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cutpaste_tf.data import decode, search
from cutpaste_tf.files import UserError, as_text

T, R = TypeVar("T"), TypeVar("R")
_PIXELS = 2**26  # of images in memory at a time, but for one that is larger: 200 MB


class Read(NamedTuple):
    """A file that was read, or why it could not be."""

    path: pathlib.Path
    prepared: Any = None  # what `prepare` has made of it; None where there is an error
    image: np.ndarray | None = None  # uint8 [H, W, 3], where images are kept
    size: tuple[int, int] | None = None  # the image's height and width in pixels
    error: str | None = None


def find(
    sources: Sequence[str | os.PathLike],
    outside: pathlib.Path,
    *tables: str,
    tell: Callable[[str], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Finds images; a UserError says what is wrong with a source.

    Args:
      sources: files, taken as they are, and folders, searched with all folders in them for files
        with an image's ending, as in `search.walk`.
      outside: a folder that is not searched, as it is written to. Nor is one of its name that
        lies beside one of `tables`: it was written to earlier.
      tables: names of files.
      tell: takes a line about a folder in a source that may not be read, which is then passed
        over; None: that is a UserError.

    Yields:
      The files, those of a folder in the order of their names.
    """
    real = os.path.realpath(outside)

    def is_written(folder):
        named = folder.name == outside.name
        earlier = named and any((folder.parent / table).is_file() for table in tables)
        return earlier or os.path.realpath(folder) == real

    options = () if tell is None else (tell,)
    for text in map(str, sources):
        source = pathlib.Path(text)
        if not text or not os.path.exists(source):
            raise UserError(f"--images={text}: there is no such file or folder")
        if pathlib.Path(os.path.realpath(source)).is_relative_to(real):
            raise UserError(f"--images={source}: is where overlays are written to")
        if source.is_dir():
            yield from filter(search.is_image, search.walk(source, is_written, *options))
        else:
            yield source


def batches(
    paths: Iterable[pathlib.Path],
    prepare: Callable[[np.ndarray], Any],
    batch_size: int,
    bits: int = 16,
    workers: int | None = None,
    keep: bool = False,
) -> Iterator[list[Read]]:
    """Reads files, ahead of who takes them and in their order.

    Args:
      paths: the files; may be endless.
      prepare: makes of an image, uint8 [H, W, 3], what is to be scored; called in threads.
      batch_size: files a batch, M.
      bits: as in `decode.decode`.
      workers: threads that decode; one for each core by default.
      keep: whether batches have the images too.

    Yields:
      M files, the last time fewer; of large images that are kept fewer, too. Two batches are in
      memory at a time.
    """
    memory = _Memory()

    def read(numbered):
        number, path = numbered
        pixels = 0
        try:
            if as_text(path) != str(path):
                raise UserError("its name is not UTF-8; rename it")
            data = decode.contents(path)
            pixels = decode.count_pixels(data)
            memory.take(number, pixels)
            image = decode.decode(data, str(path), bits)
            found = Read(path, prepare(image), image if keep else None, image.shape[:2])
        except UserError as error:
            found = Read(path, error=str(error).removeprefix(f"{path}: "))
        except MemoryError:
            found = Read(path, error="takes more memory than there is")
        if found.image is None:
            memory.give_back(pixels)
            pixels = 0
        return found, pixels

    try:
        batch, held = [], 0
        for one, pixels in in_order(read, enumerate(paths), batch_size, workers):
            memory.next_number()
            batch.append(one)
            held += pixels
            if len(batch) == batch_size or held > _PIXELS // 2:
                yield batch
                batch = []
                memory.give_back(held)
                held = 0
        if batch:
            yield batch
    finally:
        memory.give_back(float("inf"))  # Whoever stops early leaves nobody waiting.


class _Memory:
    """Memory for images that are read ahead, in pixels."""

    def __init__(self):
        self._changed = threading.Condition()
        self._next, self._held = 0, 0

    def take(self, number, pixels):
        """Waits until there is room, but for the image that comes next."""
        with self._changed:
            self._changed.wait_for(lambda: number == self._next or self._held + pixels <= _PIXELS)
            self._held += pixels

    def give_back(self, pixels):
        with self._changed:
            self._held -= pixels
            self._changed.notify_all()

    def next_number(self):
        with self._changed:
            self._next += 1
            self._changed.notify_all()


def in_order(
    work: Callable[[T], R], items: Iterable[T], ahead: int | None = None, workers: int | None = None
) -> Iterator[R]:
    """Does some work on items in threads, and yields what comes of it in the items' order.

    Items may be endless: `ahead` are done before they are asked for, by default two for each
    thread. There is a thread for each core by default.
    """
    workers = workers or os.cpu_count() or 1
    ahead = ahead or 2 * workers
    pool, waiting = concurrent.futures.ThreadPoolExecutor(workers), collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # Whoever stops early does not wait for what nobody wants.
        pool.shutdown(wait=False, cancel_futures=True)
