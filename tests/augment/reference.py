"""What the augmentation is expected to do, one image and one pixel at a time, in NumPy and PIL.

Written from the paper's Appendix A.2 and the docstrings, without TensorFlow, and slow on purpose.
"""

import cmath
import math

import matplotlib.colors
import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def noise(*shape):
    """Images whose values leave room for jitter on both sides."""
    return np.random.default_rng(1).uniform(0.3, 0.7, shape).astype(np.float32)


# Colours.


def grey(rgb):
    """ITU-R 601 luma, which PIL's and torchvision's greyscale use."""
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def turn_hue(rgb, turn):
    hsv = matplotlib.colors.rgb_to_hsv(rgb)
    hsv[..., 0] = (hsv[..., 0] + turn) % 1.0
    return matplotlib.colors.hsv_to_rgb(hsv)


def jitter(rgb, order, factors, turn, weights=None):
    """Jitters pixels [N, 3], one transformation after another; no hue if `turn` is None.

    Clips before the hue is turned and at the end, nowhere else.
    """
    rgb = np.asarray(rgb, np.float64)
    for transformation in order:
        if transformation == BRIGHTNESS:
            rgb = factors[BRIGHTNESS] * rgb
        elif transformation == CONTRAST:
            mean = np.average(grey(rgb), weights=weights)
            rgb = factors[CONTRAST] * rgb + (1.0 - factors[CONTRAST]) * mean
        elif transformation == SATURATION:
            rgb = factors[SATURATION] * rgb + (1.0 - factors[SATURATION]) * grey(rgb)[..., None]
        elif turn is not None:
            rgb = turn_hue(np.clip(rgb, 0.0, 1.0), turn)
    return np.clip(rgb, 0.0, 1.0)


def jitter_with_pil(image, order, factors, turn):
    """Jitters a uint8 image [H, W, 3] as torchvision's ColorJitter does a PIL image."""
    image = Image.fromarray(image)
    for transformation in order:
        if transformation == BRIGHTNESS:
            image = ImageEnhance.Brightness(image).enhance(factors[BRIGHTNESS])
        elif transformation == CONTRAST:
            image = ImageEnhance.Contrast(image).enhance(factors[CONTRAST])
        elif transformation == SATURATION:
            image = ImageEnhance.Color(image).enhance(factors[SATURATION])
        elif turn is not None:
            hue, saturation, value = image.convert("HSV").split()
            hue = (np.asarray(hue, np.int32) + round(turn * 255)) % 256
            turned = (Image.fromarray(hue.astype(np.uint8)), saturation, value)
            image = Image.merge("HSV", turned).convert("RGB")
    return np.asarray(image)


# Places.


def coded(batch, height, width):
    """Images whose every pixel tells its row, its column and its image, exactly in float32."""
    assert max(batch, height, width) <= 257
    images = np.zeros([batch, height, width, 3], np.float32)
    images[..., 0] = np.arange(height)[:, None] / 256
    images[..., 1] = np.arange(width) / 256
    images[..., 2] = np.arange(batch)[:, None, None] / 256
    return images


def decode(pixels):
    """The rows, columns and images that pixels of `coded` images were taken from."""
    codes = np.asarray(pixels, np.float64) * 256
    whole = np.rint(codes).astype(int)
    assert np.array_equal(codes, whole), "a colour that is not of the images"
    return whole[..., 0], whole[..., 1], whole[..., 2]


def written(edit, image, size):
    """Which pixels of an image an edit writes."""
    mask = np.zeros(size[0] * size[1], bool)
    mask[edit.index[image].numpy()] = True
    return mask.reshape(size)


def bounding_box(mask):
    """Top, left, height and width of the smallest box around the true pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def is_box(mask):
    top, left, height, width = bounding_box(mask)
    return bool(mask[top : top + height, left : left + width].all())


def is_one_piece_without_holes(mask):
    # Corners connect: a scar one pixel wide is a staircase.
    pieces = ndimage.label(mask, np.ones([3, 3]))[1]
    return pieces == 1 and np.array_equal(ndimage.binary_fill_holes(mask), mask)


def shifted(image, down, right):
    """The image moved by whole pixels; the border is filled by reflection."""
    height, width = image.shape[:2]
    pad = max(abs(down), abs(right))
    padded = np.pad(image, [(pad, pad), (pad, pad), (0, 0)], mode="reflect")
    return padded[pad - down : pad - down + height, pad - right : pad - right + width]


# Rotation.


def turned_extent(height, width, angle):
    """Height and width, not rounded, of the upright box around a turned rectangle."""
    corners = [
        complex(sx * width / 2, sy * height / 2) * cmath.exp(1j * angle)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return (
        max(c.imag for c in corners) - min(c.imag for c in corners),
        max(c.real for c in corners) - min(c.real for c in corners),
    )


def turned_box(height, width, angle):
    """The upright box in whole pixels; 1e-6 forgives the error of 7.0000000001."""
    return tuple(math.ceil(extent - 1e-6) for extent in turned_extent(height, width, angle))


def turned_back(row, column, height, width, angle, box_height, box_width):
    """Where in an upright rectangle the centre of a pixel of its turned box comes from.

    Returns y (down) and x (right) from the rectangle's top left corner, not rounded. The pixels
    are points of the complex plane, so y points up in between.
    """
    point = complex(column + 0.5 - box_width / 2, box_height / 2 - row - 0.5)
    back = point * cmath.exp(-1j * angle)
    return height / 2 - back.imag, width / 2 + back.real


# Statistics. All draws have fixed seeds; the bound only has to survive a change of generator.
LEAST_P = 1e-4


def assert_uniform(values, low, high):
    """Real numbers are spread uniformly over [low, high]."""
    values = np.asarray(values, np.float64)
    slack = 1e-6 * max(abs(low), abs(high))
    assert values.min() >= low - slack
    assert values.max() <= high + slack
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > LEAST_P


def assert_equally_frequent(values, expected):
    """Each of the expected values, and no other, occurs about equally often."""
    values, counts = np.unique(np.asarray(values), return_counts=True)
    assert values.tolist() == sorted(expected)
    assert len(counts) == 1 or stats.chisquare(counts).pvalue > LEAST_P


def assert_unrelated(first, second):
    """Two series of draws have no monotonic relation."""
    assert stats.spearmanr(np.asarray(first), np.asarray(second)).pvalue > LEAST_P
