"""Scoring by Keras's own layers: a program that loads an exported model has no others.

The returned functions take arrays as well as the tensors of a functional model.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

_LAYER_BYTES = 2**28  # of whiteners, at most


def product(matrix: np.ndarray, dtype: str = "float32") -> keras.layers.Layer:
    """Returns a layer that multiplies [..., n] by a constant matrix, [n, m]."""
    layer = keras.layers.Dense(matrix.shape[1], use_bias=False, trainable=False, dtype=dtype)
    layer.build([None, matrix.shape[0]])
    layer.set_weights([matrix])
    return layer


def whiten(mean: np.ndarray, whitener: np.ndarray, dtype: str = "float64") -> Callable:
    """Returns a function from vectors, [B, L, n, D], n for each of L Gaussians, to whitened ones.

    Their lengths are the Mahalanobis distances. `mean` is [L, D], `whitener` [L, D, D]. Vectors are
    centred in `dtype`, as their mean may be large beside their spread.
    """
    # A layer takes three times its size while it is made, and at the paper's settings all whiteners
    # take 3.4 GB.
    step = max(1, _LAYER_BYTES // whitener[0].nbytes)
    starts = range(0, len(mean), step)
    if len(starts) > 1:
        parts = [whiten(mean[i : i + step], whitener[i : i + step], dtype) for i in starts]

        def in_parts(vectors):
            pairs = zip(starts, parts, strict=True)
            return ops.concatenate([part(vectors[:, i : i + step]) for i, part in pairs], axis=1)

        return in_parts

    count, dims = mean.shape
    # With float64, whiteners keep their dtype: float32 if there are several.
    precise = whitener.dtype.name if dtype == "float64" else dtype
    centre = keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=0.0, trainable=False, dtype=dtype
    )
    centre.build([None, count * dims])
    centre.set_weights([mean.ravel(), np.ones(mean.size)])
    multiply = keras.layers.EinsumDense(
        "lbd,lde->lbe", [None, dims], kernel_initializer="zeros", trainable=False, dtype=precise
    )
    multiply.build([count, None, dims])
    multiply.set_weights([whitener])

    def whitened(vectors):
        samples = vectors.shape[2]
        flat = ops.reshape(ops.transpose(vectors, (0, 2, 1, 3)), (-1, count * dims))
        centred = ops.cast(centre(ops.cast(flat, dtype), training=False), precise)
        # With the Gaussians first, this is a batch of matrix products, which every format has.
        white = multiply(ops.transpose(ops.reshape(centred, (-1, count, dims)), (1, 0, 2)))
        white = ops.reshape(ops.transpose(white, (1, 0, 2)), (-1, samples, count, dims))
        return ops.transpose(white, (0, 2, 1, 3))

    return whitened


def nearest(stored: np.ndarray) -> Callable:
    """Returns a function from vectors, [B, L, n, D], to squared distances, [B, L, n].

    The distances are those to the nearest stored vector; `stored` are L sets of N, [L, N, D].
    """
    layers = []
    for vectors in stored:
        # The layer returns |v|^2 - 2 xv; with |x|^2, which all v share, that is |x - v|^2.
        layer = keras.layers.Dense(len(vectors), trainable=False, dtype="float32")
        layer.build([None, vectors.shape[1]])
        layer.set_weights([-2.0 * vectors.T, np.sum(np.square(vectors), axis=1)])
        layers.append(layer)

    def distances(vectors):
        vectors = ops.cast(vectors, "float32")
        least = [ops.min(layer(vectors[:, i]), axis=-1) for i, layer in enumerate(layers)]
        return ops.maximum(ops.sum(ops.square(vectors), axis=-1) + ops.stack(least, axis=1), 0.0)

    return distances


def length(vectors: Any) -> Any:
    """Returns the lengths of vectors, [..., D]."""
    return ops.sqrt(ops.sum(ops.square(vectors), axis=-1))


def from_both_sides(rows: np.ndarray, columns: np.ndarray) -> Callable:
    """Returns a function from maps, [..., h, w], to rows @ map @ columns.T, [..., H, W].

    `rows` are [H, h], `columns` [W, w].
    """
    # Only matrices are multiplied: other products become a dozen operations in TensorFlow Lite.
    (high, height), (wide, width) = rows.shape, columns.shape
    by_columns, by_rows = product(columns.T), product(rows.T)

    def multiplied(maps):
        outer = maps.shape[1:-2]
        maps = by_columns(ops.reshape(maps, (-1, width)))
        maps = ops.transpose(ops.reshape(maps, (-1, height, wide)), (0, 2, 1))
        maps = ops.reshape(by_rows(ops.reshape(maps, (-1, height))), (-1, wide, high))
        return ops.reshape(ops.transpose(maps, (0, 2, 1)), (-1, *outer, high, wide))

    return multiplied


def largest(values: Any, axis: int | tuple[int, ...]) -> Any:
    """Returns the maximum, or NaN if any value is NaN, which a plain maximum may ignore."""
    # Without an initial value Keras refuses an empty batch.
    return ops.max(values, axis=axis, initial=-np.inf) + 0.0 * ops.sum(values, axis=axis)


def mean_of_largest(maps: Any, share: float) -> Any:
    """Returns the mean of a share of each map's values, the largest: [N, K, h, w] to [N, K]."""
    count, height, width = maps.shape[1:]
    flat = ops.reshape(maps, (-1, count, height * width))
    values, _ = ops.top_k(flat, max(1, round(share * height * width)))
    # NaN if any value is NaN, which sorting may ignore.
    return ops.mean(values, axis=-1) + 0.0 * ops.sum(flat, axis=-1)
