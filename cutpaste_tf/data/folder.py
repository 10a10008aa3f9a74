"""Any folder in MVTec layout.

    ROOT/train/good/*                            normal images to train on
    ROOT/test/good/*                             normal images to test on (optional)
    ROOT/test/TYPE/*                             anomalous images of one type (optional)
    ROOT/ground_truth/TYPE/STEM_mask.*           their masks, not zero on the defect (optional)

Images have any format of `decode.FORMATS` and any size, and may lie in further folders below these.
Hidden files and folders are ignored.
"""

import contextlib
import os
import pathlib

from cutpaste_tf.data import decode, search, stream
from cutpaste_tf.data.split import Category, Split, normal_split
from cutpaste_tf.files import UserError

_FOLDERS = ("train", "test", "ground_truth")
# A mask is named by its image's stem and one of these; the first that exists counts.
_MASK_ENDINGS = ("_mask", "", "_gt", "_GT", "_label")


def is_category(root: pathlib.Path) -> bool:
    """Returns whether a folder has images to train on; `load` refuses those in train/ itself."""
    return any(_named(train, "good") or search.inside(train)[1] for train in _named(root, "train"))


def categories(data_dir: str) -> tuple[str, ...]:
    """Returns the names of the categories in a folder in MVTec layout, sorted.

    They are the subfolders that hold `train/good`, or the folder itself if it holds `train/good`.
    """
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise UserError(f"--data_dir={data_dir}: there is no such folder")
    if is_category(root):
        return (os.path.basename(os.path.abspath(root)) or "images",)
    names = []
    for path in search.inside(root)[0]:
        with contextlib.suppress(UserError):  # A folder that may not be read is none of them.
            names += [path.name] if is_category(path) else []
    if not names:
        raise UserError(
            f"--data_dir={data_dir}: no images to train on; normal images belong in "
            f"{root / 'train' / 'good'} or {root / 'CATEGORY' / 'train' / 'good'}"
        )
    return tuple(sorted(names))


def load(data_dir: str | os.PathLike, category: str = "") -> Category:
    """Finds the images in DATA_DIR/CATEGORY, or in DATA_DIR if that is a category; reads masks.

    The category's notes name what is left out or does not fit. An image whose mask marks nothing
    counts as one without a mask, None.
    """
    root = pathlib.Path(data_dir)
    if not is_category(root):
        root /= category
    notes = []

    def name(file):
        return file.relative_to(root).as_posix()

    def note(files, problem, consequence):
        if files:
            notes.append(f"{len(files)} {problem}, such as {name(files[0])}; {consequence}")

    train, others = [], []
    for folder, images in _by_folder(root, "train"):
        (train if folder.name.lower() == "good" else others).extend(images)
    if not train:
        raise UserError(
            f"{root / 'train' / 'good'}: no images to train on; normal images belong there, as "
            f"files that end in {search.endings()}"
        )
    note(others, "images of train/ are left out", "only train/good is read")
    test, empty = [], []
    for folder, images in _by_folder(root, "test"):
        test += images
        empty += [] if images else [folder]
    note(empty, "folders of test/ hold no image", f"images end in {search.endings()}")
    folders, others = search.inside(root)
    for folder in folders:
        if folder.name.lower() not in _FOLDERS:
            others += search.walk(folder)
    note(others, "images are left out", "only train/ and test/ are read")
    paths = [_path_in_part(file, root) for file in test]
    masks = _checked(_masks(root, test, paths, note), test, note)
    return Category(
        train=normal_split([name(file) for file in train], [str(file) for file in train]),
        test=Split(
            names=[name(file) for file in test],
            images=[str(file) for file in test],
            defect_types=["good" if _is_good(x) else x.partition("/")[0] for x in paths],
            masks=[str(mask) if mask else None for mask in masks],
        ),
        notes=tuple(notes),
    )


def _named(folder, name):
    """The folders in a folder that have a name, in upper or lower case."""
    return [path for path in search.inside(folder)[0] if path.name.lower() == name]


def _by_folder(root, part):
    """Yields the folders in train/ or test/, and the images in each."""
    for parent in _named(root, part):
        folders, images = search.inside(parent)
        if images:
            raise UserError(
                f"{images[0]}: lies in no folder of {part}/; normal images belong in "
                f"{parent / 'good'}" + (f", others in {parent / 'TYPE'}" if part == "test" else "")
            )
        for folder in folders:
            yield folder, list(search.walk(folder))


def _path_in_part(file, root):
    """A file's path in test/ or ground_truth/ without its ending, such as scratch/further/017."""
    return file.relative_to(root).with_suffix("").as_posix().partition("/")[2]


def _is_good(path):
    return path.lower().startswith("good/")


def _masks(root, images, paths, note):
    """Returns the mask of each test image, or None; notes images without masks, and the reverse."""
    # Upper and lower case count alike, unless names of images differ by case alone.
    fold = str.lower if len(set(map(str.lower, paths))) == len(set(paths)) else str
    folders = _named(root, "ground_truth")
    files = {}
    for folder in folders:
        for mask in search.walk(folder):
            files.setdefault(fold(_path_in_part(mask, root)), mask)
    masks, missing = [], []
    for image, path in zip(images, paths, strict=True):
        keys = [] if _is_good(path) else [fold(path + ending) for ending in _MASK_ENDINGS]
        masks.append(next((files[key] for key in keys if key in files), None))
        if folders and keys and masks[-1] is None:
            missing.append(image)
    note(missing, "anomalous images have no mask", "they count for detection alone")
    used = set(masks)
    # Data sets often have black masks of good images.
    unused = [mask for path, mask in files.items() if mask not in used and not _is_good(path)]
    advice = "the mask of test/TYPE/NAME.png is ground_truth/TYPE/NAME_mask.png"
    note(unused, "masks belong to no image", advice)
    return masks


def _checked(masks, images, note):
    """Returns masks, None for those that mark nothing; reads all, so that damage is found."""
    given = [i for i, mask in enumerate(masks) if mask is not None]

    def read(i):
        mask = decode.read_mask(masks[i])
        (height, width), (rows, columns) = decode.size(images[i]), mask.shape
        # Smaller masks are rounded to whole pixels.
        return mask.any(), abs(rows * width - columns * height) <= max(height, width)

    checks = dict(zip(given, stream.in_order(read, given), strict=True))
    blank = [i for i, (marks, _) in checks.items() if not marks]
    stretched = [masks[i] for i, (marks, fits) in checks.items() if marks and not fits]
    note([masks[i] for i in blank], "masks mark nothing", "their images count as without a mask")
    note(stretched, "masks have another shape than their images", "they are stretched over them")
    return [mask if i in checks and checks[i][0] else None for i, mask in enumerate(masks)]
