"""Any folder in MVTec layout.

    ROOT/train/good/*                            normal images to train on
    ROOT/test/good/*                             normal images to test on (optional)
    ROOT/test/TYPE/*                             anomalous images of one type (optional)
    ROOT/ground_truth/TYPE/STEM_mask.*           their masks, not zero on the defect (optional)

Images are of any format that Pillow reads, grey or colour, of any size, and may lie in further
folders below these. What is hidden is no data.
"""

import os
import pathlib

import numpy as np

from cutpaste_tf.data import decode, search, stream
from cutpaste_tf.data.split import Category, Split, normal
from cutpaste_tf.files import UserError

_FOLDERS = ("train", "test", "ground_truth")
# What follows an image's stem in the name of its mask; the first that there is counts.
_MASK_ENDINGS = ("_mask", "", "_gt", "_GT", "_label")


def training_folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders `train/good` of a category, in upper or lower case; there may be none."""
    return [good for train in _named(root, "train") for good in _named(train, "good")]


def category_root(data_dir: str, category: str) -> pathlib.Path:
    """Returns the folder of a category: DATA_DIR/CATEGORY, or DATA_DIR where that is the part."""
    root = pathlib.Path(data_dir)
    if _is_category(root):
        return root
    return root / category


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
    if _is_category(root):
        return (os.path.basename(os.path.abspath(root)) or "images",)
    found = [p.name for p in search.inside(root)[0] if _is_category(p)]
    if not found:
        raise UserError(
            f"--data_dir={data_dir}: no images to train on; normal images belong in "
            f"{root / 'train' / 'good'} or {root / 'CATEGORY' / 'train' / 'good'}"
        )
    return tuple(sorted(found))


def load(root: pathlib.Path) -> Category:
    """Finds the images below a folder that holds `train/good`, and reads the masks.

    Notes tell of what is left out. A mask that marks nothing is None, as one that is missing.
    """
    root, notes = pathlib.Path(root), []

    def name(file):
        return file.relative_to(root).as_posix()

    train = _train_images(root, name, notes)
    test = _test_images(root, name, notes)
    _note_others(root, notes)
    files = [file for _, file in test]
    types = [folder.name for folder, _ in test]
    types = ["good" if kind.lower() == "good" else kind for kind in types]
    masks = _masks(root, test, name, notes)
    return Category(
        train=normal([name(file) for file in train], [str(file) for file in train]),
        test=Split(
            names=[name(file) for file in files],
            images=[str(file) for file in files],
            labels=np.array([int(kind != "good") for kind in types], np.int64),
            defect_types=types,
            masks=[str(mask) if mask else None for mask in masks],
        ),
        notes=tuple(notes),
    )


def _named(folder, name):
    """The folders in a folder that have a name in upper or lower case."""
    return [path for path in search.inside(folder)[0] if path.name.lower() == name]


def _is_category(root):
    """Whether images to train on are here; `load` says so where they lie in train/ itself."""
    return any(_named(train, "good") or search.inside(train)[1] for train in _named(root, "train"))


def _train_images(root, name, notes):
    good = training_folders(root)
    for folder in _named(root, "train"):
        subfolders, images = search.inside(folder)
        if images:
            raise UserError(
                f"{images[0]}: lies in no folder of train/; normal images to train on belong in "
                f"{folder / 'good'}"
            )
        for other in (path for path in subfolders if path not in good):
            count = sum(map(search.is_image, search.walk(other)))
            if count:
                notes.append(f"{count} images in {name(other)} are left out; train/good is read")
    if not good:
        raise UserError(
            f"{root / 'train' / 'good'}: there is no such folder; normal images to train on belong "
            "there"
        )
    train = [file for folder in good for file in search.walk(folder) if search.is_image(file)]
    if not train:
        raise UserError(
            f"{good[0]}: no images to train on; files that end in {search.endings()} are"
        )
    return train


def _test_images(root, name, notes):
    """Pairs of a type's folder and an image."""
    test = []
    for folder in _named(root, "test"):
        types, images = search.inside(folder)
        if images:
            raise UserError(
                f"{images[0]}: lies in no folder of a type; put it into {folder / 'good'}, or "
                f"{folder / 'TYPE'} if it has a defect"
            )
        for kind in types:
            files = list(search.walk(kind))
            found = [(kind, file) for file in files if search.is_image(file)]
            if files and not found:
                notes.append(
                    f"{name(kind)} holds {len(files)} files and no image; files that end in "
                    f"{search.endings()} are"
                )
            test += found
    return test


