"""Turns images of any size into the network's inputs, and brings maps back to the images' sizes.

Nothing here imports TensorFlow before an image is resized.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cutpaste_tf.config import Config
from cutpaste_tf.data import decode

# The grey outside the region of interest: about the zero of a network's normalised input.
FILL = 127
_OVERLAP_PART = 8  # Neighbouring tiles overlap by an eighth of their side.


class Box(NamedTuple):
    """The part of the canvas where an image lies, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True, eq=False)
class Preparation:
    """How an image of any size becomes one or more inputs of a network.

    The image is resized onto a canvas, and the canvas is cut into tiles, row by row.

    Args:
      size: height and width of a network's input, in pixels.
      resize: "squash" stretches the image over the canvas; "pad" keeps the image's shape, puts it
        in the middle and repeats its border around it, and maps leave this border out.
      tiles: rows and columns of tiles.
      bits: as in `decode.decode`.
      roi: bool [h, w], True on the region of interest, stretched over every image; None: all.
    """

    size: tuple[int, int]
    resize: str = "squash"
    tiles: tuple[int, int] = (1, 1)
    bits: int = 16
    roi: np.ndarray | None = None

    @classmethod
    def of(cls, config: Config, roi: np.ndarray | None = None, bits: int = 16) -> "Preparation":
        """Returns the preparation that settings ask for; `roi` is what --roi names."""
        return cls(config.size, config.resize, config.tiles, bits, roi)

    @functools.cached_property
    def count(self) -> int:
        """The number of tiles, K."""
        return self.tiles[0] * self.tiles[1]

    @functools.cached_property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas in pixels."""
        return tuple(
            side + (count - 1) * (side - overlap)
            for side, count, overlap in zip(self.size, self.tiles, self.overlap, strict=True)
        )

    @property
    def masked(self) -> bool:
        """Whether parts of a canvas may lie outside the region."""
        return self.roi is not None or self.resize == "pad"

    def box(self, height: int, width: int) -> Box:
        """Returns where on the canvas an image of some height and width lies."""
        return Box(*map(int, self.box_values(height, width)))

    def box_values(self, height: Any, width: Any, xp: Any = np) -> tuple[Any, Any, Any, Any]:
        """Returns the values of `box`, computed by a module such as numpy or keras.ops."""
        if self.resize == "squash":
            return 0.0 * height, 0.0 * width, *map(float, self.canvas)
        scale = xp.minimum(self.canvas[0] / height, self.canvas[1] / width)
        high, wide = (xp.maximum(xp.round(side * scale), 1.0) for side in (height, width))
        top, left = (self.canvas[0] - high) / 2.0, (self.canvas[1] - wide) / 2.0
        return xp.floor(top), xp.floor(left), high, wide

    def _margins(self, box):
        """Rows above and below an image on the canvas, and columns left and right of it."""
        below, right = (
            side - first - length
            for side, first, length in zip(self.canvas, box[:2], box[2:], strict=True)
        )
        return (box.top, below), (box.left, right)

    def region(self, height: int, width: int) -> np.ndarray | None:
        """Returns which pixels of the canvas of an image are in the region, bool; None: all."""
        if not self.masked:
            return None
        box = self.box(height, width)
        inside = np.ones(box[2:], bool) if self.roi is None else self.own_region(*box[2:])
        return np.pad(inside, self._margins(box))

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Cuts an image, uint8 [H, W, 3], into tiles, uint8 [K, h, w, 3], grey outside --roi."""
        return self.cut(self.on_canvas(image)[None])[0]

    def on_canvas(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image, uint8 [H, W, 3], onto the canvas, uint8."""
        box = self.box(*image.shape[:2])
        if self.roi is not None:  # Resizing would mix pixels from outside into the region's border.
            inside = self.own_region(*image.shape[:2])
            image = np.where(inside[..., None], image, np.uint8(FILL))
        resized = resize(image, box[2:])
        if self.roi is not None:
            resized[~self.own_region(*box[2:])] = FILL
        # The image's border is repeated, since an edge around the image would be a feature.
        return np.pad(resized, [*self._margins(box), (0, 0)], mode="edge")

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Reads and prepares a file, as `apply` does; a UserError names what cannot be read."""
        return self.apply(decode.read(path, self.bits))

    @functools.cached_property
    def overlap(self) -> tuple[int, int]:
        """Rows and columns by which neighbouring tiles overlap."""
        return tuple(round(side / _OVERLAP_PART) for side in self.size)

    @functools.cached_property
    def corners(self) -> list[tuple[int, int]]:
        """The upper left pixels of the tiles, row by row."""
        steps = [side - overlap for side, overlap in zip(self.size, self.overlap, strict=True)]
        return [(row * steps[0], column * steps[1]) for row, column in np.ndindex(*self.tiles)]

    def cut(self, canvases: Any, stack: Callable = np.stack) -> Any:
        """Cuts arrays of the canvas's size, [n, H, W, ...], into tiles, [n, K, h, w, ...].

        Another library's tensors need that library's `stack`.
        """
        height, width = self.size
        tiles = [canvases[:, y : y + height, x : x + width] for y, x in self.corners]
        return stack(tiles, axis=1)

    def join(self, tiles: Any, pad: Callable = np.pad) -> Any:
        """Joins tiles, float32 [n, K, h, w, ...], to [n, H, W, ...] without seams.

        Where tiles overlap, a tile counts less towards its edge. Another library's tensors need
        that library's `pad`.
        """
        if self.count == 1:
            return tiles[:, 0]
        rows, columns = (
            _ramps(side, number, overlap)
            for side, number, overlap in zip(self.size, self.tiles, self.overlap, strict=True)
        )
        further = len(tiles.shape) - 4  # dimensions
        joined = 0.0
        for number, corner in enumerate(self.corners):
            row, column = divmod(number, self.tiles[1])
            weights = np.outer(rows[row], columns[column]).reshape(*self.size, *[1] * further)
            after = [c - x - s for c, x, s in zip(self.canvas, corner, self.size, strict=True)]
            margins = [(0, 0), *zip(corner, after, strict=True), *[(0, 0)] * further]
            joined = pad(tiles[:, number] * weights, margins) + joined
        return joined

    def over_image(self, canvas_map: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns a map of the image alone: the canvas's, or, with --resize=pad, a part of it.

        A part is brought to the image's own size.
        """
        if self.resize == "squash":
            return canvas_map
        return self.to_image(canvas_map, height, width)

    def own_region(self, height: int, width: int) -> np.ndarray | None:
        """Returns the region of interest at an image's own size, bool [height, width], or None."""
        return None if self.roi is None else stretched(self.roi, (height, width))

    def image_part(self, canvas: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns the part of a canvas, [H, W, ...], that shows an image of some size."""
        top, left, *sides = self.box(height, width)
        return canvas[top : top + sides[0], left : left + sides[1]]

    def to_image(self, canvas_map: np.ndarray, height: int, width: int) -> np.ndarray:
        """Brings a map, float32 [H, W], from the canvas to an image's own size."""
        return resize_map(self.image_part(canvas_map, height, width), (height, width))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image, uint8 [H, W, 3], to a height and width, with antialiasing."""
    return _resizer()(image, np.array(size, np.int32)).numpy()


@functools.cache
def _resizer():
    import tensorflow as tf

    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)]

    # Images are resized in threads, whatever the accelerator is doing.
    @tf.function(input_signature=signature, autograph=False)
    def resized(image, size):
        with tf.device("/CPU:0"):
            image = tf.image.resize(tf.cast(image, tf.float32), size, antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)

    return resized


def resize_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map, float32 [H, W], to a height and width, bilinearly."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))


def stretched(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretches a mask, [H, W], to a height and width, by the nearest pixels."""
    rows, columns = (
        ((np.arange(side) + 0.5) * pixels / side).astype(np.int64)
        for side, pixels in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def mask_of_size(mask: str | np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Returns a defect's mask, or for None an empty one, stretched to a height and width, bool."""
    if mask is None:
        return np.zeros(size, bool)
    return stretched(decode.read_mask(mask) if isinstance(mask, str) else mask, size)


def as_preparation(size: "Preparation | int | tuple[int, int]") -> Preparation:
    """Returns a given preparation, or one that squashes to a size or to the side of a square."""
    if isinstance(size, Preparation):
        return size
    return Preparation((size, size) if isinstance(size, int) else tuple(size))


def _ramps(side, count, overlap):
    """The weights of each of `count` tiles along an axis, which fall to zero over the overlap.

    Returns float32 [count, side]; the weights of a canvas's pixel add up to one.
    """
    ramps = np.ones([count, side], np.float32)
    rising = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
    ramps[1:, :overlap] *= rising
    ramps[:-1, side - overlap :] *= rising[::-1]
    return ramps
