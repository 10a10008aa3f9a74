"""Stateless random numbers: the same seed gives the same numbers, eagerly, in a graph or in XLA.

Two draws or splits by the same seed would share their numbers, so a `Seed` can be used only once.
"""

import numpy as np
import tensorflow as tf

# The key by which tf.random.stateless_uniform mixes the two halves of a seed.
_MIXING_KEY = np.array([0x02461E293EC8F720], np.uint64)
_ZERO = np.zeros([1], np.uint64)


class Seed:
    """A part of a split seed; a second use raises a ValueError."""

    def __init__(self, numbers: tf.Tensor):
        self._numbers = numbers

    def take(self) -> tf.Tensor:
        """Returns the seed as int32 [2]."""
        numbers, self._numbers = self._numbers, None
        if numbers is None:
            raise ValueError("this seed was used before; split one into as many as are needed")
        return numbers


def _unit(shape: list, seed: Seed | tf.Tensor) -> tf.Tensor:
    """Draws float32 numbers uniformly from the multiples of 2**-24 in [0, 1).

    They come from random integers, which are the same everywhere; TensorFlow's random floats
    differ under XLA.
    """
    bits = _bits(shape, seed)
    # Shifting a negative number leaves ones in front; only the last 24 bits are kept.
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 8), 2**24 - 1)
    return tf.cast(bits, tf.float32) * 2.0**-24


def _bits(shape, seed):
    """Draws what tf.random.stateless_uniform(..., alg="philox") draws of all int32, bit for bit.

    That function puts the key and the counter together by shifts; this one reads the same bytes as
    longer integers (on little-endian machines), in a quarter of the operations. A training step
    draws some forty times, which would otherwise be three quarters of its views' operations.
    """
    seed = tf.cast(seed.take() if isinstance(seed, Seed) else seed, tf.uint64)
    mixed = _full_range([4], _MIXING_KEY, seed, tf.uint32)
    key, counter = tf.split(tf.bitcast(tf.reshape(mixed, [2, 2]), tf.uint64), 2)
    return _full_range(shape, key, tf.concat([_ZERO, counter], axis=0), tf.int32)


def _full_range(shape, key, counter, dtype):
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=tf.random.Algorithm.PHILOX.value, dtype=dtype
    )


def uniform(
    shape: list, seed: Seed | tf.Tensor, low: float | tf.Tensor, high: float | tf.Tensor
) -> tf.Tensor:
    """Draws float32 numbers uniformly from [low, high); the ends may vary by item."""
    return low + (high - low) * _unit(shape, seed)


def integers(
    shape: list, seed: Seed | tf.Tensor, low: int | tf.Tensor, high: int | tf.Tensor
) -> tf.Tensor:
    """Draws int32 numbers uniformly from low, ..., high; the ends may vary by item."""
    count = tf.cast(high - low + 1, tf.float32)
    offset = tf.floor(_unit(shape, seed) * count)
    # A float32 just below 1 times a count can round up to the count itself.
    return tf.cast(low, tf.int32) + tf.cast(tf.minimum(offset, count - 1.0), tf.int32)


def split(seed: Seed | tf.Tensor, count: int) -> list[Seed]:
    """Splits a seed, int32 [2], into `count` seeds whose streams are independent of each other."""
    return [Seed(one) for one in tf.unstack(_bits([count, 2], seed), num=count)]
