"""MVTec AD: the tfds builder, and the extracted folder, on a tiny fake of the same layout."""

import pathlib
import shutil
import tarfile
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import make_mvtec

from cutpaste_tf.choices import CATEGORIES
from cutpaste_tf.data import folder, mvtec_ad
from cutpaste_tf.files import UserError

_FAKE = pathlib.Path(tempfile.mkdtemp(prefix="mvtec_ad_fake"))


def setUpModule():
    make_mvtec(_FAKE, "bottle", train=3, good=2, bad=2)
    make_mvtec(_FAKE, "grid", train=2, good=1, bad=1)


def tearDownModule():
    shutil.rmtree(_FAKE, ignore_errors=True)


class MvtecAdTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = mvtec_ad.MvtecAd
    BUILDER_CONFIG_NAMES_TO_TEST = ("bottle",)
    SPLITS = {"train": 3, "test": 4}  # noqa: RUF012 - the name and type are tfds's
    EXAMPLE_DIR = str(_FAKE)
    SKIP_CHECKSUMS = True
    SKIP_TF1_GRAPH_MODE = True


def archive(root, *categories, name="mvtec_anomaly_detection.tar.xz"):
    path = root / name
    with tarfile.open(path, "w:xz") as file:
        for category in categories:
            file.add(root / "unpacked" / category, category)
    return path


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A folder that holds the archive alone, and a tfds directory of its own."""
    make_mvtec(tmp_path / "unpacked", "bottle")
    make_mvtec(tmp_path / "unpacked", "screw", train=2, good=1, bad=1)
    archive(tmp_path, "bottle", "screw")
    unpacked = folder.load(tmp_path / "unpacked" / "bottle")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path, unpacked


def pixels(image):
    from PIL import Image

    if isinstance(image, str):
        with Image.open(image) as file:
            return np.asarray(file)
    return image


def assert_same(one, other):
    for name in ("train", "test"):
        a, b = getattr(one, name), getattr(other, name)
        assert list(a.names) == list(b.names)
        assert list(a.defect_types) == list(b.defect_types)
        assert a.labels.tolist() == b.labels.tolist()
        for x, y in zip(a.images, b.images, strict=True):
            assert (pixels(x) == pixels(y)).all()
        for x, y in zip(a.masks, b.masks, strict=True):
            assert (x is None) == (y is None)
            assert x is None or ((pixels(x) > 0) == (pixels(y) > 0)).all()


def test_archive_and_extracted_folder_give_the_same(packed):
    root, unpacked = packed
    assert_same(mvtec_ad.load(str(root / "unpacked"), "bottle"), unpacked)
    assert_same(mvtec_ad.load(str(root), "bottle"), unpacked)


def test_an_image_without_a_mask_has_none_from_the_archive_either(packed):
    root, _ = packed
    (root / "unpacked" / "bottle" / "ground_truth" / "hole" / "000_mask.png").unlink()
    archive(root, "bottle")
    masks = mvtec_ad.load(str(root), "bottle").test.masks
    assert [mask is None for mask in masks] == [True] * 5 + [False] * 3


def test_archive_of_one_category(packed):
    root, unpacked = packed
    (root / "mvtec_anomaly_detection.tar.xz").unlink()
    archive(root, "bottle", name="bottle.tar.xz")
    assert_same(mvtec_ad.load(str(root), "bottle"), unpacked)
    with pytest.raises(UserError, match="screw"):
        mvtec_ad.load(str(root), "screw")


def test_missing_data_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"www\.mvtec\.com") as error:
        mvtec_ad.load(str(tmp_path), "bottle")
    assert "--data_dir" in str(error.value)


def test_all_fifteen_categories_are_configurations():
    assert {c.name for c in mvtec_ad.MvtecAd.BUILDER_CONFIGS} == set(CATEGORIES["mvtec_ad"])
    assert len(CATEGORIES["mvtec_ad"]) == 15
    assert "BY-NC-SA" in mvtec_ad.__doc__
    assert "https://www.mvtec.com" in mvtec_ad.__doc__
