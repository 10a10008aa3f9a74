"""Random numbers: ranges, distributions, and the same numbers wherever they are drawn."""

import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.augment import random

from . import reference

SEED = tf.constant([7, 11])
DRAWS = 4000


def test_uniform_numbers_are_spread_over_their_ranges_one_for_each_item():
    low, high = tf.constant([0.0, 10.0, -5.0]), tf.constant([1.0, 30.0, -5.0])
    values = random.uniform([DRAWS, 3], SEED, low, high)
    assert values.dtype == tf.float32
    assert values.shape == [DRAWS, 3]
    reference.assert_uniform(values[:, 0], 0.0, 1.0)
    reference.assert_uniform(values[:, 1], 10.0, 30.0)
    assert np.all(values[:, 2] == -5.0)


def test_uniform_never_reaches_one():
    # Positions and choices are made by comparing or flooring numbers of [0, 1).
    values = random.uniform([1 << 20], SEED, 0.0, 1.0).numpy()
    assert values.min() >= 0.0
    assert values.max() < 1.0


def test_integers_are_equally_frequent_with_both_ends_one_range_for_each_item():
    low, high = tf.constant([0, -3, 2, 10, 5]), tf.constant([1, 3, 16, 25, 5])
    values = random.integers([DRAWS, 5], SEED, low, high)
    assert values.dtype == tf.int32
    for column, ends in enumerate(zip(low.numpy(), high.numpy(), strict=True)):
        reference.assert_equally_frequent(values[:, column], range(ends[0], ends[1] + 1))


def test_integers_stay_within_large_ranges():
    # Rounding float32 products must not lead outside.
    high = tf.range(1, 100_000)
    values = random.integers(high.shape, SEED, 0, high).numpy()
    assert values.min() >= 0
    assert np.all(values <= high.numpy())
    reference.assert_uniform(values[1000:] / (high.numpy()[1000:] + 1), 0.0, 1.0)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_same_numbers_eagerly_and_compiled(jit_compile):
    def draw(seed):
        one, two = random.split(seed, 2)
        # 7 and 33: not multiples of the generator's block of four.
        return random.uniform([7], one, -1.0, 2.0), random.integers([33], two, 0, 999)

    compiled = tf.function(draw, jit_compile=jit_compile)(SEED)
    for expected, actual in zip(draw(SEED), compiled, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("second", [0, 1, 2])
def test_a_split_seed_is_used_once(first, second):
    """A seed's numbers and its splits into any count begin alike: two uses would share them."""
    uses = [
        lambda seed: random.split(seed, 2),
        lambda seed: random.uniform([3], seed, 0.0, 1.0),
        lambda seed: random.integers([3], seed, 0, 9),
    ]
    (seed,) = random.split(SEED, 1)
    uses[first](seed)
    with pytest.raises(ValueError, match="used before"):
        uses[second](seed)
