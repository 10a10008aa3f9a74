"""A network's weights on disk, as Keras's `.weights.h5` files."""

import os
import pathlib
import warnings

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
            model.load_weights(path)
        # h5py, zipfile and Keras raise almost anything for a file that has no model's weights.
        except Exception:
            return False
    return True
