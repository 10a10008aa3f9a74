"""Anomaly maps of images, made by any method."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cutpaste_tf.data import pipeline

_BATCH = 16


class Maps:
    """The anomaly maps of N images of K tiles, kept small and brought to full size when read.

    Args:
      small: float32 [N, K, h', w'].
      inside: which places of the maps are in the region, bool [N, K, h', w']; None: all.
      enlarge: takes small maps and `inside`, and returns maps of a tile's size, float32
        [n, K, h, w].
      images: the images that the maps belong to.
    """

    def __init__(
        self,
        small: np.ndarray,
        inside: np.ndarray | None,
        enlarge: Callable,
        images: pipeline.Images,
    ):
        self.small, self.inside, self._enlarge, self.images = small, inside, enlarge, images

    def __len__(self) -> int:
        return len(self.small)

    @functools.cached_property
    def peaks(self) -> np.ndarray:
        """The largest pixel of each map, float64 [N]."""
        largest = [self.read(batch).max(axis=(1, 2)) for batch in _batches(range(len(self)))]
        return np.concatenate([np.zeros([0]), *largest]).astype(np.float64)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Reads the maps of some images, their tiles joined.

        Args:
          indices: int [n].

        Returns:
          float32 [n, H, W], of the canvas's size; higher is more anomalous, and pixels outside the
          region are zero.
        """
        joined = self._whole(indices)
        for one, index in zip(joined, indices, strict=True):
            region = self.images.region(index)
            if region is not None:
                one[~region] = 0.0
        return joined

    def at_own_sizes(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Reads some images' maps at the images' own heights and widths, float32 [h, w] each.

        Pixels outside the region of interest are kept: with zeros there, resizing would make the
        map fade at the region's border.
        """
        for batch in _batches(indices):
            for index, one in zip(batch, self._whole(batch), strict=True):
                size = self.images.own_size(index)
                yield self.images.preparation.to_image(one, *size)

    def _whole(self, indices):
        """The maps of some images at the canvas's size."""
        indices = np.asarray(indices, np.int64)
        inside = None if self.inside is None else self.inside[indices]
        enlarged = np.array(self._enlarge(self.small[indices], inside))
        return self.images.preparation.join(enlarged)


def _batches(indices):
    """Yields a few indices at a time."""
    for first in range(0, len(indices), _BATCH):
        yield indices[first : first + _BATCH]
