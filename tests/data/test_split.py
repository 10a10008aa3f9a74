"""Selecting images of a split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutpaste_tf.data.split import Split, natural_order


def split(kinds):
    names = [str(i) for i in range(len(kinds))]
    return Split(names, names, kinds, [None] * len(kinds))


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
    images = split(["good", "good", "hole", "hole", "hole", "dent"])
    assert images.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert images.examples(count).tolist() == expected
    some = images.subset(np.array(expected))
    assert some.names == [str(i) for i in expected]
    assert some.labels.tolist() == images.labels[expected].tolist()


@given(st.integers(0, 30), st.integers(1, 40))
def test_spread_reaches_evenly_from_the_first_to_the_last(total, count):
    selected = split(["good"] * total).spread(count)
    assert len(selected) == min(total, count)
    if len(selected) > 1:
        assert (selected[0], selected[-1]) == (0, total - 1)
        assert np.ptp(np.diff(selected)) <= 1
    assert split([]).examples(count).tolist() == []


@given(st.lists(st.tuples(st.text("ab/_-. ", max_size=3), st.integers(0, 10**15)), max_size=9))
def test_names_are_in_the_order_that_people_count_in(parts):
    names = [f"{text}{number}.png" for text, number in parts]
    for (text, one), name in zip(parts, names, strict=True):
        for (other_text, other), other_name in zip(parts, names, strict=True):
            if text == other_text:
                assert (natural_order(name) < natural_order(other_name)) == (one < other)
    assert sorted(["img_10", "img_2", "img_1"], key=natural_order) == ["img_1", "img_2", "img_10"]
