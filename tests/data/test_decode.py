"""From files to pixels: orientation, depth, masks, and what cannot be read."""

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import pattern
from PIL import Image, ImageOps

from cutpaste_tf.data import decode
from cutpaste_tf.files import UserError

RNG = np.random.default_rng(0)
ORIENTATION = 0x0112


def saved(path, image, kind="png", **options):
    path.write_bytes(encoded(image, kind, **options))
    return path


def encoded(image, kind, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "webp", "ppm", "jpeg2000"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_without_loss_give_the_pixels(kind, mode):
    image = Image.fromarray(pattern(RNG)).convert("L" if kind == "gif" else mode)
    options = {"webp": {"lossless": True}, "jpeg2000": {"irreversible": False}}.get(kind, {})
    found = decode.decode(encoded(image, kind, **options), "x")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("tiff", mode) for mode in ("RGBA", "LA", "P", "1", "CMYK")),
        *(("png", mode) for mode in ("RGBA", "LA", "P", "1")),
        ("bmp", "P"),
    ],
)
def test_other_modes_become_colours(kind, mode):
    image = Image.fromarray(pattern(RNG))
    image = image.convert("L").convert(mode) if mode in ("LA", "1") else image.convert(mode)
    found = decode.decode(encoded(image, kind), "x")
    expected = image.convert("L").convert("RGB") if mode == "LA" else image.convert("RGB")
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_broken_files_are_named(monkeypatch):
    programs = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: programs.append(a))
    png = encoded(pattern(RNG), "png")
    deep = encoded(RNG.normal(size=(4, 4)).astype(np.float32), "tiff")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for data, message in (
        (b"", "not an image"),
        (b"hello", "not an image"),
        (script, "not an image"),
        (png[: len(png) // 2], "damaged or truncated"),
        (encoded(pattern(RNG), "tiff")[:300], "damaged|not an image"),
        (deep, "more than 16 bits"),
    ):
        with pytest.raises(UserError, match=f"part7: .*({message})"):
            decode.decode(data, "part7")
    assert not programs
    with pytest.raises(UserError, match=r"/nowhere/x.png: No such file"):
        decode.read("/nowhere/x.png")


@pytest.mark.parametrize("quality", [75, 95])
def test_jpeg_masks_do_not_grow(tmp_path, quality):
    down, across = np.mgrid[:64, :64]
    defect = (down - 30) ** 2 + (across - 25) ** 2 < 15**2
    path = saved(tmp_path / "m", 255 * defect.astype(np.uint8), "jpeg", quality=quality)
    assert abs(decode.read_mask(path).sum() - defect.sum()) < 0.02 * defect.sum()


def transposed(path):
    # Pillow mixes up the pixels of a turned grey TIFF that it opens by its path.
    with Image.open(io.BytesIO(path.read_bytes())) as file:
        return np.asarray(ImageOps.exif_transpose(file))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_images_and_masks_are_turned_as_exif_has_it(tmp_path, kind, orientation):
    upright = pattern(RNG, 48)[:32]
    path = saved(tmp_path / "x", upright, kind, exif=turned(orientation))
    expected = transposed(path)
    assert expected.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    np.testing.assert_array_equal(decode.read(path), expected)
    assert decode.size(path) == expected.shape[:2]
    marked = np.zeros([32, 48], np.uint8)
    marked[:8, :24] = 255
    path = saved(tmp_path / "m", marked, kind, exif=turned(orientation))
    np.testing.assert_array_equal(decode.read_mask(path), transposed(path) > 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_of_16_bits_are_turned_as_exif_has_it(tmp_path, orientation):
    deep = RNG.integers(0, 2**16, [6, 9, 3]).astype(np.uint16)
    png = tf.io.encode_png(deep).numpy()
    # The chunk that Pillow writes of it, behind the header.
    other = encoded(np.zeros([6, 9, 3], np.uint8), "png", exif=turned(orientation))
    start = other.index(b"eXIf") - 4
    chunk = other[start : start + 12 + int.from_bytes(other[start : start + 4], "big")]
    path = tmp_path / "x.png"
    path.write_bytes(png[:33] + chunk + png[33:])
    upright = Image.fromarray((deep >> 8).astype(np.uint8))
    upright.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    np.testing.assert_array_equal(decode.read(path), expected)
    assert decode.size(path) == expected.shape[:2]


def deep_files(levels):
    """Files that hold levels, uint16 [H, W], in 16 bits: grey ones, and one in colours."""
    colours = np.stack([levels, levels // 2, levels], axis=-1)
    return {
        "grey png": encoded(levels, "png"),
        "grey tiff": encoded(levels, "tiff"),
        "colour png": tf.io.encode_png(colours).numpy(),
    }


@pytest.mark.parametrize("kind", ["grey png", "grey tiff", "colour png"])
@pytest.mark.parametrize("bits", decode.BITS[1:])
def test_bits_that_a_camera_fills_become_white(kind, bits, tmp_path):
    levels = RNG.integers(0, 2**bits, [5, 7]).astype(np.uint16)
    levels[0, 0] = 2**bits - 1
    data = deep_files(levels)[kind]
    (tmp_path / "x").write_bytes(data)
    assert decode.filled_bits(tmp_path / "x") == bits
    found = decode.decode(data, "x", bits)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., 0], levels >> (bits - 8))
    half = levels // 2 if kind == "colour png" else levels
    np.testing.assert_array_equal(found[..., 1], half >> (bits - 8))
    assert found.max() == 255
    # Taken for what it is not, an image is dark, or white where it is brighter than is said.
    np.testing.assert_array_equal(decode.decode(data, "x")[..., 0], levels >> 8)
    assert decode.decode(data, "x", 8)[0, 0, 0] == 255


@pytest.mark.parametrize(("kind", "header"), [("pgm", b"P5 3 2 4095\n"), ("ppm", b"P6 3 2 4095\n")])
def test_other_images_are_as_they_are_whatever_a_camera_fills(kind, header, tmp_path):
    """Images of 8 bits, and ppm files, which say themselves what is white."""
    image = pattern(RNG, 9)
    path = saved(tmp_path / "x", image)
    assert decode.filled_bits(path) == 0
    np.testing.assert_array_equal(decode.read(path, 12), image)
    values = np.array([0, 4095, 2048, 1024, 16, 4000], ">u2").repeat(3 if kind == "ppm" else 1)
    path.write_bytes(header + values.tobytes())
    assert decode.filled_bits(path) == 0
    found = decode.read(path, 12)[..., 0].ravel().astype(int)
    assert np.abs(found - values.reshape(6, -1)[:, 0] / 4095 * 255).max() <= 1


MASK = np.zeros([4, 6], bool)
MASK[1:3, 2:5] = True


def colours(value):
    return np.where(MASK[..., None], np.array(value, np.uint8), 0).astype(np.uint8)


def palette(index, table):
    image = Image.fromarray(np.where(MASK, index, 0).astype(np.uint8))
    image.putpalette(table)
    return image


MASKS = {
    "255": Image.fromarray(MASK.astype(np.uint8) * 255),
    "1": Image.fromarray(MASK.astype(np.uint8)),
    "one bit": Image.fromarray(MASK),
    "16 bits": Image.fromarray(MASK.astype(np.uint16)),
    "16 bits, high": Image.fromarray(MASK.astype(np.uint16) * 256),
    "32 bits": Image.fromarray(MASK.astype(np.int32) * 70000),
    "dark red": Image.fromarray(colours([1, 0, 0])),
    "dark blue": Image.fromarray(colours([0, 0, 1])),
    "red, opaque": Image.fromarray(np.dstack([colours([1, 0, 0]), np.full([4, 6], 255, np.uint8)])),
    "red on transparent": Image.fromarray(
        np.dstack([np.full([4, 6, 3], [255, 0, 0], np.uint8), MASK.astype(np.uint8) * 128])
    ),
    "alpha alone": Image.fromarray(
        np.dstack([np.zeros([4, 6, 3], np.uint8), MASK.astype(np.uint8) * 255])
    ),
    "grey and alpha": Image.fromarray(
        np.dstack([MASK.astype(np.uint8) * 7, np.full([4, 6], 255, np.uint8)])
    ),
    "palette": palette(1, [0, 0, 0, 128, 0, 0]),
    "palette, dark": palette(3, [0, 0, 0] * 3 + [0, 1, 0]),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_what_is_not_black_however_it_is_drawn(tmp_path, name):
    path = saved(tmp_path / "m", MASKS[name], "tiff" if name == "32 bits" else "png")
    found = decode.read_mask(path)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "RGBA", "LA", "I;16"])
def test_a_mask_that_is_black_all_over_marks_nothing(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.zeros([4, 6], np.uint16))
    else:
        image = Image.new("RGB", (6, 4)).convert(mode)  # opaque
    assert not decode.read_mask(saved(tmp_path / "m.png", image)).any()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_images_that_are_too_large_are_named(tmp_path, monkeypatch, kind):
    path = saved(tmp_path / "x", pattern(RNG, 20), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 20 // 2)  # from which Pillow warns
    assert decode.read(path).shape == (20, 20, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 20 // 2 - 1)
    for read in (decode.read, decode.read_mask, decode.size):
        with pytest.raises(UserError, match="x: too large an image; at most 178956970 pixels"):
            read(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_never_opened(tmp_path, make):
    make(tmp_path / "x.png")
    for read in (decode.read, decode.size, decode.read_mask, decode.filled_bits):
        with pytest.raises(UserError, match=r"x.png: is not a regular file"):
            read(tmp_path / "x.png")


def test_files_that_are_too_large_or_fill_the_memory_are_named(tmp_path, monkeypatch):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(20 * 10**9)
    with pytest.raises(UserError, match=f"too large a file; at most {decode.LARGEST_FILE} bytes"):
        decode.read(tmp_path / "x.png")

    def full(*unused):
        raise MemoryError

    monkeypatch.setattr(decode, "_levels", full)
    with pytest.raises(UserError, match="takes more memory than there is"):
        decode.decode(b"", "x.png")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "PNG", "GIF", "JPEG2000"])
def test_a_file_whose_second_half_is_not_written_yet_is_named(kind):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    half = len(data) // 2
    assert decode.decode(data, "x").shape == (200, 200, 3)
    with pytest.raises(UserError, match="x: "):
        decode.decode(data[:half] + bytes(len(data) - half), "x")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("colour", [0, 7, 255])
def test_images_of_one_colour_and_zeros_behind_a_jpeg_are_read(kind, colour):
    image = np.full([1500, 1500, 3], colour, np.uint8)
    data = encoded(image, kind) + bytes(10000 if kind == "JPEG" else 0)
    assert decode.decode(data, "x").shape == (1500, 1500, 3)
