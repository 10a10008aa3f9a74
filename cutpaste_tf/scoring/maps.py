"""Anomaly maps of images, by whatever method they were made."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from cutpaste_tf.data import pipeline

_MAPS_BATCH = 16


class Maps:
    """The anomaly maps of N images, kept small and brought to full size when they are read.

    Args:
      small: float32 [N * K, h', w'], of the images' K tiles.
      enlarge: a function from float32 [n, h', w'], and what of it is looked at, bool [n, h, w] or
        None for all, to float32 [n, h, w], a tile's height and width.
      images: the images that they are of.
    """

    def __init__(
        self,
        small: np.ndarray,
        enlarge: Callable[[tf.Tensor, np.ndarray | None], tf.Tensor],
        images: pipeline.Images,
    ):
        self.small, self._enlarge, self.images = small, enlarge, images

    def __len__(self) -> int:
        return len(self.small) // self.images.preparation.count

    @functools.cached_property
    def peaks(self) -> np.ndarray:
        """The largest pixel of each map, float64 [N]."""
        parts = (
            range(s, min(s + _MAPS_BATCH, len(self))) for s in range(0, len(self), _MAPS_BATCH)
        )
        largest = [np.zeros([0]), *(self.read(part).max(axis=(1, 2)) for part in parts)]
        return np.concatenate(largest).astype(np.float64)

    def subset(self, indices: np.ndarray) -> "Maps":
        """Returns the maps of some images, int [M], each of one tile."""
        return Maps(self.small[indices], self._enlarge, self.images.subset(indices))

    def joined(self, other: "Maps") -> "Maps":
        """Returns these maps and then others, of images that are prepared in the same way."""
        small = np.concatenate([self.small, other.small])
        images = pipeline.Images(len(self) + len(other), self.images.preparation, None)
        return Maps(small, self._enlarge, images)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Reads the maps of some images, their tiles joined.

        Args:
          indices: int [n].

        Returns:
          float32 [n, H, W], as high and wide as the canvas; higher is more anomalous, and what is
          not looked at is zero.
        """
        joined = self._whole(indices)
        for one, index in zip(joined, indices, strict=True):
            seen = self.images.looked_at(index)
            if seen is not None:
                one[~seen] = 0.0
        return joined

    def at_own_size(self, index: int) -> np.ndarray:
        """Reads an image's map at the image's own height and width, float32 [h, w].

        What lies outside the region of interest is not cut off: at its border it would fade.
        """
        size = self.images.own_size(index)
        return self.images.preparation.to_image(self._whole([index])[0], *size)

    def _whole(self, indices):
        """The maps of some images as high and wide as the canvas, their tiles joined."""
        preparation, indices = self.images.preparation, np.asarray(indices, np.int64)
        tiles = self.small.reshape(-1, preparation.count, *self.small.shape[1:])[indices]
        regions = None
        if preparation.masked and len(indices):
            regions = [preparation.cut(self.images.looked_at(index)) for index in indices]
            regions = np.concatenate(regions)
        tiles = tf.constant(tiles.reshape(-1, *self.small.shape[1:]))
        return preparation.join(self._enlarge(tiles, regions).numpy())
