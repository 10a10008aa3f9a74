"""Patch models embed each patch of an image as an image of its own (Appendix A.5)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.scoring import layers, upsample
from cutpaste_tf.scoring.places import PlacesScorer
from cutpaste_tf.scoring.scorer import Fit

_BATCH = 8  # images in a step, at most
_MEMORY = 2**28  # bytes of the largest feature map of a step, about
_SCATTER_MEMORY = 2**31  # bytes of the scatters of a band's locations, at most


class PatchScorer(PlacesScorer):
    """Scores images by their patches, a band of rows at a time, so that memory stays bounded."""

    def __init__(self, config: Config, network: keras.Model):
        super().__init__(config, network)
        self.kind = "map"
        self.locations = "separate" if config.separate_locations else "shared"
        self._side, self._stride = config.dense_patch, config.dense_stride

    def embedding(self, network: keras.Model) -> keras.Model:
        """See `Scorer`."""
        images = keras.Input([*self.config.size, 3], name="images")
        return keras.Model(images, {"vectors": self._patches(network, images)})

    def _patches(self, network, images):
        """The `pool` features of all patches, float32 [B, 1, P, Q, D], of images, [B, H, W, 3]."""
        side, (rows, columns) = self._side, (self._along(n) for n in images.shape[1:3])
        for axis, count in ((1, rows), (2, columns)):
            at = np.arange(count)[:, None] * self._stride + np.arange(side)
            images = ops.take(images, at.ravel().astype(np.int32), axis=axis)
        x = ops.reshape(images, (-1, rows, side, columns, side, 3))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, side, side, 3))
        features = network(x, training=False)["pool"]
        return ops.reshape(features, (-1, 1, rows, columns, features.shape[-1]))

    def _along(self, length):
        """The number of patches along an axis of some pixels."""
        return (length - self._side) // self._stride + 1

    @functools.cached_property
    def _shape(self):
        rows, columns = (self._along(side) for side in self.config.size)
        return 1, rows, columns, self.network.output["pool"].shape[-1]

    @property
    def bands(self) -> list[tuple[int, int]]:
        """Rows of places that are fitted at a time, as many as their scatters' memory allows."""
        _, rows, columns, dims = self._shape
        if self.locations == "shared":
            return [(0, rows)]
        height = max(1, _SCATTER_MEMORY // (columns * dims**2 * 8))
        return [(first, min(first + height, rows)) for first in range(0, rows, height)]

    @functools.cached_property
    def _height(self):
        """The rows of patches that are embedded at once, and the bytes that each takes."""
        stem = self.network.get_layer("stem_conv")  # Its map is the largest.
        row = self._shape[2] * (self._side / stem.strides[0]) ** 2 * stem.filters * 4
        return min(self.bands[0][1], max(1, int(_MEMORY / row))), row

    @property
    def batch(self) -> int:
        """Images that are embedded at once."""
        height, row = self._height
        return min(_BATCH, max(1, int(_MEMORY / (row * height))))

    @functools.cached_property
    def _embed_band(self):
        pixels = (self._height[0] - 1) * self._stride + self._side
        signature = [tf.TensorSpec([None, pixels, self.config.size[1], 3], tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)
        def embed(images):
            return self._patches(self.network, tf.cast(images, tf.float32) / 255.0)

        return embed.get_concrete_function()  # as in `Scorer._embed`

    def embedded(
        self, images: pipeline.Images, rows: tuple[int, int] | None = None
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """See `Scorer`."""
        height, (first_row, end) = self._height[0], rows or (0, self.grid[1])
        for batch, count in self._inputs(images):
            parts = []
            for first in range(first_row, end, height):
                # All parts have the same height, for one graph; rows that come twice are left out.
                start = min(first, self.grid[1] - height)
                top = start * self._stride
                pixels = (height - 1) * self._stride + self._side
                vectors = self._embed_band(batch[:, top : top + pixels]).numpy()
                parts.append(vectors[:, :, first - start : min(first + height, end) - start])
            yield {"vectors": np.concatenate(parts, axis=2)[:count]}

    def _score_of_map(self, places):
        """The largest score of a patch (Figure 1)."""
        return layers.largest(places, axis=(2, 3))

    def _features(self, batch):
        means = np.mean(batch["vectors"], axis=(1, 2, 3), dtype=np.float64)
        return {"pool": means.astype(np.float32)}

    def enlarge(self, fit: Fit) -> Callable:
        """See `Scorer`; a patch model has no region."""
        level = self.level(fit)
        return lambda maps, inside=None: self._enlarge(maps, level)

    @functools.cached_property
    def _enlarge(self):
        return upsample.receptive_field_enlarger(self.config.size, self._side, self._stride)

    def _fit(self, images, validate):
        gaussians, features, maps = self._fit_places(images, validate)
        if len(self.bands) > 1:  # Those features are means over the last band's patches alone.
            features = {"pool": self.embed(images)[:, None]}
        fit = Fit(None, gaussians, features)
        if maps is None:
            return fit
        normal = self._scores(fit, {"places": maps}, images)
        return dataclasses.replace(fit, normal=dataclasses.replace(normal, maps=None))
