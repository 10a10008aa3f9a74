"""Upsampling of patch scores."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from cutpaste_tf.models.backbone import Places
from cutpaste_tf.scoring import upsample as upsampling
from cutpaste_tf.scoring.upsample import receptive_field_enlarger


def enlarged(maps, enlarge, inside=None):
    """Maps, [N, h, w], of images of one tile."""
    return np.asarray(enlarge(maps[:, None], None if inside is None else inside[:, None]))[:, 0]


@pytest.mark.parametrize(("size", "stride"), [(32, 4), (16, 8), (8, 2)])
def test_one_anomalous_patch_has_its_peak_at_its_centre(size, stride):
    count = 9
    for row, column in ((4, 4), (2, 6), (0, 8)):
        maps = np.full([1, count, count], 7.0, np.float32)
        maps[0, row, column] = 8.0
        side = (count - 1) * stride + size
        enlarge = receptive_field_enlarger((side, side), size, stride)
        full = enlarge(maps[:, None], 7.0).numpy()[0, 0] - 7.0
        full[np.abs(full) < 1e-5] = 0.0  # As float32 rounds it.
        centre = np.array([row, column]) * stride + (size - 1) / 2
        # The centre falls between four pixels, which share the peak.
        np.testing.assert_array_equal(np.argwhere(full > full.max() - 1e-6).mean(0), centre)
        covered = np.zeros_like(full, bool)
        covered[row * stride :, column * stride :][:size, :size] = True
        assert (full[covered] > 0).all()
        assert (full[~covered] == 0).all()


def test_upsampling_is_a_transposed_convolution_of_negative_log_densities():
    maps = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    line = np.exp(-0.5 * ((np.arange(8) - 3.5) / 2.5) ** 2)
    kernel = np.outer(line, line)
    total = np.zeros([2, 24, 32])
    for i in range(5):
        for j in range(7):
            # Equation 2's negative log densities are what is added.
            part = kernel * 0.5 * (maps[:, i, j, None, None] ** 2 - 0.5**2)
            total[:, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8] += part
    found = receptive_field_enlarger((24, 32), 8, 4)(maps[:, None], 0.5).numpy()[:, 0]
    expected = 0.5 * 0.5**2 + total * 16 / kernel.sum()
    np.testing.assert_allclose(0.5 * found**2, np.maximum(expected, 0.0), rtol=1e-4, atol=1e-6)


def test_a_level_map_stays_level_up_to_the_border():
    enlarge = receptive_field_enlarger((108, 108), 32, 4)
    maps = np.full([1, 1, 20, 20], 3.0, np.float32)
    np.testing.assert_allclose(enlarge(maps, 3.0), 3.0, rtol=1e-6)
    # Away from the border scores keep their scale whatever the level is.
    inside = enlarge(maps, 0.0).numpy()[0, 0, 30:-30, 30:-30]
    np.testing.assert_allclose(inside, 3.0, rtol=0.05)


def test_the_score_of_a_place_has_its_peak_where_the_place_is():
    for deviation in (0.0, 1 / 64):
        maps = np.zeros([2, 8, 6], np.float32)
        maps[1, 2, 4] = 1.0
        places = Places(0.0, 8, 8), Places(-3.0, 16, 6)
        large = enlarged(maps, upsampling.enlarger((64, 80), places, deviation))
        assert large.shape == (2, 64, 80)
        assert np.unravel_index(large[1].argmax(), (64, 80)) == (16, 61)
        assert large[0].max() == 0.0


def test_enlarging_evenly_spaced_places_is_tensorflows():
    maps = np.random.default_rng(0).normal(size=[1, 1, 4]).astype(np.float32)
    enlarge = upsampling.enlarger((32, 32), (Places(15.5, 32, 1), Places(3.5, 8, 4)))
    found = enlarged(maps, enlarge)
    expected = tf.image.resize(maps[..., None], [32, 32])[..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


sides = strategies.tuples(
    strategies.integers(16, 60),
    strategies.builds(
        Places,
        strategies.integers(-15, 15),
        strategies.sampled_from([4, 8, 16]),
        strategies.just(4),
    ),
)


@hypothesis.given(sides, sides, strategies.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_a_level_map_stays_level_up_to_the_border_of_any_region(rows, columns, seed):
    (height, of_rows), (width, of_columns) = rows, columns
    size, places = (height, width), (of_rows, of_columns)
    rng = np.random.default_rng(seed)
    region = np.zeros(size, bool)
    for _ in range(rng.integers(1, 4)):
        top, left = rng.integers(0, size)
        region[top : top + rng.integers(1, 20), left : left + rng.integers(1, 20)] = True
    cells = upsampling.cells(size, places)
    for cell, side, its in zip(cells, size, places, strict=True):
        away = np.abs(its.first + its.stride * np.arange(its.count)[:, None] - np.arange(side))
        np.testing.assert_array_equal(cell, away == away.min(axis=0))
    inside = (cells[0] @ region @ cells[1].T > 0)[None]
    maps = np.where(inside, np.float32(20.0), np.float32(0.0))
    found = enlarged(maps, upsampling.enlarger(size, places, 1 / 64), inside)[0]
    np.testing.assert_allclose(found[region], 20.0, rtol=1e-5)
