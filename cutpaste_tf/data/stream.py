"""New images to score: any number, of any size and format, one batch in memory at a time."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.errors import UserError

SUFFIXES = (*folder.SUFFIXES, *folder.OTHER_SUFFIXES)
# What Pillow may take a file for, whatever its name: no formats that start other programs.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM")
# Training data of these formats are decoded by TensorFlow; the same file then gets the same score.
_TENSORFLOW = ("PNG", "JPEG", "MPO")
_DEEP = "its pixels have more than 16 bits; save it with 8 or 16"
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


def find(sources: Sequence[str | os.PathLike], outside: pathlib.Path) -> Iterator[pathlib.Path]:
    """Finds images.

    Args:
      sources: files, taken as they are, and folders, searched with all folders in them for files
        with an image's ending; hidden ones are passed over, and each is searched once, whatever
        links lead to it.
      outside: a folder that is not searched, as it is written to.

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
            yield from _walk(source, outside)
        else:
            yield source


def _walk(root, outside):
    def refuse(error):
        raise UserError(f"{error.filename}: may not be read ({error.strerror})") from error

    seen = {str(outside)}
    for here, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        here = pathlib.Path(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield here / name


def read(path: str | os.PathLike) -> np.ndarray:
    """Reads an image of any format that TensorFlow or Pillow knows.

    Args:
      path: the file. Of several frames the first is taken.

    Returns:
      uint8 [H, W, 3]; grey is repeated, an alpha channel dropped, 16 bits reduced to 8, as in
      `pipeline.decode`.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    return decode(_contents(path), str(path))


def _contents(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def decode(contents: bytes, name: str) -> np.ndarray:
    """Decodes an image as `read` does.

    Args:
      contents: a file's bytes.
      name: what to call it in messages.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: naming the image and what is wrong with it.
    """
    try:
        with _opened(contents) as file:
            if file.format in _TENSORFLOW:
                image = pipeline.decode(tf.constant(contents)).numpy()
            else:
                image = _rgb(file)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too large an image") from error
    # Pillow's and TensorFlow's decoders raise almost anything on a damaged file.
    except Exception as error:
        reason = str(error) if str(error) == _DEEP else "damaged or truncated"
        raise UserError(f"{name}: {reason}") from error
    if not image.size:
        raise UserError(f"{name}: has no pixels")
    return image


def _opened(contents):
    """A file as Pillow sees it, its header read alone."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    return Image.open(io.BytesIO(contents), formats=known)


def _is_large(contents):
    try:
        with _opened(contents) as file:
            return file.width * file.height > _LARGE
    except Exception:  # Whatever it is, decoding says so.
        return False


def _rgb(file):
    if file.mode.startswith("I") or file.mode == "F":
        pixels = np.asarray(file)
        # Pillow opens 16 bits as I in some formats; 32 bits and fractions have no known range.
        if file.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(_DEEP)
        return np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if file.mode in ("LA", "La"):
        file = file.convert("L")
    return np.asarray(file.convert("RGB"))


def batches(
    paths: Iterable[pathlib.Path], size: int, batch_size: int, workers: int | None = None
) -> Iterator[Batch]:
    """Reads, decodes and resizes files, ahead of who takes them and in their order.

    Args:
      paths: the files.
      size: the wanted height and width.
      batch_size: files a batch, M.
      workers: threads that decode; one for each core by default.

    Yields:
      The batches, the last one smaller. Two are in memory at a time.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)], autograph=False)
    def resize(image):
        return pipeline.resize(image, size)

    alone = threading.Lock()

    def prepare(path):
        try:
            contents = _contents(path)
            with alone if _is_large(contents) else contextlib.nullcontext():
                return resize(tf.constant(decode(contents, str(path)))).numpy()
        except UserError as error:
            return str(error).removeprefix(f"{path}: ")

    workers = workers or os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting, done = collections.deque(), []
        try:
            for path in paths:
                waiting.append((path, pool.submit(prepare, path)))
                if len(waiting) > batch_size:
                    first, prepared = waiting.popleft()
                    done.append((first, prepared.result()))
                if len(done) == batch_size:
                    yield _batch(done, size)
                    done = []
            while waiting:
                first, prepared = waiting.popleft()
                done.append((first, prepared.result()))
                if len(done) == batch_size or not waiting:
                    yield _batch(done, size)
                    done = []
        finally:  # Whoever stops early does not wait for images that nobody wants.
            pool.shutdown(wait=False, cancel_futures=True)


def _batch(done, size):
    good = [prepared for _, prepared in done if not isinstance(prepared, str)]
    stored = np.stack(good) if good else np.zeros([0, size, size, 3], np.uint8)
    images = pipeline.Images(len(good), size, tf.constant(stored), None)
    errors = {
        place: prepared for place, (_, prepared) in enumerate(done) if isinstance(prepared, str)
    }
    return Batch([path for path, _ in done], images, errors)
