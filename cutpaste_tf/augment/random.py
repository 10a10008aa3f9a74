"""Stateless random numbers: the same seed gives the same numbers, eagerly, in a graph or in XLA.

Two draws or splits by the same seed would share their numbers, so a `Seed` can be used only once.
"""

import tensorflow as tf

_ALGORITHM = "philox"  # The default differs by device.


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
    bits = tf.random.stateless_uniform(
        shape, _taken(seed), minval=None, maxval=None, dtype=tf.int32, alg=_ALGORITHM
    )
    # Shifting a negative number leaves ones in front; only the last 24 bits are kept.
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 8), 2**24 - 1)
    return tf.cast(bits, tf.float32) * 2.0**-24


def _taken(seed):
    return seed.take() if isinstance(seed, Seed) else seed


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
    seeds = tf.random.split(_taken(seed), count, alg=_ALGORITHM)
    return [Seed(one) for one in tf.unstack(seeds, num=count)]