def _note_others(root, notes):
    """Notes what lies beside train/, test/ and ground_truth/ and is left out."""
    folders, images = search.inside(root)
    others = [path for path in folders if path.name.lower() not in _FOLDERS]
    counts = {f"{p.name}/": sum(map(search.is_image, search.walk(p))) for p in others}
    counts |= {path.name: 1 for path in images}
    if left := [name for name, count in counts.items() if count]:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        notes.append(
            f"{sum(counts.values())} images in {shown} are left out; train/ and test/ are read"
        )


def _masks(root, test, name, notes):
    """The test images' masks, None where there is none; notes what is missing or does not fit."""
    folders = _named(root, "ground_truth")
    files = [(f, folder) for folder in folders for f in search.walk(folder) if search.is_image(f)]
    by_place = {}
    for file, folder in files:
        by_place.setdefault(_place(file, folder), file)
    masks = [None] * len(test)
    for as_named in (tuple, _lower):  # Other case counts where there is no exact name.
        left, taken = {}, set(masks)
        for place, mask in by_place.items():
            if mask not in taken:
                left.setdefault(as_named(place), mask)
        for i, (kind, file) in enumerate(test):
            if masks[i] is None and kind.name.lower() != "good":
                *where, stem = _place(file, kind.parent)
                places = (as_named((*where, stem + ending)) for ending in _MASK_ENDINGS)
                masks[i] = next((left[place] for place in places if place in left), None)
    anomalous = [i for i, (kind, _) in enumerate(test) if kind.name.lower() != "good"]
    missing = [test[i][1] for i in anomalous if masks[i] is None]
    if missing and folders:
        notes.append(
            f"{len(missing)} of {len(anomalous)} anomalous images have no mask, such as "
            f"{name(missing[0])}"
        )
    # Masks of good images, black all over, are often there.
    used = set(masks)
    of_none = [f for f, folder in files if f not in used and _place(f, folder)[0].lower() != "good"]
    if of_none:
        notes.append(
            f"{len(of_none)} masks belong to no image, such as {name(of_none[0])}; of "
            "test/TYPE/NAME.png it is ground_truth/TYPE/NAME_mask.png"
        )
    return _marking(test, masks, name, notes)


def _place(file, folder):
    """A file's place in test/ or ground_truth/: type, further folders, stem."""
    kind, *below = file.relative_to(folder).with_suffix("").parts
    return (kind, *below) if below else ("", kind)


def _lower(place):
    return tuple(map(str.lower, place))


def _marking(test, masks, name, notes):
    """The masks that mark something; notes those that do not, or are of another shape."""
    given = [i for i, mask in enumerate(masks) if mask is not None]

    def looked_at(i):
        mask = decode.read_mask(masks[i])
        (height, width), (rows, columns) = decode.size(test[i][1]), mask.shape
        # Smaller masks are rounded to whole pixels.
        return mask.any(), abs(rows * width - columns * height) <= max(height, width)

    found = dict(zip(given, stream.in_order(looked_at, given), strict=True))
    blank = [i for i, (marks, _) in found.items() if not marks]
    if blank:
        notes.append(
            f"{len(blank)} masks mark nothing, such as {name(masks[blank[0]])}; their images count "
            "as without a mask"
        )
    stretched = [i for i, (marks, alike) in found.items() if marks and not alike]
    if stretched:
        notes.append(
            f"{len(stretched)} masks are not of their images' shape, such as "
            f"{name(masks[stretched[0]])}; they are stretched over them"
        )
    return [None if i in blank else mask for i, mask in enumerate(masks)]
