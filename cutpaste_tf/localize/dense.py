"""Embeddings of all patches of an image, with what the patches share computed once.

Every patch's embedding is what the network gives for the patch alone, zero padding at the patch's
border included (Appendix A.5: 57 x 57 patches of 32 x 32 with stride 4). Running the network on
each patch repeats most of the work of its first layers: two patches that overlap have the same
values there, save near their borders, where one of them sees padding.

Rows and columns are independent of each other in a convolution's geometry. So for each layer the
rows that the patches have are numbered such that two rows, of whatever patches, get the same
number if and only if they are computed from the same rows below (`_Axis`); columns likewise. A
layer is then one map of [different rows, different columns], each entry computed once, however many
patches it belongs to.

In the later layers most of a patch is near its border, and little is shared. From the first layer
where gathering what is shared would cost more than it saves, the patches are a batch of small maps.
There the gain is in padding: a 3x3 convolution of a 2x2 map sees padding in 20 of 36 places, and of
a 1x1 map in 8 of 9. These are products with one matrix, in which padding has no part.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf.models import resnet

# A convolution of a shared map passes through memory many times, one of patches once.
_WORTH_SHARING = 4.0
_FEW_CHANNELS = 4  # those of an image


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
    size = kernel.shape[0]
    rows, row_groups = _window(x.rows, size, stride)
    columns, column_groups = _window(x.columns, size, stride)
    strips = []
    for across in column_groups:
        # The taps of a row side by side, as channels; then a product for each row of the kernel.
        seen = tf.concat([_take(x.values, c, 2) for c in across.rows], axis=-1)
        parts = []
        for down in row_groups:
            parts.append(_product(seen, down, across, kernel) + bias)
        strips.append(tf.concat(parts, axis=1))
    return _Map(tf.concat(strips, axis=2), rows, columns)


def _product(seen, down, across, kernel):
    """Multiplies the taps side by side in `seen` with the kernel's."""
    parts = [_take(seen, numbers, 1) for numbers in down.rows]
    weights = tf.gather(tf.gather(kernel, down.used), across.used, axis=1)
    channels, results = kernel.shape[2:]
    if channels <= _FEW_CHANNELS:  # All taps side by side are no larger than the result.
        parts = [tf.concat(parts, axis=-1)]
        weights = weights[None]
    weights = tf.reshape(weights, [len(parts), 1, 1, -1, results])
    products = [
        tf.nn.conv2d(part, matrix, 1, "VALID")
        for part, matrix in zip(parts, tf.unstack(weights), strict=True)
    ]
    return tf.add_n(products)


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


def _patches(x: _Map) -> tf.Tensor:
    """Takes the patches apart: [B * P * P', n, n', C]."""
    values = x.values
    for axis, place in ((x.rows, 1), (x.columns, 2)):
        values = tf.gather(values, axis.numbers.ravel().astype(np.int32), axis=place)
    (rows, height), (columns, width) = x.rows.numbers.shape, x.columns.numbers.shape
    values = tf.reshape(values, [-1, rows, height, columns, width, values.shape[-1]])
    values = tf.transpose(values, [0, 1, 3, 2, 4, 5])
    return tf.reshape(values, [-1, height, width, values.shape[-1]])


def _convolve_patches(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, stride: int) -> tf.Tensor:
    """A convolution with "same" padding of small maps, [N, n, n', C]."""
    height, width, channels = x.shape[1:]
    if max(height, width) > 2:
        return tf.nn.conv2d(x, kernel, stride, "SAME") + bias
    # As one matrix: for each pair of places which tap of the kernel joins them, if any.
    size, results = kernel.shape[0], kernel.shape[-1]
    taps = []
    for length in (height, width):
        outputs = -(-length // stride)
        before = max((outputs - 1) * stride + size - length, 0) // 2
        tap = np.arange(length)[:, None] - np.arange(outputs) * stride + before
        taps.append(np.where((tap >= 0) & (tap < size), tap, -1))
    rows, columns = taps[0][:, None, :, None], taps[1][None, :, None, :]
    joined = np.where((rows >= 0) & (columns >= 0), rows * size + columns, size * size)
    padded = tf.concat(
        [
            tf.reshape(kernel, [size * size, channels, results]),
            tf.zeros([1, channels, results], kernel.dtype),
        ],
        0,
    )
    # [rows in, columns in, rows out, columns out, channels in, channels out]
    matrix = tf.transpose(tf.gather(padded, joined.astype(np.int32)), [0, 1, 4, 2, 3, 5])
    outputs = joined.shape[2:]
    matrix = tf.reshape(matrix, [height * width * channels, outputs[0] * outputs[1] * results])
    product = tf.matmul(tf.reshape(x, [-1, height * width * channels]), matrix)
    return tf.reshape(product, [-1, *outputs, results]) + bias


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
    rows, columns = _axis(height, patch, stride), _axis(width, patch, stride)

    def layer(name):
        return backbone.get_layer(name)

    def convolution(x, conv, norm):
        """Convolution and batch normalisation in one."""
        conv, norm = layer(conv), layer(norm)
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        bias = norm.beta - norm.moving_mean * scale
        convolve = _convolve if isinstance(x, _Map) else _convolve_patches
        # Under mixed precision the weights are float32, and what they are applied to is not.
        kernel, bias = tf.cast(conv.kernel * scale, dtype), tf.cast(bias, dtype)
        return convolve(x, kernel, bias, conv.strides[0])

    def relu(x):
        if isinstance(x, _Map):
            return dataclasses.replace(x, values=tf.nn.relu(x.values))
        return tf.nn.relu(x)

    def add(x, y):
        return _add(x, y) if isinstance(x, _Map) else x + y

    def every(x, stride):
        return _max_pool(x, 1, stride) if isinstance(x, _Map) else x[:, ::stride, ::stride]

    x = _Map(layer("normalize")(images), rows, columns)
    dtype = x.values.dtype
    x = relu(convolution(x, "stem_conv", "stem_bn"))
    names = {one.name for one in backbone.layers}
    if "stem_pool" in names:
        x = _max_pool(x, layer("stem_pool").pool_size[0], layer("stem_pool").strides[0])
    for stage, blocks in enumerate(resnet.BLOCKS, 2):
        for block in range(1, blocks + 1):
            if isinstance(x, _Map) and _sharing(x) < _WORTH_SHARING:
                x = _patches(x)
            name = f"conv{stage}_block{block}"
            shortcut = x
            if f"{name}_0_pool" in names:
                shortcut = every(x, layer(f"{name}_0_pool").strides[0])
            if f"{name}_0_conv" in names:
                shortcut = convolution(shortcut, f"{name}_0_conv", f"{name}_0_bn")
            y = relu(convolution(x, f"{name}_1_conv", f"{name}_1_bn"))
            y = convolution(y, f"{name}_2_conv", f"{name}_2_bn")
            x = relu(add(shortcut, y))
    x = _patches(x) if isinstance(x, _Map) else x
    x = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])
    return tf.reshape(x, [-1, len(rows.numbers), len(columns.numbers), x.shape[-1]])


def _sharing(x: _Map) -> float:
    """How many patches, on average, an entry belongs to after the two convolutions of a block."""
    sharing = 1.0
    for axis in (x.rows, x.columns):
        for _ in range(2):
            axis, _ = _window(axis, 3, 1)
        sharing *= axis.numbers.size / axis.count
    return sharing
