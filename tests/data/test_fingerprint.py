"""What tells images from others."""

import numpy as np
import pytest
from conftest import make_mvtec

from cutpaste_tf.data import fingerprint, folder
from cutpaste_tf.data.split import Category, Split, normal
from cutpaste_tf.files import UserError


def test_files_are_known_by_names_contents_and_masks(tmp_path):
    part = make_mvtec(tmp_path / "a") / "part"
    first = fingerprint.of_category(folder.load(part))
    assert [first[name]["images"] for name in ("train", "test")] == [8, 8]
    other = make_mvtec(tmp_path / "b") / "part"  # elsewhere, and the same
    assert fingerprint.of_category(folder.load(other)) == first

    (part / "train/good/000.png").rename(part / "train/good/999.png")
    renamed = fingerprint.of_category(folder.load(part))
    assert renamed["train"]["images"] == 8
    assert renamed["train"] != first["train"]
    assert renamed["test"] == first["test"]

    masks = other / "ground_truth" / "hole"
    (masks / "000_mask.png").write_bytes((masks / "001_mask.png").read_bytes())
    changed = fingerprint.of_category(folder.load(other))
    assert changed["train"] == first["train"]
    assert changed["test"] != first["test"]


def of_arrays(arrays, masks):
    labels = np.array([int(mask is not None) for mask in masks])
    names = [str(i) for i in range(len(arrays))]
    test = Split(names, arrays, labels, ["x"] * len(arrays), masks)
    return fingerprint.of_category(Category(normal(names, arrays), test))


def test_arrays_are_known_by_values_shapes_and_masks():
    zeros, mask = np.zeros([2, 3], np.uint8), np.ones([2, 3], bool)
    different = [
        of_arrays([zeros, zeros], [None, mask]),
        of_arrays([zeros, zeros + 1], [None, mask]),
        of_arrays([zeros, zeros.reshape(3, 2)], [None, mask]),
        of_arrays([zeros, zeros], [None, ~mask]),
        of_arrays([zeros, zeros], [None, None]),
        of_arrays([zeros], [None]),
    ]
    assert len({found["test"]["sha256"] for found in different}) == len(different)
    again = of_arrays([zeros.copy(), np.zeros([3, 2], np.uint8).T], [None, mask])
    assert again == different[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    split = normal(["x"], [str(tmp_path / "x.png")])
    with pytest.raises(UserError, match=r"x.png: cannot be read \(No such file"):
        fingerprint.of_category(Category(split, split))
