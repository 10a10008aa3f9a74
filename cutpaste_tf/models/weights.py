"""A network's weights on disk, as Keras's `.weights.h5` files."""

import contextlib
import math
import os
import pathlib
import warnings
import zipfile

import h5py
import keras

from cutpaste_tf.files import UserError


def save(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a model's weights, all or nothing, to a path that ends in `.weights.h5`."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"tmp.{path.name}")  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, path)


def load(model: keras.Model, path: str | os.PathLike) -> None:
    """Reads a run's weights; a file that is missing, damaged or another model's is a UserError."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; has the run finished?")
    if not try_load(model, path):
        raise UserError(f"{path}: not readable as this network's weights")


def try_load(model: keras.Model, path: str | os.PathLike) -> bool:
    """Reads a `.weights.h5` or `.keras` file; False if its weights do not fit the model.

    If False, some of the model's weights may have changed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that does not fit.
        try:
            if not _is_plain(path):
                return False
            model.load_weights(path)
        # h5py, zipfile and Keras raise almost anything for a file that has no model's weights.
        except Exception:
            return False
    return True


def _is_plain(path):
    """Whether a file's arrays are no larger than the file, so that reading it unpacks nothing."""
    size = os.path.getsize(path) + 2**20  # Empty and short arrays may take less than they declare.
    with contextlib.ExitStack() as stack:
        source = path
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if sum(member.file_size for member in archive.infolist()) > size:
                return False
            source = stack.enter_context(archive.open("model.weights.h5"))
        file = stack.enter_context(h5py.File(source, "r"))
        sizes = []

        def count(name, item):
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                sizes.append(math.prod(item.shape) * item.dtype.itemsize)

        file.visititems(count)
        return sum(sizes) <= size
