"""From a file to pixels: the one rule for training, prediction, masks and pages.

Nothing here imports TensorFlow, but for colour images of 16 bits.
"""

import io
import os
import pathlib
import stat
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cutpaste_tf.files import UserError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".jp2", ".heic", ".avif", ".exr", ".pgm", ".ppm"),
)
# What Pillow may take a file for, whatever its name: no formats that start other programs.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM")
BITS = (8, 10, 12, 14, 16)  # that cameras have
# Pixels of the largest image that is read, Pillow's own limit: 13,000 x 13,000.
LARGEST = 178_956_970
# Bytes of the largest file that is read: such an image with 16 bits a colour, uncompressed.
LARGEST_FILE = 6 * LARGEST + 2**20
_MEMORY = "takes more memory than there is"
_DEEP = "its pixels have more than 16 bits; save it with 8 or 16"
_DEEP_COLOURS = "its colours have fewer than 16 bits in 16; save it as png"
# It warns from half of the limit on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read(path: str | os.PathLike, bits: int = 16) -> np.ndarray:
    """Reads an image.

    Args:
      path: the file. Of several frames the first is taken.
      bits: as in `decode`.

    Returns:
      uint8 [H, W, 3], as `decode` does.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    return decode(contents(path), str(path), bits)


def contents(path: str | os.PathLike) -> bytes:
    """Returns a file's bytes; a UserError names the file where that fails."""
    _check_file(path)
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: {_MEMORY}") from error


def _check_file(path):
    """Refuses what must not be opened: a pipe waits for ever, a huge file takes all memory."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # A ValueError: a name with a zero byte.
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UserError(f"{path}: is {kind}")
    if status.st_size > LARGEST_FILE:
        raise UserError(f"{path}: too large a file; at most {LARGEST_FILE} bytes are read")


def decode(data: bytes, name: str, bits: int = 16) -> np.ndarray:
    """Decodes an image of any format in `FORMATS`.

    Args:
      data: a file's bytes.
      name: what to call it in messages.
      bits: of a file with 16 bits, how many of them the camera fills, from 8 to 16: the largest
        number that they hold becomes white.

    Returns:
      uint8 [H, W, 3], turned as its EXIF orientation has it; grey is repeated, an alpha channel
      dropped.

    Raises:
      UserError: naming the image and what is wrong with it.
    """
    pixels = _try(name, lambda: _levels(data, bits))
    if pixels.dtype != np.uint8:
        pixels = np.minimum(pixels >> (bits - 8), 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return np.ascontiguousarray(pixels)


def filled_bits(path: str | os.PathLike) -> int:
    """Returns how many bits of an image's levels are filled, of `BITS`; 0 of 8-bit images."""

    def is_deep():
        with _opened(path) as file:
            # A ppm or pgm file says itself what is white.
            grey = file.mode.startswith("I") and file.format != "PPM"
            return grey or _deep_colours(file) is not None

    if not _try(str(path), is_deep):
        return 0
    data = contents(path)
    largest = int(_try(str(path), lambda: _levels(data, 16)).max())
    return next(bits for bits in BITS if largest < 2**bits)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Reads a defect's mask at its own size.

    Args:
      path: the file.

    Returns:
      bool [H, W], turned as its EXIF orientation has it. True where any channel is not zero;
      where all colours are zero, where an alpha channel that is not the same everywhere is not.

    Raises:
      UserError: naming the file and what is wrong with it.
    """

    def mask():
        with _opened(io.BytesIO(contents(path))) as file:
            file = ImageOps.exif_transpose(file)
            if file.mode in ("RGB", "L", "1") or file.mode.startswith(("I", "F")):
                pixels = np.asarray(file)
                return pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0
            colours = np.asarray(file.convert("RGBA"))
        defect, alpha = colours[..., :3].any(axis=-1), colours[..., 3]
        # A mask may be drawn in an alpha channel alone, or on a transparent sheet.
        if alpha.min() != alpha.max():
            return alpha > 0 if not defect.any() else defect & (alpha > 0)
        return defect

    return _try(str(path), mask)


def size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns an image's height and width in pixels, as `read` turns it; reads its header alone."""

    def turned():
        with _opened(path) as file:
            width, height = file.size
            # EXIF's orientations from 5 on are turned by a quarter.
            return (width, height) if file.getexif().get(0x0112, 1) >= 5 else (height, width)

    return _try(str(path), turned)


