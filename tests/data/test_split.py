"""Choosing examples of a split."""

import numpy as np
import pytest

from cutpaste_tf.data.split import Split


def split(kinds):
    labels = np.array([kind != "good" for kind in kinds], np.int64)
    count = len(kinds)
    return Split([str(i) for i in range(count)], [""] * count, labels, kinds, [None] * count)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, [5, 2]),  # one of each type, by name
        (4, [5, 2, 3, 4]),  # the rarer type has no more to give
        (5, [5, 2, 3, 4, 0]),
        (99, [5, 2, 3, 4, 0, 1]),
    ],
)
def test_examples_are_anomalous_and_of_each_type_alike(count, expected):
    chosen = split(["good", "good", "hole", "hole", "hole", "dent"]).examples(count)
    assert chosen.tolist() == expected


def test_no_images_have_no_examples():
    assert split([]).examples(3).tolist() == []


def test_spread_reaches_from_the_first_to_the_last():
    chosen = split(["good"] * 10).spread
    assert chosen(4).tolist() == [0, 3, 6, 9]
    assert chosen(99).tolist() == list(range(10))
    assert chosen(1).tolist() == [0]
    assert split([]).spread(3).tolist() == []
