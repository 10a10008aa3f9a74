"""CIFAR-10, one class against the others, on data that TensorFlow Datasets makes up."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cutpaste_tf.choices import CIFAR10_CLASSES
from cutpaste_tf.data import cifar10, download
from cutpaste_tf.files import UserError


def test_one_class_is_normal_and_the_others_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "is_reachable", lambda server: True)
    with tfds.testing.mock_data(num_examples=60):
        builder = tfds.builder("cifar10")
        monkeypatch.setattr(type(builder), "download_and_prepare", lambda *a, **k: None)
        made = {
            split: list(tfds.as_numpy(builder.as_dataset(split=split)))
            for split in ("train", "test")
        }
        category = cifar10.load(str(tmp_path), "frog")
    wanted = CIFAR10_CLASSES.index("frog")
    for examples in made.values():
        examples.sort(key=lambda example: example["id"])
    frogs = [example for example in made["train"] if example["label"] == wanted]
    assert 0 < len(frogs) < 60
    assert category.train.names == [example["id"].decode() for example in frogs]
    assert not category.train.labels.any()
    np.testing.assert_array_equal(category.train.images, [example["image"] for example in frogs])
    assert category.test.names == [example["id"].decode() for example in made["test"]]
    np.testing.assert_array_equal(
        category.test.images, [example["image"] for example in made["test"]]
    )
    assert category.test.defect_types == [
        "good" if example["label"] == wanted else CIFAR10_CLASSES[example["label"]]
        for example in made["test"]
    ]


def test_without_a_network_it_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    with pytest.raises(UserError, match=f"CIFAR-10 is not in {tmp_path}, and www"):
        cifar10.load(str(tmp_path), "cat")