def count_pixels(data: bytes) -> int:
    """Returns how many pixels an image has, by its header; 0 of what is none."""
    try:
        with _opened(io.BytesIO(data)) as file:
            return file.width * file.height
    except Exception:  # Whatever it is, decoding says so.
        return 0


def _try(name, work):
    """Does some work on an image; what is wrong with it is one line with its name."""
    try:
        return work()
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{name}: too large an image; at most {LARGEST} pixels are read, 13,000 x 13,000"
        ) from error
    except _Unreadable as error:
        raise UserError(f"{name}: {error}") from error
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{name}: may not be read") from error
    except MemoryError as error:
        raise UserError(f"{name}: {_MEMORY}") from error
    # Pillow's decoders raise almost anything on a damaged file.
    except Exception as error:
        raise UserError(
            f"{name}: a damaged or truncated image; remove it or save it again"
        ) from error


class _Unreadable(Exception):
    """An image that is sound, but none that can be taken."""


def _opened(source):
    """A file, or its bytes, as Pillow sees it: its header is read alone."""
    if not isinstance(source, io.BytesIO):
        _check_file(source)
    Image.init()
    file = Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    if not file.width * file.height:
        raise _Unreadable("has no pixels")
    return file


def _ends_in_zeros(data, kind):
    """Whether a file's end is zeros in place of the image, where its format can tell."""
    if kind == "WEBP":  # What follows the length that it gives is not the image.
        data = data[: 8 + int.from_bytes(data[4:8], "little")]
    elif kind not in ("JPEG", "MPO", "AVIF"):
        return False
    image = data.rstrip(b"\0")
    # Cameras fill a jpeg up behind its end marker; a webp of one colour has zeros too, but few.
    return len(data) - len(image) > max(64, len(data) // 8) and not image.endswith(b"\xff\xd9")


def _deep_colours(file):
    """Of an image with 16 bits a colour, which Pillow halves, the format; else None."""
    if file.format == "PNG" and file.mode in ("RGB", "RGBA") and file.tile:
        return "PNG" if "16" in str(file.tile[0][3]) else None
    if file.format == "TIFF" and file.mode in ("RGB", "RGBA"):
        return "TIFF" if 16 in file.tag_v2.get(258, ()) else None
    return None


def _levels(data, bits):
    """uint8 or, of files with 16 bits, uint16; [H, W] or [H, W, 3]."""
    with _opened(io.BytesIO(data)) as file:
        if _ends_in_zeros(data, file.format):
            raise _Unreadable("its end is not written yet, or lost")
        deep = _deep_colours(file)
        if deep == "PNG":
            return _oriented(_png16(data), file.getexif().get(0x0112, 1))
        if file.mode.startswith("I") or file.mode == "F":
            pixels = np.asarray(ImageOps.exif_transpose(file))
            # Pillow opens 16 bits as I in some formats; 32 bits and fractions have no known range.
            if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
                raise _Unreadable(_DEEP)
            return (
                (pixels >> 8).astype(np.uint8) if file.format == "PPM" else pixels.astype(np.uint16)
            )
        file = ImageOps.exif_transpose(file)
        if file.mode in ("LA", "La"):
            file = file.convert("L")
        pixels = np.asarray(file.convert("RGB"))
        if deep and bits < 16:
            raise _Unreadable(_DEEP_COLOURS)
        return pixels.astype(np.uint16) * 257 if deep else pixels


def _png16(data):
    """The colours of a png with 16 bits, uint16 [H, W, 3]."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise _Unreadable("a png with 16 bits a colour takes TensorFlow; save it with 8") from error

    with tf.device("/CPU:0"):
        return tf.io.decode_png(data, channels=3, dtype=tf.uint16).numpy()


def _oriented(pixels, orientation):
    """What ImageOps.exif_transpose does, of an array."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    mirrored = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    down, across = mirrored.get(orientation, (0, 0))
    return pixels[:: -1 if down else 1, :: -1 if across else 1]
