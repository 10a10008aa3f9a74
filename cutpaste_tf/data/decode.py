"""Decodes image files, in the same way for training, prediction, masks and pages.

Only colour images of 16 bits need TensorFlow.
"""

import contextlib
import io
import os
import pathlib
import stat
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cutpaste_tf.files import UserError, as_text

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".jp2", ".heic", ".avif", ".exr", ".pgm", ".ppm"),
)
# The formats that are read, whatever the file's name ends in. For none of them does Pillow start
# another program.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM")
BITS = (8, 10, 12, 14, 16)  # the bit depths of cameras
# Pixels of the largest image that is read, Pillow's own limit: 13,000 x 13,000.
LARGEST = 178_956_970
# Bytes of the largest file that is read: such an image with 16 bits a colour, uncompressed.
LARGEST_FILE = 6 * LARGEST + 2**20
_ORIENTATION = 0x0112  # EXIF's tag
_REASONS = {
    UnidentifiedImageError: "not an image of a known format",
    Image.DecompressionBombError: (
        f"too large an image; at most {LARGEST} pixels are read, 13,000 x 13,000"
    ),
    MemoryError: "takes more memory than there is",
    # Pillow's decoders raise almost anything on a damaged file.
    Exception: "a damaged or truncated image; remove it or save it again",
}
# Pillow warns of images above half of its limit.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read(path: str | os.PathLike, bits: int = 16) -> np.ndarray:
    """Reads an image file, or the first of its frames, as `decode` does."""
    return decode(contents(path), str(path), bits)


def contents(path: str | os.PathLike) -> bytes:
    """Returns a file's bytes; a UserError names the file where that fails."""
    with _naming(path):
        _check_file(path)
        return pathlib.Path(path).read_bytes()


