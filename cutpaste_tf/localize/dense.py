"""Embeddings of all patches of an image, with what the patches share computed once.

Every patch's embedding is what the network gives for the patch alone, zero padding at the patch's
border included (Appendix A.5: 57 x 57 patches of 32 x 32 with stride 4). Running the network on
each patch repeats most of the work of its first layers: two patches that overlap have the same
values there, save near their borders, where one of them sees padding.

Rows and columns are independent of each other in a convolution's geometry. So for each layer the
rows that the patches have are numbered such that two rows, of whatever patches, get the same
number if and only if they are computed from the same rows below (`_Axis`); columns likewise. A
layer is then one map of [different rows, different columns], each entry computed once, however many
patches it belongs to. In the last layers hardly anything is shared; there the gain is that taps of
a kernel which only ever see padding are left out (a 3x3 convolution of a 1x1 map has one).
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf.models import resnet


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The rows (or columns) that the patches have of a feature map.

    Attributes:
      numbers: int [P, n]: for each patch along this axis the numbers of its n rows.
      count: how many different ones there are; numbers are 0 ... count - 1.
    """

    numbers: np.ndarray
    count: int


@dataclasses.dataclass(frozen=True)
class _Taps:
    """What a kernel of size k sees along an axis, for rows with the same padding.

    Attributes:
      used: which of the k taps see rows rather than padding.
      rows: for each of these taps, the numbers of the rows that it sees.
    """

    used: list[int]
    rows: list[np.ndarray]


def _unique(keys: np.ndarray) -> tuple[np.ndarray, _Axis]:
    """Numbers keys, [P, n, k], so that equal ones share a number; returns each number's key."""
    patches, size, width = keys.shape
    different, numbers = np.unique(keys.reshape(-1, width), axis=0, return_inverse=True)
    return different, _Axis(numbers.reshape(patches, size), len(different))


def _window(axis: _Axis, kernel: int, stride: int) -> tuple[_Axis, list[_Taps]]:
    """The axis after a convolution or pooling with "same" padding, and what it sees.

    The results' rows are numbered such that those of each item of the list follow each other.
    """
    size = axis.numbers.shape[1]
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel) - before
    inside = (at >= 0) & (at < size)
    seen = np.where(inside, axis.numbers[:, np.clip(at, 0, size - 1)], -1)
    # The padding comes first in the key, so that rows with the same padding are neighbours.
    padding = (seen < 0).astype(seen.dtype)
    different, result = _unique(np.concatenate([padding, seen], axis=-1))
    padding, seen = different[:, :kernel], different[:, kernel:]
    starts = np.flatnonzero(np.any(padding[1:] != padding[:-1], axis=1)) + 1
    groups = []
    for rows in np.split(seen, starts):
        used = [tap for tap in range(kernel) if rows[0, tap] >= 0]
        groups.append(_Taps(used, [rows[:, tap] for tap in used]))
    return result, groups


def _join(one: _Axis, other: _Axis) -> tuple[_Axis, np.ndarray, np.ndarray]:
    """The axis of the sum of two maps, and the rows of either that its rows are the sum of."""
    different, result = _unique(np.stack([one.numbers, other.numbers], axis=-1))
    return result, different[:, 0], different[:, 1]


