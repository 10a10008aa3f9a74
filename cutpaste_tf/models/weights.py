"""A network's weights on disk, as Keras's `.weights.h5` files."""

import math
import os
import pathlib
import warnings
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf.files import UserError


def save(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a model's weights; the file is whole or not there.

    Args:
      model: the model.
      path: a file that ends in `.weights.h5`; its folder must exist.

    Raises:
      OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"tmp.{path.name}")  # Keras insists on the ending
    require_space(temporary, model.variables)
    model.save_weights(temporary)
    os.replace(temporary, path)


def require_space(path: str | os.PathLike, variables: Iterable[tf.Variable]) -> None:
    """Checks that a file with some variables fits on the disk.

    On a full disk the HDF5 library prints pages of errors and ends the process at its exit, so
    that case has to be met before.

    Args:
      path: the file that is to be written.
      variables: what it is to hold.

    Raises:
      OSError: if it does not fit, or the folder cannot be written.
    """
    path = pathlib.Path(path)
    size = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size + 4096 for v in variables) + 2**16
    trial = path.with_name(path.name + ".trial")
    try:
        with open(trial, "wb") as file:
            for start in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - start)))
    finally:
        trial.unlink(missing_ok=True)


def load(model: keras.Model, path: str | os.PathLike) -> None:
    """Reads a model's weights.

    Args:
      model: what to restore.
      path: a `.weights.h5` file.

    Raises:
      UserError: if the file is missing, damaged or another model's.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; has the run finished?")
    if not try_load(model, path):
        raise UserError(f"{path}: not readable as this network's weights")


def try_load(model: keras.Model, path: str | os.PathLike) -> bool:
    """Reads weights and returns whether they are the model's and finite.

    Args:
      model: what to restore; where the file does not fit, it is left with weights of any value.
      path: a `.weights.h5` or `.keras` file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that does not fit.
        try:
            model.load_weights(path)
        # A damaged or hostile file makes h5py, zipfile and Keras raise almost anything.
        except Exception:
            return False
    return all(np.isfinite(weight).all() for weight in model.get_weights())
