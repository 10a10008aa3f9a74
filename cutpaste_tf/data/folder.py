"""Any folder in MVTec layout.

    ROOT/train/good/*                            normal images to train on
    ROOT/test/good/*                             normal images to test on (optional)
    ROOT/test/TYPE/*                             anomalous images of one type (optional)
    ROOT/ground_truth/TYPE/STEM_mask.*           their masks, not zero on the defect (optional)

Images are of any format that Pillow reads, grey or colour, of any size.
"""

import os
import pathlib

import numpy as np

from cutpaste_tf.data import decode
from cutpaste_tf.data.split import Category, Split, normal
from cutpaste_tf.errors import UserError


def category_root(data_dir: str, category: str) -> pathlib.Path:
    """Returns the folder of a category: DATA_DIR/CATEGORY, or DATA_DIR where that is the part."""
    root = pathlib.Path(data_dir)
    return root if (root / "train" / "good").is_dir() else root / category


def categories(data_dir: str) -> tuple[str, ...]:
    """Returns the categories in a folder in MVTec layout.

    Args:
      data_dir: a folder whose subfolders hold `train/good`, or one that holds it itself; then its
        own name is its one category.

    Returns:
      The names, sorted.

    Raises:
      UserError: if the folder is missing or holds no category.
    """
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise UserError(f"--data_dir={data_dir}: there is no such folder")
    if (root / "train" / "good").is_dir():
        return (pathlib.Path(os.path.abspath(root)).name or "images",)
    try:
        names = sorted(p.name for p in root.iterdir() if (p / "train" / "good").is_dir())
    except OSError as error:
        raise UserError(f"--data_dir={data_dir}: {error.strerror}") from error
    if not names:
        raise UserError(
            f"--data_dir={data_dir}: no images to train on; normal images belong in "
            f"{root / 'train' / 'good'} or {root / 'CATEGORY' / 'train' / 'good'}"
        )
    return tuple(names)


def load(root: pathlib.Path) -> Category:
    """Finds the images of a folder in MVTec layout and reads their headers.

    Args:
      root: the folder that holds `train/good`.

    Returns:
      The images; the test split is empty where there is no test folder.

    Raises:
      UserError: if there are no images to train on, or a file is no image that can be read.
    """
    root = pathlib.Path(root)
    good = root / "train" / "good"
    if not good.is_dir():
        raise UserError(f"{good}: there is no such folder; normal images to train on belong there")
    train = _images(good)
    if not train:
        raise UserError(
            f"{good}: no images to train on; files that end in {', '.join(decode.SUFFIXES)} are"
        )
    test, masks = [], []
    test_root = root / "test"
    types = sorted(p for p in test_root.iterdir() if p.is_dir()) if test_root.is_dir() else []
    for folder in types:
        files = _images(folder)
        test += files
        masks += [_mask(root, folder.name, file) for file in files]
    for file in (*train, *test, *(mask for mask in masks if mask)):
        decode.check_header(file)

    def name(file):
        return file.relative_to(root).as_posix()

    types = [file.parent.name for file in test]
    return Category(
        train=normal([name(file) for file in train], [str(file) for file in train]),
        test=Split(
            names=[name(file) for file in test],
            images=[str(file) for file in test],
            labels=np.array([int(kind != "good") for kind in types], np.int64),
            defect_types=types,
            masks=[str(mask) if mask else None for mask in masks],
        ),
    )


def _images(folder):
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [file for file in files if file.suffix.lower() in decode.SUFFIXES]


def _mask(root, kind, file):
    """The mask of an anomalous image, or None."""
    if kind == "good":
        return None
    folder = root / "ground_truth" / kind
    for name in (f"{file.stem}_mask", file.stem):
        for suffix in decode.SUFFIXES:
            for candidate in (folder / (name + suffix), folder / (name + suffix.upper())):
                if candidate.is_file():
                    return candidate
    return None
