"""Choosing examples of a split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutpaste_tf.data.split import Split, natural


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


@given(st.lists(st.tuples(st.text("ab/_-. ", max_size=3), st.integers(0, 10**15)), max_size=9))
def test_names_are_in_the_order_that_people_count_in(parts):
    names = [f"{text}{number}.png" for text, number in parts]
    for (text, one), name in zip(parts, names, strict=True):
        for (other_text, other), other_name in zip(parts, names, strict=True):
            if text == other_text:
                assert (natural(name) < natural(other_name)) == (one < other)
    assert sorted(["img_10", "img_2", "img_1"], key=natural) == ["img_1", "img_2", "img_10"]
