"""The data sets that come as Python packages."""

import functools
import sys

import numpy as np
import pytest

from cutpaste_tf import data
from cutpaste_tf.config import Config
from cutpaste_tf.data import elpv, textures
from cutpaste_tf.files import UserError


@pytest.fixture(scope="module")
def decoded():
    """The package decodes 2,624 images at each call, for seconds; here, once."""
    utils = pytest.importorskip("elpv_dataset.utils", reason="the extra demo is not installed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(utils, "load_dataset", functools.cache(utils.load_dataset))
        yield utils.load_dataset()


@pytest.mark.parametrize(
    ("name", "functional", "defective"), [("mono", 588, 313), ("poly", 920, 402)]
)
def test_elpv_trains_on_a_fixed_part_of_the_functional_cells(decoded, name, functional, defective):
    images, probabilities, types = decoded
    category = data.load(Config(dataset="elpv", category=name))
    assert category.train.names == elpv.load("", name).train.names
    assert len(category.train) == round(0.8 * functional)
    assert not set(category.train.names) & set(category.test.names)
    for split in (category.train, category.test):
        rows = [int(cell.removeprefix("images/cell").removesuffix(".png")) for cell in split.names]
        rows = np.array(rows) - 1
        assert (types[rows] == name).all()
        assert (split.labels == probabilities[rows]).all()
        assert (np.stack(split.images) == images[rows]).all()
    assert not category.train.labels.any()
    assert (category.test.labels == 0).sum() == functional - len(category.train)
    assert category.test.labels.sum() == defective
    assert set(category.test.defect_types) == {"good", "defective"}


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
def test_textures_crops_are_disjoint_parts_and_fixed(name):
    photographs = pytest.importorskip("skimage.data", reason="the extra demo is not installed")
    category = data.load(Config(dataset="textures", category=name))
    train, test = category.train.images, category.test
    for one, other in zip(test.images, textures.load("", name).test.images, strict=True):
        assert (one == other).all()
    left, middle, right = np.split(getattr(photographs, name)(), textures.MIDDLE, axis=1)
    assert all(_is_crop(image, left) for image in train[:5])
    assert all(_is_crop(image, right) for image in train[-5:])
    good = np.flatnonzero(test.labels == 0)
    assert all(_is_crop(test.images[i], middle) for i in good[:5])
    assert test.labels.sum() == len(test) / 2
    assert set(test.defect_types) == {"good", *textures.DEFECTS}
    for label, mask in zip(test.labels, test.masks, strict=True):
        assert (mask is None) == (label == 0)
        assert mask is None or 0.0005 < mask.mean() < 0.2


def _is_crop(image, photograph):
    windows = np.lib.stride_tricks.sliding_window_view(photograph, image.shape)
    candidates = np.argwhere(windows[:, :, 0, 0] == image[0, 0])
    return any((windows[y, x] == image).all() for y, x in candidates)


@pytest.mark.parametrize("kind", textures.DEFECTS)
def test_a_defect_changes_its_mask_and_little_else(kind):
    rng = np.random.default_rng(5)
    for _ in range(10):
        image = rng.integers(60, 200, (128, 128), dtype=np.uint8)
        result, mask = textures.draw_defect(image, kind, rng)
        change = np.abs(result.astype(int) - image.astype(int))
        assert change[mask].mean() > 10
        grown = np.pad(mask, 4)
        near = np.any(
            [grown[4 + y : 132 + y, 4 + x : 132 + x] for y in range(-4, 5) for x in range(-4, 5)], 0
        )
        assert not change[~near].any()


@pytest.mark.parametrize(
    ("module", "package"), [(elpv, "elpv_dataset.utils"), (textures, "skimage.data")]
)
def test_a_missing_package_is_named_with_the_command(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install .*\[demo\]"):
        module.load("", "brick")
