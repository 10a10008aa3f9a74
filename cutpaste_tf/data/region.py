"""The region of interest: a mask's file, or all but a fixed background."""

import pathlib

import numpy as np
import scipy.ndimage

from cutpaste_tf.config import Config
from cutpaste_tf.data import decode, pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import Split
from cutpaste_tf.files import UserError

_SIDE = 256  # the side, in pixels, to which images are squashed to find a background
_IMAGES = 100  # the most training images that are looked at
# A fixed background is smooth and steady: a pixel's difference to the next pixel, and its standard
# deviation over the images, are at most so many levels of 256. Where one image differs by more than
# four times that from the mean, an object lies in that image.
_LEVELS = 8.0
_MARGIN = 5  # pixels, of the squashed images, that the region is extended by


def find(config: Config, train: Split, bits: int = 16) -> np.ndarray | None:
    """Finds the region of interest that --roi asks for; `bits` is as in `decode.decode`.

    Returns bool [h, w], to be stretched over every image, True everywhere if no background is
    found; None for --roi=none. A file that cannot be read or holds no region is a UserError.
    """
    if config.roi == "none":
        return None
    if config.roi == "auto":
        preparation = Preparation((_SIDE, _SIDE), bits=bits)
        images = pipeline.prepare(train.subset(train.spread(_IMAGES)), preparation)
        region = without_background(images.canvases(range(images.count)))
        return np.ones([1, 1], bool) if region is None else region
    if not pathlib.Path(config.roi).is_file():
        raise UserError(f"--roi={config.roi}: there is no such file")
    region = decode.read_mask(config.roi)
    if not region.any():
        raise UserError(f"--roi={config.roi}: is black all over; the region must not be black")
    return region


def without_background(images: np.ndarray) -> np.ndarray | None:
    """Finds what is not a fixed background in normal images, uint8 [N, H, W, 3].

    Returns bool [H, W], False on pixels that are smooth, the same in all images, and connected to
    the images' border; None if those are less than a twentieth of all pixels, or nearly all.
    """
    values = images.astype(np.float32)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    furthest = np.abs(values - mean).max(axis=0)
    steady = ((deviation <= _LEVELS) & (furthest <= 4.0 * _LEVELS)).all(axis=-1)
    steps = [np.abs(np.gradient(mean, axis=axis)).max(axis=-1) for axis in (0, 1)]
    # Background is what is steady and smooth all the way to the images' border.
    region = scipy.ndimage.binary_fill_holes(~(steady & (np.maximum(*steps) <= _LEVELS)))
    # Specks are noise. The region has a margin, since an object's position varies by some pixels.
    region = scipy.ndimage.binary_opening(region, np.ones([3, 3]))
    region = scipy.ndimage.binary_dilation(region, np.ones([3, 3]), iterations=_MARGIN)
    return region if 0.01 < region.mean() < 0.95 else None
