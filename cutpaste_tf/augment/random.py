"""Stateless random numbers: the same seed gives the same numbers, eagerly, in a graph or in XLA."""

import numpy as np
import tensorflow as tf

# With which tf.random.stateless_uniform mixes the two halves of a seed.
_MIXING_KEY = np.array([0x02461E293EC8F720], np.uint64)
_ZERO = np.zeros([1], np.uint64)


def _unit(shape: list, seed: tf.Tensor) -> tf.Tensor:
    """Draws float32 numbers uniformly from the multiples of 2**-24 in [0, 1).

    They are made of random integers, which are the same everywhere; TensorFlow's random floats of
    one seed are others under XLA than without. The generator is named because "auto_select" may
    choose another one on another device.
    """
    bits = _bits(shape, seed)
    # Shifting a negative number leaves ones in front; only the last 24 bits are kept.
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 8), 2**24 - 1)
    return tf.cast(bits, tf.float32) * 2.0**-24


def _bits(shape, seed):
    """Returns int32 of `shape`, tf.random.stateless_uniform(..., alg="philox") of all integers.

    Bit for bit the same, but in a graph of a quarter as many operations: that function puts the key
    and the counter together by shifts, where this one reads the same bytes as longer integers. A
    batch's views take some forty draws, whose operations were three in four of all that a step's
    views had to trace. (Little-endian machines only, which TensorFlow's wheels are all for.)
    """
    mixed = _full_range([4], _MIXING_KEY, tf.cast(seed, tf.uint64), tf.uint32)
    key, counter = tf.split(tf.bitcast(tf.reshape(mixed, [2, 2]), tf.uint64), 2)
    return _full_range(shape, key, tf.concat([_ZERO, counter], axis=0), tf.int32)


def _full_range(shape, key, counter, dtype):
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=tf.random.Algorithm.PHILOX.value, dtype=dtype
    )


def uniform(
    shape: list, seed: tf.Tensor, low: float | tf.Tensor, high: float | tf.Tensor
) -> tf.Tensor:
    """Draws float32 numbers uniformly from [low, high); the ends may vary by item."""
    return low + (high - low) * _unit(shape, seed)


def integers(
    shape: list, seed: tf.Tensor, low: int | tf.Tensor, high: int | tf.Tensor
) -> tf.Tensor:
    """Draws int32 numbers uniformly from low, ..., high; the ends may vary by item."""
    count = tf.cast(high - low + 1, tf.float32)
    offset = tf.floor(_unit(shape, seed) * count)
    # A float32 just below 1 times a count can round up to the count itself.
    return tf.cast(low, tf.int32) + tf.cast(tf.minimum(offset, count - 1.0), tf.int32)


def split(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Splits a seed, int32 [2], into `count` seeds whose streams are independent of each other."""
    return tf.unstack(_bits([count, 2], tf.convert_to_tensor(seed)), num=count)
