"""`data.preparation` as a part of an exported model: from images of any size to canvases.

The graph knows images' heights and widths only when it runs. `tests/scoring` compares the two.
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
      portable: whether to use only what other formats than TensorFlow's have too.

    Returns:
      float32 [B, H', W', 3] in [0, 1], and what of a canvas is in the region, bool [1, H', W'];
      None for all.
    """
    x = ops.cast(images, "float32")
    canvas = preparation.canvas
    # Nothing else in the graph knows the numbers of pixels, and there may be no images.
    ones = [ops.sum(ops.zeros_like(side), axis=0) + 1.0 for side in (x[:, :, 0, 0], x[:, 0, :, 0])]
    top, left, *lengths = preparation.placed(*map(ops.sum, ones), xp=ops)
    on_canvas = [*zip(canvas, (top, left), lengths, strict=True)]
    if preparation.roi is not None:
        roi = _roi(preparation.roi)
        own = roi([ops.cumsum(axis) - 0.5 for axis in ones], [ops.sum(axis) for axis in ones])
        x = ops.where(own, x, float(FILL))
    if preparation.resize == "squash" and not portable:
        x = ops.image.resize(x, canvas, antialias=True)
    else:
        rows, columns = (
            _antialiasing(each, *axis) for each, axis in zip(ones, on_canvas, strict=True)
        )
        x = ops.matmul(ops.matmul(rows, ops.transpose(x, (0, 3, 1, 2))), ops.transpose(columns))
        x = ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, *canvas, 3))
    x = ops.clip(ops.round(x), 0.0, 255.0)
    region = None
    if preparation.resize == "pad":
        rows, columns = (_inside(*axis) for axis in on_canvas)
        region = ops.logical_and(rows, ops.transpose(columns))
    if preparation.roi is not None:
        shown = roi([_middles_within(*axis) for axis in on_canvas], lengths)
        x = ops.where(shown, x, float(FILL))
        region = shown[..., 0] if region is None else ops.logical_and(shown[..., 0], region)
    return x / 255.0, region if region is None else ops.expand_dims(region, 0)


def _antialiasing(ones, size, first, length):
    """tf.image.resize's weights along one axis of n pixels as a matrix, [size, n].

    There are n ones. On the canvas, of `size` pixels, the image begins at `first` and takes
    `length`.
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
    """How far a canvas's pixels are in an image that begins at `first`, float32 [size, 1]."""
    return ops.subtract(np.arange(size, dtype=np.float32)[:, None] + 0.5, first)


def _middles_within(size, first, length):
    """Likewise; beyond the image its border goes on."""
    return ops.minimum(ops.maximum(_middles(size, first), 0.5), length - 0.5)


def _inside(size, first, length):
    """Which of a canvas's pixels along an axis show the image, bool [size, 1]."""
    middles = _middles(size, first)
    return ops.logical_and(middles > 0.0, middles < length)


def _roi(roi):
    """`Preparation.own_region`: a function of pixels' middles and images' lengths along both axes.

    It returns bool [H, W, 1].
    """
    # Looked up: images are too large for products with matrices that only choose.
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
