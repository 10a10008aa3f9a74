"""How an image of any size becomes what the network sees, and how maps find their way back.

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
_OVERLAP = 8  # Tiles beside each other have one part of so many in common.


class Place(NamedTuple):
    """Where on the canvas an image lies, in pixels."""

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
      resize: "squash": the image fills the canvas, its shape gives way; "pad": it keeps its shape
        and lies in the middle, its border is repeated around it and is no part of it.
      tiles: rows and columns of tiles.
      bits: as in `decode.decode`.
      roi: bool [h, w], True on the region of interest, in the frame of every image; None: all.
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
        """Inputs that an image becomes, K."""
        return self.tiles[0] * self.tiles[1]

    @functools.cached_property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas in pixels."""
        return tuple(
            side + (count - 1) * (side - common)
            for side, count, common in zip(self.size, self.tiles, self.common, strict=True)
        )

    @property
    def masked(self) -> bool:
        """Whether parts of a canvas may lie outside the region."""
        return self.roi is not None or self.resize == "pad"

    def place(self, height: int, width: int) -> Place:
        """Returns where on the canvas an image of some height and width lies."""
        return Place(*map(int, self.placed(height, width)))

    def placed(self, height: Any, width: Any, xp: Any = np) -> tuple[Any, Any, Any, Any]:
        """Returns `place` as numbers of any kind: `xp` is the module that computes with them."""
        if self.resize == "squash":
            return 0.0 * height, 0.0 * width, *map(float, self.canvas)
        scale = xp.minimum(self.canvas[0] / height, self.canvas[1] / width)
        high, wide = (xp.maximum(xp.round(side * scale), 1.0) for side in (height, width))
        top, left = (self.canvas[0] - high) / 2.0, (self.canvas[1] - wide) / 2.0
        return xp.floor(top), xp.floor(left), high, wide

    def _margins(self, place):
        """Rows above and below an image on the canvas, and columns left and right of it."""
        below, right = (
            side - first - length
            for side, first, length in zip(self.canvas, place[:2], place[2:], strict=True)
        )
        return (place.top, below), (place.left, right)

    def region(self, height: int, width: int) -> np.ndarray | None:
        """Returns what of the canvas is in the region, bool, for an image of a size; None: all."""
        if not self.masked:
            return None
        place = self.place(height, width)
        inside = np.ones(place[2:], bool) if self.roi is None else self.own_region(*place[2:])
        return np.pad(inside, self._margins(place))

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Prepares an image, uint8 [H, W, 3]: its tiles, uint8 [K, h, w, 3]; grey outside --roi."""
        return self.cut(self.on_canvas(image)[None])[0]

    def on_canvas(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image, uint8 [H, W, 3], onto the canvas, uint8."""
        place = self.place(*image.shape[:2])
        if self.roi is not None:  # Nor has what lies outside a part in pixels at the border.
            inside = self.own_region(*image.shape[:2])
            image = np.where(inside[..., None], image, np.uint8(FILL))
        resized = resize(image, place[2:])
        if self.roi is not None:
            resized[~self.own_region(*place[2:])] = FILL
        # What is left over goes on as the image's border, where an edge would be a feature.
        return np.pad(resized, [*self._margins(place), (0, 0)], mode="edge")

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Reads and prepares a file, as `apply` does; a UserError names what cannot be read."""
        return self.apply(decode.read(path, self.bits))

    @functools.cached_property
    def common(self) -> tuple[int, int]:
        """Rows and columns that tiles beside each other have in common."""
        return tuple(round(side / _OVERLAP) for side in self.size)

    @functools.cached_property
    def corners(self) -> list[tuple[int, int]]:
        """The upper left pixels of the tiles, row by row."""
        steps = [side - common for side, common in zip(self.size, self.common, strict=True)]
        return [
            (row * steps[0], column * steps[1])
            for row in range(self.tiles[0])
            for column in range(self.tiles[1])
        ]

    def cut(self, canvases: Any, stack: Callable = np.stack) -> Any:
        """Cuts what is as high and wide as canvases, [n, H, W, ...], into tiles, [n, K, h, w, ...].

        Another library's tensors need that library's `stack`.
        """
        height, width = self.size
        tiles = [canvases[:, y : y + height, x : x + width] for y, x in self.corners]
        return stack(tiles, axis=1)

    def join(self, tiles: Any, pad: Callable = np.pad) -> Any:
        """Puts tiles, float32 [n, K, h, w, ...], together again, [n, H, W, ...], without seams.

        Where tiles have pixels in common, the nearer to a tile's edge, the less it counts. Another
        library's tensors need that library's `pad`.
        """
        if self.count == 1:
            return tiles[:, 0]
        rows, columns = (
            _ramps(side, number, common)
            for side, number, common in zip(self.size, self.tiles, self.common, strict=True)
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
        """Returns a map of the whole of an image, of its shape or squashed, from the canvas's."""
        if self.resize == "squash":
            return canvas_map
        return self.to_image(canvas_map, height, width)

    def own_region(self, height: int, width: int) -> np.ndarray | None:
        """Returns the region of interest at an image's own size, bool [height, width], or None."""
        return None if self.roi is None else stretched(self.roi, (height, width))

    def image_part(self, canvas: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns the part of a canvas, [H, W, ...], that shows an image of some size."""
        top, left, *sides = self.place(height, width)
        return canvas[top : top + sides[0], left : left + sides[1]]

    def to_image(self, canvas_map: np.ndarray, height: int, width: int) -> np.ndarray:
        """Brings a map from the canvas to an image's own size.

        Args:
          canvas_map: float32 [H, W], as high and wide as the canvas.
          height: the image's height in pixels.
          width: the image's width in pixels.

        Returns:
          float32 [height, width].
        """
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
    """Brings a mask, [H, W], to a height and width: a pixel is as the one that its middle is in."""
    rows, columns = (
        ((np.arange(side) + 0.5) * pixels / side).astype(np.int64)
        for side, pixels in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def mask_of_size(mask: str | np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Returns a defect's mask at the size of its image.

    Args:
      mask: a file's path, a bool array [H, W], or None for a normal image.
      size: the image's height and width, h and w; a mask of another size is stretched over it.

    Returns:
      bool [h, w].
    """
    if mask is None:
        return np.zeros(size, bool)
    return stretched(decode.read_mask(mask) if isinstance(mask, str) else mask, size)


def as_preparation(size: "Preparation | int | tuple[int, int]") -> Preparation:
    """Returns a preparation; of a size, or the side of a square, the one that squashes to it."""
    if isinstance(size, Preparation):
        return size
    return Preparation((size, size) if isinstance(size, int) else tuple(size))


def _ramps(side, count, common):
    """The weights of each of `count` tiles along an axis: they fall to nothing over what is common.

    Returns float32 [count, side]; those of a pixel add up to one.
    """
    ramps = np.ones([count, side], np.float32)
    rising = (np.arange(common, dtype=np.float32) + 0.5) / common
    ramps[1:, :common] *= rising
    ramps[:-1, side - common :] *= rising[::-1]
    return ramps
