"""Finds images in folders, and ignores hidden files. Nothing here imports TensorFlow."""

import os
import pathlib
from collections.abc import Callable, Iterator

from cutpaste_tf.data import decode
from cutpaste_tf.files import UserError

# What operating systems leave in folders, besides names that begin with a dot; in lower case.
_SYSTEMS = (
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbs.db", "desktop.ini"),
)


def is_image(path: pathlib.Path) -> bool:
    """Whether a file is an image, by the ending of its name in any case."""
    return path.name.lower().endswith(decode.SUFFIXES)


def endings() -> str:
    """Returns the endings of images, as messages name them."""
    return ", ".join(decode.SUFFIXES)


def walk(
    folder: pathlib.Path,
    skip: Callable[[pathlib.Path], bool] = lambda folder: False,
    warn: Callable[[str], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Finds the images in a folder and all folders in it, but for what is hidden.

    Each folder is searched once, whatever links lead to it; folders for which `skip` is true are
    left out, and so are pipes and devices. Images come in the order of their names, those of a
    folder before those of its subfolders. `warn` takes a line about a subfolder that may not be
    read; without `warn`, and for `folder` itself, that is a UserError.
    """

    def on_error(error):
        problem = f"{error.filename}: may not be read ({error.strerror})"
        if warn is None or error.filename == os.fspath(folder):
            raise UserError(problem) from error
        warn(problem)

    searched = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(parent)
        if real in searched:
            folders.clear()
            continue
        searched.add(real)
        folders[:] = [path.name for path in _visible(parent, folders) if not skip(path)]
        for path in filter(is_image, _visible(parent, files)):
            # A link to nowhere is listed, and its reader reports that it cannot be read.
            if os.path.isfile(path) or not os.path.exists(path):
                yield path


def inside(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the folders and the images that lie in a folder itself, but for what is hidden.

    A folder that does not exist has none; one that may not be read is a UserError.
    """
    try:
        paths = list(_visible(folder, os.listdir(folder))) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder}: may not be read ({error.strerror})") from error
    folders = [path for path in paths if os.path.isdir(path)]
    return folders, [path for path in paths if is_image(path) and path not in folders]


def _visible(folder, names):
    """Yields the paths that are neither hidden nor the system's, in the order of their names."""
    for name in sorted(names):
        if not name.startswith(".") and name.lower() not in _SYSTEMS:
            yield pathlib.Path(folder, name)
