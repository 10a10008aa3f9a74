"""Shapes of synthetic anomalies, against NumPy and PIL."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cutpaste_tf.augment import random, shapes

from . import reference

NAMES = ("square", "ellipse", "heart", "digit")
DIGITS = np.zeros([2, 8, 8], np.float32)
DIGITS[0, 1:7, 3:5] = 1.0  # a one
DIGITS[1, 1:7, 1:7] = 1.0
DIGITS[1, 3:5, 3:5] = 0.0  # a nought


def drawn(shape, seed, count=40, height=64, width=48, **options):
    images = tf.zeros([count, height, width, 3])
    masks = shapes.masks(shape, images, tf.constant(seed), digits=tf.constant(DIGITS), **options)
    assert masks.dtype == tf.bool
    assert masks.shape == (count, height, width)
    return masks.numpy()


@pytest.mark.parametrize("shape", NAMES)
@given(seed=st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)))
@settings(max_examples=10, deadline=None)
def test_shapes_lie_inside_and_have_the_area_they_should(shape, seed):
    masks = drawn(shape, seed)
    area = masks.mean((1, 2))
    # Of the bounding square that has 2% to 15% of the image: what the shape covers of it.
    covers = {"square": 1.0, "ellipse": np.pi / 4 * 0.6, "heart": 0.62, "digit": None}[shape]
    if covers is not None:
        assert area.min() > 0.02 * covers * 0.8
        assert area.max() < 0.15 * covers * 1.1
    assert masks.any((1, 2)).all()
    # Nothing is cut off by the border: a row or column there is at most touched by a tip.
    for edge in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]):
        assert edge.mean() < 0.05


@pytest.mark.parametrize("shape", NAMES[:3])
def test_shapes_are_those_of_their_formulas(shape):
    """One large shape, found again by its moments, is drawn again in NumPy."""
    masks = drawn(shape, [3, 4], count=12, height=200, width=200, area_ratio=(0.1, 0.1))
    side = np.sqrt(0.1) * 200
    inside = {
        "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 1,
        "ellipse": lambda u, v: u**2 + (v / 0.6) ** 2 <= 1,
        "heart": lambda u, v: heart(1.2 * u, 0.1 - 1.2 * v) & (np.maximum(abs(u), abs(v)) <= 1),
    }[shape]
    grid = np.linspace(-1.5, 1.5, 400)
    v, u = np.meshgrid(grid, grid, indexing="ij")
    template = inside(u, v)
    cell = (grid[1] - grid[0]) * side / 2
    for mask in masks:
        assert mask.sum() == pytest.approx(template.sum() * cell**2, rel=0.02)
        # The moments of inertia do not change when a shape is turned or moved.
        for power in (1, 2):
            expected = moment(template, cell, power)
            assert moment(mask, 1.0, power) == pytest.approx(expected, rel=0.03)


def heart(x, y):
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0


def moment(mask, cell, power):
    rows, columns = np.nonzero(mask)
    squared = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    return np.mean((squared * cell**2) ** power)


def test_digits_are_upright_enlarged_and_all_of_them():
    masks = drawn("digit", [1, 2], count=60, height=96, width=96, area_ratio=(0.1, 0.1))
    noughts = 0
    for mask in masks:
        top, left, height, width = reference.bounding_box(mask)
        nought = width > height / 2
        noughts += nought
        box = DIGITS[1, 1:7, 1:7] if nought else DIGITS[0, 1:7, 3:5]
        assert height == pytest.approx(np.sqrt(0.1) * 96 * 6 / 8, abs=2)
        # The same as PIL makes of it, but for pixels at its edges.
        resized = Image.fromarray(box).resize((width, height), Image.Resampling.BILINEAR)
        digit = mask[top : top + height, left : left + width]
        assert np.mean(digit == (np.asarray(resized) > 0.5)) > 0.85
    assert 15 < noughts < 45


def test_the_same_seed_is_the_same_and_another_is_another():
    for shape in NAMES:
        one, same, other = (drawn(shape, seed) for seed in ([1, 2], [1, 2], [1, 3]))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
        centers = {tuple(np.argwhere(mask).mean(0).round()) for mask in one}
        assert len(centers) > 30  # each image has its own


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_compiled_shapes_equal_eager_ones(xla):
    images = tf.random.stateless_uniform([4, 40, 32, 3], [0, 1])
    photographs = tf.random.stateless_uniform([2, 50, 60, 3], [2, 3])

    def paste(images, seed):
        mask = shapes.masks("heart", images, seed)
        fillings = (
            random.uniform([4, 1, 1, 3], seed, 0.0, 1.0),
            shapes.photograph_crops(images, photographs, seed),
        )
        return mask, *((x, tf.where(mask[..., None], x, images)) for x in fillings)

    compiled, seed = tf.function(paste, jit_compile=xla, autograph=False), tf.constant([5, 6])
    mask, *eager = paste(images, seed)
    for (filling, one), (_, other) in zip(eager, compiled(images, seed)[1:], strict=True):
        np.testing.assert_array_equal(one, np.where(mask[..., None], filling, images))
        different = np.abs(one.numpy() - other.numpy()).max(-1) > 1e-6
        assert different.mean() < 2e-3  # a pixel at the edge may be rounded to the other side


def test_natural_pieces_are_cut_from_a_photograph():
    photographs = np.arange(2 * 9 * 10 * 3, dtype=np.float32).reshape(2, 9, 10, 3)
    images = tf.zeros([50, 5, 4, 3])
    pieces = shapes.photograph_crops(images, tf.constant(photographs), tf.constant([0, 0])).numpy()
    starts = set()
    for piece in pieces:
        which, row, column = np.argwhere(photographs[..., 0] == piece[0, 0, 0])[0]
        np.testing.assert_array_equal(piece, photographs[which, row : row + 5, column : column + 4])
        starts.add((which, row, column))
    assert {which for which, *_ in starts} == {0, 1}
    assert len(starts) > 20
    assert max(row for _, row, _ in starts) == 4  # to the last row
