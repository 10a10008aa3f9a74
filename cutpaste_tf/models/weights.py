"""A network's weights on disk, as Keras's `.weights.h5` files."""

import os
import pathlib
import warnings

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
    """Reads weights and returns whether they are the model's.

    Args:
      model: what to restore; where the file does not fit, it is left with weights of any value.
      path: a `.weights.h5` or `.keras` file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that does not fit.
        try:
            model.load_weights(path)
        # h5py, zipfile and Keras raise almost anything for a file that is no model's.
        except Exception:
            return False
    return True
