"""Connected areas of an anomaly map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutpaste_tf.scoring import areas


def test_areas_are_in_the_images_pixels_and_touch_by_corners_too():
    values = np.zeros([10, 10])
    values[1, 2] = 3.0
    values[2, 3:5] = 5.0  # touches the first by a corner
    values[8:, 8:] = 4.0
    first, second = areas.find(values, 1.0, (100, 50))
    assert list(first.values())[:4] == [10, 10, 15, 20]
    assert (first["pixels"], first["peak"]) == (3 * 10 * 5, 5.0)
    assert first["mean"] == pytest.approx(13 / 3)
    assert list(second.values())[:4] == [40, 80, 10, 20]
    assert areas.find(values, 5.0, (100, 50)) == []


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_all_that_is_above_is_in_one_area(seed, threshold):
    values = np.random.default_rng(seed).random([9, 7])
    found = areas.find(values, threshold, (9, 7))
    assert sum(area["pixels"] for area in found) == (values > threshold).sum()
    assert [area["peak"] for area in found] == sorted((a["peak"] for a in found), reverse=True)
    assert all(area["mean"] > threshold for area in found)
