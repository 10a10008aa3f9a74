"""CIFAR-10, one class against the others, on made data in its format."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cutpaste_tf.choices import CIFAR10_CLASSES
from cutpaste_tf.data import cifar10, download
from cutpaste_tf.files import UserError


@pytest.fixture
def made(monkeypatch, tmp_path):
    """As if the data set had been fetched."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(download, "is_reachable", lambda server: True)

    def examples(builder, split):
        rng = np.random.default_rng(0)
        count = {"train": 40, "test": 30}[split]
        return {
            "id": np.array([f"{split}_{i:05d}".encode() for i in rng.permutation(count)]),
            "image": rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
            "label": np.arange(count) % 10,
        }

    with tfds.testing.mock_data(num_examples=40):
        builder = tfds.builder("cifar10")
        monkeypatch.setattr(type(builder), "download_and_prepare", lambda *a, **k: None)
        monkeypatch.setattr(download, "read", examples)
        yield


def test_one_class_is_normal_and_the_others_are_not(made):
    found = cifar10.load("", "ship")
    assert len(found.train) == 4
    assert found.train.labels.tolist() == [0] * 4
    assert len(found.test) == 30
    assert (found.test.labels == 0).sum() == 3
    assert list(found.test.names) == [f"test_{i:05d}" for i in range(30)]
    for label, kind in zip(found.test.labels, found.test.defect_types, strict=True):
        assert (kind == "good") == (label == 0)
        assert kind in ("good", *CIFAR10_CLASSES)
        assert kind != "ship"
    assert found.train.images[0].shape == (32, 32, 3)


def test_mock_data_of_tensorflow_datasets_has_what_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(download, "is_reachable", lambda server: True)
    with tfds.testing.mock_data(num_examples=60):
        builder = type(tfds.builder("cifar10"))
        monkeypatch.setattr(builder, "download_and_prepare", lambda *a, **k: None)
        found = cifar10.load("", "frog")
    assert len(found.test) == 60
    assert 0 < len(found.train) < 60
    assert {image.shape for image in found.test.images} == {(32, 32, 3)}


def test_without_a_network_it_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    with pytest.raises(UserError, match=f"--dataset=cifar10: not in {tmp_path}, and www"):
        cifar10.load(str(tmp_path), "cat")
