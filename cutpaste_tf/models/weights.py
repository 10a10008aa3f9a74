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
    """Writes a model's weights; the file is whole or not there.

    Args:
      model: the model.
      path: a file that ends in `.weights.h5`; its folder must exist.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"tmp.{path.name}")  # Keras insists on the ending
    model.save_weights(temporary)
    os.replace(temporary, path)


def load(model: keras.Model, path: str | os.PathLike) -> None:
    """Reads a model's weights.

    Args:
      model: what to restore.
      path: a `.weights.h5` file.

    Raises:
      UserError: if the file is missing, damaged or another model's.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; has the run finished?")
    if not try_load(model, path):
        raise UserError(f"{path}: not readable as this network's weights")


def try_load(model: keras.Model, path: str | os.PathLike) -> bool:
    """Reads a `.weights.h5` or `.keras` file, and returns whether its weights are the model's.

    Where they are not, the model is left with weights of any value.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that does not fit.
        try:
            if not _is_plain(path):
                return False
            model.load_weights(path)
        # h5py, zipfile and Keras raise almost anything for a file that is no model's.
        except Exception:
            return False
    return True


def _is_plain(path):
    """Whether all that a file says it holds has its bytes there, so that nothing is unpacked."""
    size = os.path.getsize(path) + 2**20  # Empty and short arrays may take less than they say.
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
