"""Finding images in folders: what is hidden is no data.

Nothing here imports TensorFlow.
"""

import os
import pathlib
import stat
from collections.abc import Callable, Iterator

from cutpaste_tf.data import decode
from cutpaste_tf.files import UserError

# What systems leave in folders, besides names that begin with a dot; in lower case.
_SYSTEMS = (
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbs.db", "desktop.ini"),
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEMS


def is_image(path: pathlib.Path) -> bool:
    """Whether a file is an image, by the ending of its name in any case."""
    return path.name.lower().endswith(decode.SUFFIXES)


def endings() -> str:
    """Returns the endings of images, as messages name them."""
    return ", ".join(decode.SUFFIXES)


def _refuse(problem):
    raise UserError(problem)


def walk(
    folder: pathlib.Path,
    skip: Callable[[pathlib.Path], bool] = lambda folder: False,
    tell: Callable[[str], None] = _refuse,
) -> Iterator[pathlib.Path]:
    """Finds the files in a folder and all folders in it, but for what is hidden.

    Each folder is searched once, whatever links lead to it; folders for which `skip` is true are
    passed over, and so are pipes and devices. Files come in the order of their names, those of a
    folder before those of the folders in it. `tell` takes a line about a folder that may not be
    read; by default that is a UserError, and for `folder` itself it always is.
    """

    def refuse(error):
        problem = f"{error.filename}: may not be read ({error.strerror})"
        (_refuse if os.fspath(error.filename) == os.fspath(folder) else tell)(problem)

    def is_file(path):  # A link to nowhere is one that cannot be read, which who reads it tells.
        try:
            return stat.S_ISREG(os.stat(path).st_mode)
        except OSError:
            return True

    searched = set()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        if real in searched:
            folders.clear()
            continue
        searched.add(real)
        names = (name for name in sorted(folders) if not is_hidden(name))
        folders[:] = [name for name in names if not skip(pathlib.Path(here, name))]
        found = (pathlib.Path(here, name) for name in sorted(files) if not is_hidden(name))
        yield from filter(is_file, found)


def inside(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the folders and the images that lie in a folder itself, but for what is hidden.

    There are none in a folder that is not there; one that may not be read is a UserError.
    """
    folders, images = [], []
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in entries:
            if is_hidden(path.name):
                continue
            if path.is_dir():
                folders.append(path)
            elif is_image(path):
                images.append(path)
    except OSError as error:
        raise UserError(f"{folder}: may not be read ({error.strerror})") from error
    return folders, images
