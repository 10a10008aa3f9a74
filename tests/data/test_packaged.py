"""The data sets that come as Python packages."""

import functools
import sys

import numpy as np
import pytest

from cutpaste_tf.data import elpv, textures
from cutpaste_tf.files import UserError


@pytest.fixture(scope="module")
def decoded():
    """The package decodes 2,624 images at each call, for seconds; here, once."""
    utils = pytest.importorskip("elpv_dataset.utils", reason="the extra demo is not installed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(utils, "load_dataset", functools.cache(utils.load_dataset))
        yield


@pytest.fixture(scope="module", params=["mono", "poly"])
def cells(request, decoded):
    return request.param, elpv.load(request.param)


def test_elpv_trains_on_functional_cells_alone(cells):
    name, category = cells
    functional = {"mono": 588, "poly": 920}[name]
    assert len(category.train) == round(0.8 * functional)
    assert not category.train.labels.any()
    good = [kind == "good" for kind in category.test.defect_types]
    assert (category.test.labels == np.logical_not(good)).all()
    assert (category.test.labels == 0).sum() == functional - len(category.train)
    assert set(category.test.defect_types) == {
        "good",
        "probability_0.33",
        "probability_0.67",
        "probability_1.00",
    }


def test_elpv_split_is_fixed_and_disjoint(cells):
    name, category = cells
    again = elpv.load(name)
    assert category.train.names == again.train.names
    assert category.test.names == again.test.names
    assert not set(category.train.names) & set(category.test.names)
    total = {"mono": 588 + 117 + 56 + 313, "poly": 920 + 178 + 50 + 402}[name]
    assert len(category.train) + len(category.test) == total


def test_elpv_images_are_those_of_their_names(cells):
    from elpv_dataset.utils import load_dataset

    images, _, _ = load_dataset()
    _, category = cells
    for split in (category.train, category.test):
        for index in (0, len(split) // 2, len(split) - 1):
            number = int(split.names[index][len("images/cell") : -len(".png")])
            assert (split.images[index] == images[number - 1]).all()


def test_textures_crops_are_disjoint_parts_and_fixed():
    data = pytest.importorskip("skimage.data", reason="the extra demo is not installed")
    for name in ("brick", "grass", "gravel"):
        category, again = textures.load(name), textures.load(name)
        photograph = getattr(data, name)()
        for one, other in zip(category.test.images, again.test.images, strict=True):
            assert (one == other).all()
        first, last = textures.MIDDLE
        left, middle, right = np.split(photograph, [first, last], axis=1)
        train = category.train.images
        assert all(_is_crop(image, left) for image in train[:5])
        assert all(_is_crop(image, right) for image in train[-5:])
        good = [i for i, label in enumerate(category.test.labels) if label == 0]
        assert all(_is_crop(category.test.images[i], middle) for i in good[:5])
        assert not any(_is_crop(category.test.images[i], left) for i in good[:5])


def _is_crop(image, photograph):
    windows = np.lib.stride_tricks.sliding_window_view(photograph, image.shape)
    candidates = np.argwhere(windows[:, :, 0, 0] == image[0, 0])
    return any((windows[y, x] == image).all() for y, x in candidates)


def test_textures_half_have_defects_with_masks():
    pytest.importorskip("skimage.data", reason="the extra demo is not installed")
    test = textures.load("grass").test
    assert test.labels.sum() == len(test) / 2
    assert set(test.defect_types) == {"good", *textures.DEFECTS}
    for label, mask in zip(test.labels, test.masks, strict=True):
        assert (mask is None) == (label == 0)
        assert mask is None or 0.0005 < mask.mean() < 0.2


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
    ("module", "package", "category"),
    [(elpv, "elpv_dataset.utils", "mono"), (textures, "skimage.data", "brick")],
)
def test_a_missing_package_is_named_with_the_command(monkeypatch, module, package, category):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install .*\[demo\]"):
        module.load(category)
