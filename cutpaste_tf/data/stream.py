"""Reads new images to score: any number, of any size and format, two batches in memory.

Nothing here imports TensorFlow.
"""

import collections
import concurrent.futures
import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cutpaste_tf.data import decode, search
from cutpaste_tf.files import UserError

T, R = TypeVar("T"), TypeVar("R")
_PIXELS = 2**26  # the most pixels in memory, 200 MB, unless a single image has more


class Read(NamedTuple):
    """A file that was read, or why it could not be."""

    path: pathlib.Path
    prepared: Any = None  # what `prepare` returned; None with an error
    image: np.ndarray | None = None  # uint8 [H, W, 3], if images are kept
    size: tuple[int, int] | None = None  # the image's height and width in pixels
    error: str | None = None


def find(
    sources: Sequence[str | os.PathLike],
    written: pathlib.Path,
    *tables: str,
    flag: str = "images",
    warn: Callable[[str], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Finds images; a UserError says what is wrong with a source.

    Args:
      sources: files, taken as they are, and folders, searched as by `search.walk`.
      written: the folder that the command writes to; it is not searched. A folder of the same name
        beside a file of `tables` has earlier overlays, and is not searched either.
      tables: names of files.
      flag: the flag that names the sources, for messages.
      warn: takes a line about a folder in a source that may not be read and is left out; None:
        such a folder is a UserError.

    Yields:
      The files, those of a folder in the order of their names.
    """
    real = os.path.realpath(written)

    def is_written(folder):
        named = folder.name == written.name
        earlier = named and any((folder.parent / table).is_file() for table in tables)
        return earlier or os.path.realpath(folder) == real

    for text in map(str, sources):
        source = pathlib.Path(text)
        if not text or not os.path.exists(source):
            raise UserError(f"--{flag}={text}: there is no such file or folder")
        if pathlib.Path(os.path.realpath(source)).is_relative_to(real):
            raise UserError(f"--{flag}={source}: lies in {written}, which the command writes to")
        if source.is_dir():
            yield from search.walk(source, is_written, warn)
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
    """Reads files in threads, ahead of the caller and in order.

    Args:
      paths: the files; may be endless.
      prepare: turns an image, uint8 [H, W, 3], into what is scored; called in threads.
      batch_size: files in a batch, M.
      bits: as in `decode.decode`.
      workers: threads; one for each core by default.
      keep: whether batches have the images too.

    Yields:
      M files; fewer at the end, and if images are large.
    """

    def read(path):
        try:
            image = decode.read(path, bits)
            return Read(path, prepare(image), image if keep else None, image.shape[:2])
        except UserError as error:
            return Read(path, error=str(error).removeprefix(f"{path}: "))
        except MemoryError:
            return Read(path, error="takes more memory than there is")

    ahead = collections.deque()  # futures, and the pixels of their images

    def take(count):
        return [ahead.popleft()[0].result() for _ in range(min(count, len(ahead)))]

    with _threads(workers) as pool:
        for path in paths:
            pixels = _count_pixels(path)
            while len(ahead) == 2 * batch_size or (
                ahead and pixels + sum(others for _, others in ahead) > _PIXELS
            ):
                yield take((len(ahead) + 1) // 2)  # The others are read meanwhile.
            ahead.append((pool.submit(read, path), pixels))
        while ahead:
            yield take(batch_size)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Works on items in threads, and yields the results in the items' order."""
    with _threads() as pool:
        yield from pool.map(work, items)


@contextlib.contextmanager
def _threads(count=None):
    """A pool of threads; leaving it early cancels work that has not begun."""
    # In more threads, large images would take gigabytes.
    pool = concurrent.futures.ThreadPoolExecutor(count or min(8, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _count_pixels(path):
    """An image's pixels by its header; 0 for a file that cannot be read."""
    with contextlib.suppress(UserError):
        return math.prod(decode.size(path))
    return 0
