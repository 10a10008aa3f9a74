"""The input's own augmentation: translation with reflected borders, then colour jitter."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.augment import view

from . import reference
from .reference import noise

SEED = tf.constant([21, 4])


def augment(images, *, translation=0.0, jitter=0.0):
    batch, *size = images.shape[:3]
    drawn = view.draw(batch, size, SEED, translation=translation, jitter=jitter)
    return view.apply(images, drawn, tuple(size))


def shift_of(image, result, limits):
    """The only shift within limits + 1 that makes `result` of `image`."""
    shifts = [
        shift
        for shift in itertools.product(*(range(-limit - 1, limit + 2) for limit in limits))
        if np.array_equal(reference.shifted(image, *shift), result)
    ]
    assert len(shifts) == 1, "not a shift with reflected borders"
    return shifts[0]


@pytest.mark.parametrize(
    ("size", "maximum", "limits"),
    [
        ((32, 32), 0.04, (1, 1)),
        ((33, 50), 0.1, (3, 5)),  # of height and width, each of its own
        ((20, 12), 0.25, (5, 3)),
        ((9, 8), 0.5, (4, 4)),  # half the image is border
    ],
)
def test_translation_equals_padding_by_reflection_and_cropping(size, maximum, limits):
    images = noise(12, *size, 3)
    result = augment(tf.constant(images), translation=maximum).numpy()
    shifts = [shift_of(image, after, limits) for image, after in zip(images, result, strict=True)]
    assert np.all(np.abs(shifts) <= limits)
    assert len(set(shifts)) > 1  # each image has its own


def test_shifts_are_equally_frequent():
    size, middle, draws = (40, 64), (20, 30), 2000
    images = np.broadcast_to(reference.coded(1, *size), [draws, *size, 3])
    result = augment(tf.constant(images), translation=0.1)
    rows, columns, _ = reference.decode(result[:, middle[0], middle[1]])
    reference.assert_equally_frequent(rows - middle[0], range(-4, 5))
    reference.assert_equally_frequent(columns - middle[1], range(-6, 7))


def test_the_largest_shift_is_reached():
    # 0.29 * 100 is 29, and less in floating point.
    images = np.broadcast_to(np.arange(100.0)[:, None, None], [2000, 100, 1, 1])
    middle = augment(tf.constant(images), translation=0.29).numpy()[:, 50, 0, 0]
    assert (middle.min(), middle.max()) == (50 - 29, 50 + 29)


@pytest.mark.parametrize("maximum", [0, 0.0, 0.02])
def test_translation_of_less_than_a_pixel_is_none(maximum):
    images = noise(4, 32, 32, 3)
    assert np.array_equal(augment(tf.constant(images), translation=maximum), images)


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float16, tf.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_translation_keeps_shape_and_floating_point_dtypes(dtype, channels):
    images = tf.cast(noise(3, 20, 24, channels) * 200.0, dtype)
    result = augment(images, translation=0.2)
    assert result.dtype == (tf.float32 if dtype == tf.uint8 else dtype)
    assert result.shape == images.shape
    if dtype == tf.uint8:
        images = tf.cast(images, tf.float32) / 255.0
    for image, after in zip(images.numpy(), result.numpy(), strict=True):
        shift_of(image, after, (4, 4))


def test_a_crop_is_a_window_of_its_own_image_and_every_place_is_as_likely():
    draws, size = 4000, 13
    image = np.arange(16 * 15 * 2, dtype=np.uint8).reshape(16, 15, 2)
    images = np.broadcast_to(image, [draws, *image.shape])
    corners = view.draw_crops(draws, (16, 15), size, SEED)
    drawn = view.draw(draws, (size, size), SEED, translation=0.0, jitter=0.0, crops=corners)
    crops = 255.0 * view.apply(tf.constant(images), drawn, (size, size)).numpy()
    crops = np.round(crops).astype(np.uint8)
    places = np.zeros([4, 3], int)
    for crop in crops:
        y, x = np.argwhere((image == crop[0, 0]).all(-1))[0]
        np.testing.assert_array_equal(crop, image[y : y + size, x : x + size])
        places[y, x] += 1
    assert np.abs(places / draws - 1 / 12).max() < 5 * np.sqrt(1 / 12 / draws)


def test_a_crop_is_shifted_within_its_image_and_reflected_at_the_images_border_alone():
    draws, size, limit = 500, 10, 3  # 0.3 of the crop's side, not of the image's
    image = reference.coded(1, 16, 15)[0]
    images = np.broadcast_to(image, [draws, *image.shape])
    corners = view.draw_crops(draws, (16, 15), size, SEED)
    drawn = view.draw(draws, (size, size), SEED, translation=0.3, jitter=0.0, crops=corners)
    views = view.apply(tf.constant(images), drawn, (size, size)).numpy()
    padded = np.pad(image, [[limit, limit], [limit, limit], [0, 0]], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))
    windows = np.moveaxis(windows, 2, -1)
    shifts = set()
    for one, y, x in zip(views, *(axis.numpy() for axis in corners), strict=True):
        near = windows[y : y + 2 * limit + 1, x : x + 2 * limit + 1]
        places = np.argwhere((near == one).all((2, 3, 4))) - limit
        assert len(places) == 1
        shifts.add(tuple(places[0]))
    assert {down for down, _ in shifts} == {right for _, right in shifts} == set(range(-3, 4))


def test_brightness_contrast_and_saturation_have_a_range_each():
    pictures = np.repeat(noise(1, 12, 12, 3), 300, axis=0)
    grey = reference.grey(pictures)[..., None]
    # A blend moves each pixel towards black, the mean grey level or its own grey.
    ends = {0: 0.0, 1: grey.mean((1, 2), keepdims=True), 2: grey}
    for number, end in ends.items():
        jitter = tuple(0.3 * (number == k) for k in range(3))
        result = augment(tf.constant(pictures), jitter=jitter).numpy()
        factors = ((result - end) * (pictures - end)).sum((1, 2, 3))
        factors /= ((pictures - end) ** 2).sum((1, 2, 3))
        reference.assert_uniform(factors, 0.7, 1.3)
        # And nowhere else, so that the hue stays.
        expected = end + factors[:, None, None, None] * (pictures - end)
        np.testing.assert_allclose(result, np.clip(expected, 0.0, 1.0), atol=1e-4)