def decode(data: bytes, name: str, bits: int = 16) -> np.ndarray:
    """Decodes an image of any format in `FORMATS`.

    Args:
      data: a file's bytes.
      name: the image's name in messages.
      bits: how many of 16 bits the camera fills, from 8 to 16: the largest number that they hold
        becomes white. Images of 8 bits are taken as they are.

    Returns:
      uint8 [H, W, 3], turned by its EXIF orientation; grey is repeated, an alpha channel dropped.

    Raises:
      UserError: naming the image and what is wrong with it.
    """
    with _naming(name):
        pixels = _levels(data, bits)
    if pixels.dtype != np.uint8:
        pixels = np.minimum(pixels >> (bits - 8), 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return np.ascontiguousarray(pixels)


def filled_bits(path: str | os.PathLike) -> int:
    """Returns how many of an image's 16 bits are filled, one of `BITS`; 0 for 8-bit images."""
    with _naming(path), _opened(path) as file:
        # A ppm or pgm file names its largest level, white.
        is_grey = file.mode.startswith("I") and file.format != "PPM"
        if not is_grey and not _has_deep_colours(file):
            return 0
        largest = int(_levels(pathlib.Path(path).read_bytes(), 16).max())
    return next(bits for bits in BITS if largest < 2**bits)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Reads a defect's mask at its own size, bool [H, W], turned by its EXIF orientation.

    The mask is True where a colour is not zero, in a JPEG above 63 of 255. An alpha channel counts
    if it varies: transparent pixels are False, and if all colours are zero, the other pixels are
    True.
    """
    data = contents(path)
    with _naming(path), _opened(io.BytesIO(data)) as file:
        turned = ImageOps.exif_transpose(file)
        if file.format == "JPEG":  # Its compression leaves grey traces around a defect.
            turned = turned.point(lambda level: 255 * (level > 63))
        if turned.mode in ("RGB", "L", "1") or turned.mode.startswith(("I", "F")):
            pixels = np.asarray(turned)
            return pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0
        colours = np.asarray(turned.convert("RGBA"))
    defect, alpha = colours[..., :3].any(axis=-1), colours[..., 3]
    # A mask may be drawn in the alpha channel alone, or on a transparent background.
    if alpha.min() != alpha.max():
        return alpha > 0 if not defect.any() else defect & (alpha > 0)
    return defect


def size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the height and width that `read` gives an image; reads the file's header alone."""
    with _naming(path), _opened(path) as file:
        # Newer versions of Pillow turn a TIFF's size themselves.
        stored = (file.tag_v2[256], file.tag_v2[257]) if file.format == "TIFF" else file.size
        # EXIF's orientations from 5 to 8 are quarter turns.
        return stored if file.getexif().get(_ORIENTATION) in range(5, 9) else stored[::-1]


class _UnreadableError(Exception):
    """A file that cannot be used, though it may be sound; the message says why."""


@contextlib.contextmanager
def _naming(name):
    """Turns an error in reading an image into a UserError that names the image."""
    try:
        yield
    except Exception as error:
        if isinstance(error, _UnreadableError):
            reason = str(error)
        elif isinstance(error, OSError) and error.strerror:  # Pillow's errors have no strerror.
            reason = error.strerror
        else:
            reason = next(text for kind, text in _REASONS.items() if isinstance(error, kind))
        raise UserError(f"{name}: {reason}") from error


def _check_file(path):
    """Refuses what must not be opened: a pipe waits for ever, a huge file takes all memory."""
    if as_text(path) != os.fspath(path):
        raise _UnreadableError("its name is not UTF-8; rename it")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise _UnreadableError("is not a regular file")
    if status.st_size > LARGEST_FILE:
        raise _UnreadableError(f"too large a file; at most {LARGEST_FILE} bytes are read")


def _opened(source):
    """Opens a file, or its bytes, with Pillow, which reads the header alone."""
    if not isinstance(source, io.BytesIO):
        _check_file(source)
    Image.init()
    file = Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    if not file.width * file.height:
        raise _UnreadableError("has no pixels")
    return file


def _ends_in_zeros(data, kind):
    """Whether a file ends in zeros instead of the image, as far as its format tells."""
    if kind == "WEBP":  # Its header gives the image's length.
        data = data[: 8 + int.from_bytes(data[4:8], "little")]
    elif kind not in ("JPEG", "MPO", "AVIF"):
        return False
    image = data.rstrip(b"\0")
    # Cameras may put zeros behind a jpeg's end marker; a webp of one colour ends in a few zeros.
    return len(data) - len(image) > max(64, len(data) // 8) and not image.endswith(b"\xff\xd9")


def _has_deep_colours(file):
    """Whether an image has 16 bits a colour, of which Pillow keeps 8."""
    if file.mode not in ("RGB", "RGBA"):
        return False
    if file.format == "PNG":
        return bool(file.tile) and "16" in str(file.tile[0][3])
    return file.format == "TIFF" and 16 in file.tag_v2.get(258, ())


def _levels(data, bits):
    """Decodes to uint8 or, from files with 16 bits, uint16; [H, W] or [H, W, 3]."""
    with _opened(io.BytesIO(data)) as file:
        if _ends_in_zeros(data, file.format):
            raise _UnreadableError("its end is not written yet, or lost")
        is_deep = _has_deep_colours(file)
        if is_deep and file.format == "PNG":
            return _deep_png(data, file.getexif().get(_ORIENTATION, 1))
        turned = ImageOps.exif_transpose(file)
        if file.mode.startswith("I") or file.mode == "F":
            pixels = np.asarray(turned)
            # Pillow's mode I has 16 or 32 bits; 32 bits and fractions have no known range.
            if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
                raise _UnreadableError("its pixels have more than 16 bits; save it with 8 or 16")
            if file.format == "PPM":
                return (pixels >> 8).astype(np.uint8)
            return pixels.astype(np.uint16)
        pixels = np.asarray(turned.convert("RGB"))
        if is_deep and bits < 16:
            raise _UnreadableError("its colours have fewer than 16 bits in 16; save it as png")
        return pixels.astype(np.uint16) * 257 if is_deep else pixels


def _deep_png(data, orientation):
    """The colours of a png with 16 bits, uint16 [H, W, 3], turned."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise _UnreadableError(
            "a png with 16 bits a colour needs TensorFlow; save it with 8"
        ) from error
    with tf.device("/CPU:0"):
        pixels = tf.io.decode_png(data, channels=3, dtype=tf.uint16).numpy()
    channels = [Image.fromarray(pixels[..., channel]) for channel in range(3)]
    for channel in channels:
        channel.getexif()[_ORIENTATION] = orientation
    return np.stack([ImageOps.exif_transpose(channel) for channel in channels], axis=-1)
