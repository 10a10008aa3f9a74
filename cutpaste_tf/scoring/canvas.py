"""`data.preparation` as a part of an exported model: from images of any size to canvases.

The graph knows images' heights and widths only when it runs. `tests/scoring` compares both ways.
"""

import keras
import numpy as np
from keras import ops

from cutpaste_tf.data.preparation import FILL, Preparation


def on_canvas(
    images: keras.KerasTensor, preparation: Preparation, portable: bool
) -> tuple[keras.KerasTensor, keras.KerasTensor | None]:
    """Builds `Preparation.on_canvas` for images of any size, and their scaling to [0, 1].

    Args:
      images: a functional model's uint8 [B, H, W, 3].
      preparation: how images become the network's inputs.
      portable: whether to use only operations that formats other than TensorFlow's have too.

    Returns:
      float32 [B, H', W', 3] in [0, 1], and which pixels of a canvas are in the region, bool
      [1, H', W'], or None for all.
    """
    x = ops.cast(images, "float32")
    canvas = preparation.canvas
    # H ones and W ones, even in an empty batch: their sums are the image's height and width.
    ones = [ops.sum(ops.zeros_like(side), axis=0) + 1.0 for side in (x[:, :, 0, 0], x[:, 0, :, 0])]
    top, left, *lengths = preparation.box_values(*map(ops.sum, ones), xp=ops)
    axes = [*zip(canvas, (top, left), lengths, strict=True)]  # for each: size, first pixel, length
    if preparation.roi is not None:
        roi = _roi(preparation.roi)
        own = roi([ops.cumsum(axis) - 0.5 for axis in ones], [ops.sum(axis) for axis in ones])
        x = ops.where(own, x, float(FILL))
    if preparation.resize == "squash" and not portable:
        x = ops.image.resize(x, canvas, antialias=True)
    else:
        rows, columns = (_antialiasing(each, *axis) for each, axis in zip(ones, axes, strict=True))
        x = ops.matmul(ops.matmul(rows, ops.transpose(x, (0, 3, 1, 2))), ops.transpose(columns))
        x = ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, *canvas, 3))
    x = ops.clip(ops.round(x), 0.0, 255.0)
    region = None
    if preparation.resize == "pad":
        rows, columns = (_inside(*axis) for axis in axes)
        region = ops.logical_and(rows, ops.transpose(columns))
    if preparation.roi is not None:
        shown = roi([_middles_within(*axis) for axis in axes], lengths)
        x = ops.where(shown, x, float(FILL))
        region = shown[..., 0] if region is None else ops.logical_and(shown[..., 0], region)
    return x / 255.0, region if region is None else ops.expand_dims(region, 0)


def _antialiasing(ones, size, first, length):
    """tf.image.resize's weights along one axis of n pixels, as a matrix, [size, n].

    `ones` are n ones. On the canvas, of `size` pixels, the image begins at `first` and is `length`
    pixels long.
    """
    # The kernel is a triangle, as wide as the pixels of the smaller of both images.
    scale = ops.sum(ones) / length
    centers = ops.multiply(scale, _middles_within(size, first, length))
    distances = ops.abs(ops.cumsum(ops.expand_dims(ones, 0), axis=1) - 0.5 - centers) / ops.maximum(
        scale, 1.0
    )
    weights = ops.relu(1.0 - distances)
    return weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-6)


def _middles(size, first):
    """The middles of a canvas's pixels, counted from where the image begins, float32 [size, 1]."""
    return ops.subtract(np.arange(size, dtype=np.float32)[:, None] + 0.5, first)


def _middles_within(size, first, length):
    """`_middles`, where pixels beside the image repeat its outermost pixels."""
    return ops.minimum(ops.maximum(_middles(size, first), 0.5), length - 0.5)


def _inside(size, first, length):
    """Which of a canvas's pixels along an axis show the image, bool [size, 1]."""
    middles = _middles(size, first)
    return ops.logical_and(middles > 0.0, middles < length)


def _roi(roi):
    """Returns `Preparation.own_region` as a function of pixels' middles and lengths of both axes.

    It returns bool [H, W, 1].
    """
    # Pixels are looked up: images are too large to choose pixels by products of matrices.
    table = keras.layers.Embedding(*roi.shape, trainable=False, name="region_of_interest")
    table.build([None])
    table.set_weights([roi.astype(np.float32)])

    def looked_up(middles, lengths):
        rows, columns = (
            ops.cast(ops.floor(ops.reshape(at, [-1]) * count / length), "int32")
            for at, count, length in zip(middles, roi.shape, lengths, strict=True)
        )
        return ops.expand_dims(ops.take(table(rows), columns, axis=1) > 0.5, -1)

    return looked_up