def _take(x, rows, axis):
    """tf.gather, or a slice where the rows follow each other."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and np.all(np.diff(rows) == 1):
        if len(rows) == x.shape[axis]:
            return x
        return x[:, first : last + 1] if axis == 1 else x[:, :, first : last + 1]
    return tf.gather(x, rows.astype(np.int32), axis=axis)


@dataclasses.dataclass(frozen=True)
class _Map:
    """A feature map of all patches: values [B, rows.count, columns.count, C]."""

    values: tf.Tensor
    rows: _Axis
    columns: _Axis


def _convolve(x: _Map, kernel: tf.Tensor, bias: tf.Tensor, stride: int) -> _Map:
    size, channels = kernel.shape[0], kernel.shape[-1]
    rows, row_groups = _window(x.rows, size, stride)
    columns, column_groups = _window(x.columns, size, stride)
    strips = []
    for across in column_groups:
        # The taps of a row side by side, as channels; then a product for each row of the kernel.
        seen = tf.concat([_take(x.values, c, 2) for c in across.rows], axis=-1)
        parts = []
        for down in row_groups:
            total = None
            for tap, numbers in zip(down.used, down.rows, strict=True):
                weights = tf.gather(kernel[tap], across.used)
                weights = tf.reshape(weights, [1, 1, -1, channels])
                part = tf.nn.conv2d(_take(seen, numbers, 1), weights, 1, "VALID")
                total = part if total is None else total + part
            parts.append(total + bias)
        strips.append(tf.concat(parts, axis=1))
    return _Map(tf.concat(strips, axis=2), rows, columns)


def _max_pool(x: _Map, size: int, stride: int) -> _Map:
    rows, row_groups = _window(x.rows, size, stride)
    columns, column_groups = _window(x.columns, size, stride)

    def largest(values, taps, axis):
        result = _take(values, taps.rows[0], axis)
        for numbers in taps.rows[1:]:
            result = tf.maximum(result, _take(values, numbers, axis))
        return result

    values = tf.concat([largest(x.values, taps, 2) for taps in column_groups], axis=2)
    values = tf.concat([largest(values, taps, 1) for taps in row_groups], axis=1)
    return _Map(values, rows, columns)


def _add(x: _Map, y: _Map) -> _Map:
    rows, x_rows, y_rows = _join(x.rows, y.rows)
    columns, x_columns, y_columns = _join(x.columns, y.columns)
    x_values = _take(_take(x.values, x_rows, 1), x_columns, 2)
    y_values = _take(_take(y.values, y_rows, 1), y_columns, 2)
    return _Map(x_values + y_values, rows, columns)


def _relu(x: _Map) -> _Map:
    return dataclasses.replace(x, values=tf.nn.relu(x.values))


def _average(x: _Map) -> tf.Tensor:
    """Averages each patch's part over space: [B, P, P', C]."""
    values = x.values
    for axis, place in ((x.rows, 1), (x.columns, 2)):
        patches, size = axis.numbers.shape
        values = tf.gather(values, axis.numbers.ravel().astype(np.int32), axis=place)
        shape = tf.shape(values)
        split = tf.concat([shape[:place], [patches, size], shape[place + 1 :]], axis=0)
        values = tf.reduce_mean(tf.reshape(values, split), axis=place + 1)
    return values


def _axis(length: int, patch: int, stride: int) -> _Axis:
    starts = np.arange(0, length - patch + 1, stride)
    return _Axis(starts[:, None] + np.arange(patch), length)


def locations(size: int, patch: int, stride: int) -> int:
    """Returns how many patches there are along an axis of `size` pixels."""
    return (size - patch) // stride + 1


def largest_map(backbone: keras.Model) -> tuple[int, int]:
    """Returns the channels of the backbone's largest map and how many pixels one of its rows is."""
    stem = backbone.get_layer("stem_conv")
    return stem.filters, stem.strides[0]


def embed(backbone: keras.Model, images: tf.Tensor, patch: int, stride: int) -> tf.Tensor:
    """Embeds all patches of images; traceable, and compilable by XLA.

    Args:
      backbone: `resnet.resnet18`'s, for images of any size.
      images: float32 [B, H, W, 3] in [0, 1]; H and W static.
      patch: height and width of the patches, in pixels; at most H and W.
      stride: distance of one patch from the next, in pixels.

    Returns:
      float32 [B, (H - patch) // stride + 1, (W - patch) // stride + 1, D]: the `pool` feature of
      every patch, as the backbone gives it for the patch by itself in inference mode.
    """
    height, width = images.shape[1:3]

    def layer(name):
        return backbone.get_layer(name)

    def convolution(x, conv, norm):
        """Convolution and batch normalisation in one."""
        conv, norm = layer(conv), layer(norm)
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        bias = norm.beta - norm.moving_mean * scale
        return _convolve(x, conv.kernel * scale, bias, conv.strides[0])

    x = layer("normalize")(images)
    x = _Map(x, _axis(height, patch, stride), _axis(width, patch, stride))
    x = _relu(convolution(x, "stem_conv", "stem_bn"))
    names = {one.name for one in backbone.layers}
    if "stem_pool" in names:
        x = _max_pool(x, layer("stem_pool").pool_size[0], layer("stem_pool").strides[0])
    for stage, blocks in enumerate(resnet.BLOCKS, 2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            shortcut = x
            if f"{name}_0_conv" in names:
                shortcut = convolution(x, f"{name}_0_conv", f"{name}_0_bn")
            y = _relu(convolution(x, f"{name}_1_conv", f"{name}_1_bn"))
            y = convolution(y, f"{name}_2_conv", f"{name}_2_bn")
            x = _relu(_add(shortcut, y))
    return _average(x)
