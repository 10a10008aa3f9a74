"""MVTec AD: the tfds builder, and the extracted folder, on a tiny fake of the same layout."""

import pathlib
import shutil
import tarfile
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import make_mvtec

from cutpaste_tf.data import decode, folder, mvtec_ad
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
    (tmp_path / "unpacked" / "bottle" / "ground_truth" / "hole" / "000_mask.png").unlink()
    archive(tmp_path, "bottle", "screw")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path, folder.load(tmp_path / "unpacked" / "bottle")


def pixels(image):
    return decode.read(image) if isinstance(image, str) else image


def assert_same(one, other):
    for a, b in ((one.train, other.train), (one.test, other.test)):
        assert (a.names, a.defect_types) == (b.names, b.defect_types)
        for x, y in zip(a.images, b.images, strict=True):
            np.testing.assert_array_equal(pixels(x), pixels(y))
        for x, y in zip(a.masks, b.masks, strict=True):
            assert (x is None) == (y is None)
            assert x is None or (x == decode.read_mask(y)).all()


def test_archives_and_extracted_folder_give_the_same(packed):
    root, unpacked = packed
    assert mvtec_ad.load(str(root / "unpacked"), "bottle") == unpacked
    assert_same(mvtec_ad.load(str(root), "bottle"), unpacked)
    shutil.rmtree(root / "tfds")
    (root / "mvtec_anomaly_detection.tar.xz").unlink()
    archive(root, "bottle", name="bottle.tar.xz")
    assert_same(mvtec_ad.load(str(root), "bottle"), unpacked)
    with pytest.raises(UserError, match=r"neither screw/train.*www\.mvtec\.com.*--data_dir"):
        mvtec_ad.load(str(root), "screw")
