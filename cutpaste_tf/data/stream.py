"""New images to score: any number, of any size and format, one batch in memory at a time."""

import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator, Sequence

from cutpaste_tf.data import decode, pipeline, search
from cutpaste_tf.data.preparation import Preparation, as_preparation
from cutpaste_tf.errors import UserError

_LARGE = 2**25  # pixels; of larger images, gigabytes as floats, one is decoded at a time


@dataclasses.dataclass(frozen=True)
class Batch:
    """Consecutive files.

    Attributes:
      paths: the M files.
      images: the N of them that could be decoded, in their order.
      errors: why the others could not, by their place among the M.
    """

    paths: Sequence[pathlib.Path]
    images: pipeline.Images
    errors: dict[int, str]


def find(
    sources: Sequence[str | os.PathLike], outside: pathlib.Path, table: str
) -> Iterator[pathlib.Path]:
    """Finds images.

    Args:
      sources: files, taken as they are, and folders, searched with all folders in them for files
        with an image's ending, as in `search.walk`.
      outside: a folder that is not searched, as it is written to. Nor is one of its name that
        lies beside a file called `table`: it was written to earlier.
      table: that file's name.

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
                if not _is_written(path, source, outside.name, table):
                    yield path
        else:
            yield source


def _is_written(path, source, name, table):
    """Whether a file lies in a folder of some name with a table beside it."""
    folders = [folder for folder in path.parents if source in folder.parents]
    return any(folder.name == name and (folder.parent / table).is_file() for folder in folders)


def batches(
    paths: Iterable[pathlib.Path],
    preparation: Preparation | int,
    batch_size: int,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Reads and prepares files, ahead of who takes them and in their order.

    Args:
      paths: the files.
      preparation: as in `pipeline.prepare`.
      batch_size: files a batch, M.
      workers: threads that decode; one for each core by default.

    Yields:
      The batches, the last one smaller. Two are in memory at a time.
    """
    preparation = as_preparation(preparation)
    alone = threading.Lock()

    def prepare(path):
        try:
            data = decode.contents(path)
            with alone if decode.is_large(data, _LARGE) else contextlib.nullcontext():
                image = decode.decode(data, str(path), preparation.bits)
                return path, preparation.apply(image), image.shape[:2]
        except UserError as error:
            return path, None, str(error).removeprefix(f"{path}: ")

    done = []
    for prepared in pipeline.in_order(prepare, paths, batch_size, workers):
        done.append(prepared)
        if len(done) == batch_size:
            yield _batch(done, preparation)
            done = []
    if done:
        yield _batch(done, preparation)


def _batch(done, preparation):
    good = [(tiles, size) for _, tiles, size in done if tiles is not None]
    tiles, sizes = [tiles for tiles, _ in good], [size for _, size in good]
    images = pipeline.of_prepared(tiles, preparation, sizes)
    errors = {place: why for place, (_, tiles, why) in enumerate(done) if tiles is None}
    return Batch([path for path, _, _ in done], images, errors)
