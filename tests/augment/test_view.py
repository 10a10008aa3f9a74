"""The input's own augmentation: translation with reflected borders, then colour jitter."""

import itertools

import matplotlib.colors
import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.augment import view

from . import reference

SEED = tf.constant([21, 4])


def noise(*shape):
    return np.random.default_rng(1).uniform(0.3, 0.7, shape).astype(np.float32)


def augment(images, seed=SEED, *, translation, jitter):
    batch, *size = images.shape[:3]
    drawn = view.draw(batch, size, seed, translation=translation, jitter=jitter)
    return view.apply(images, drawn, tuple(size))


def translate(images, maximum, seed=SEED):
    return augment(images, seed, translation=maximum, jitter=0.0)


def shift_of(image, result, limits):
    """The only shift within limits + 1 that makes `result` of `image`."""
    found = [
        shift
        for shift in itertools.product(*(range(-limit - 1, limit + 2) for limit in limits))
        if np.array_equal(reference.shifted(image, *shift), result)
    ]
    assert len(found) == 1, "not a shift with reflected borders"
    return found[0]


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
    result = translate(tf.constant(images), maximum).numpy()
    shifts = [shift_of(image, after, limits) for image, after in zip(images, result, strict=True)]
    assert np.all(np.abs(shifts) <= limits)
    assert len(set(shifts)) > 1  # each image has its own


def test_shifts_are_equally_frequent_and_unrelated():
    size, middle, draws = (40, 64), (20, 30), 2000
    images = np.broadcast_to(reference.coded(1, *size), [draws, *size, 3])
    result = translate(tf.constant(images), 0.1)
    rows, columns, _ = reference.decode(result[:, middle[0], middle[1]])
    reference.assert_equally_frequent(rows - middle[0], range(-4, 5))
    reference.assert_equally_frequent(columns - middle[1], range(-6, 7))
    reference.assert_unrelated(rows, columns)


def test_the_largest_shift_is_reached():
    # 0.29 * 100 is 29, and less in floating point.
    images = np.broadcast_to(np.arange(100.0)[:, None, None], [2000, 100, 1, 1])
    middle = translate(tf.constant(images), 0.29).numpy()[:, 50, 0, 0]
    assert (middle.min(), middle.max()) == (50 - 29, 50 + 29)


@pytest.mark.parametrize("maximum", [0, 0.0, 0.02])
def test_translation_of_less_than_a_pixel_is_none(maximum):
    images = noise(4, 32, 32, 3)
    assert np.array_equal(translate(tf.constant(images), maximum), images)


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float16, tf.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_translation_keeps_shape_and_floating_point_dtypes(dtype, channels):
    images = tf.cast(noise(3, 20, 24, channels) * 200.0, dtype)
    result = translate(images, 0.2)
    assert result.dtype == (tf.float32 if dtype == tf.uint8 else dtype)
    assert result.shape == images.shape
    if dtype == tf.uint8:
        images = tf.cast(images, tf.float32) / 255.0
    for image, after in zip(images.numpy(), result.numpy(), strict=True):
        shift_of(image, after, (4, 4))


def test_seed_decides_the_translation():
    images = tf.constant(noise(8, 32, 32, 3))
    first, again, other = (translate(images, 0.2, tf.constant([1, s])) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_views_without_jitter_is_a_translation():
    images = noise(6, 30, 40, 3)
    result = augment(tf.constant(images), translation=0.1, jitter=0.0).numpy()
    shifts = [shift_of(image, after, (3, 4)) for image, after in zip(images, result, strict=True)]
    assert len(set(shifts)) > 1


def test_views_without_either_changes_nothing():
    images = noise(3, 16, 16, 3)
    result = augment(tf.constant(images), translation=0.0, jitter=0.0)
    assert np.array_equal(result, images)


def test_views_jitters_each_image_within_range_and_leaves_the_hue():
    images = np.repeat(noise(1, 16, 16, 3), 8, axis=0)
    result = augment(tf.constant(images), translation=0.0, jitter=0.1).numpy()
    # Blends with greys move all hues, which are angles around grey, by nothing.
    before, after = (matplotlib.colors.rgb_to_hsv(i.astype(float)) for i in (images, result))
    turn = (after[..., 0] - before[..., 0] + 0.5) % 1.0 - 0.5
    # The hue of a nearly grey pixel is all rounding.
    coloured = np.ptp(images, axis=-1) > 0.05
    np.testing.assert_allclose(turn[coloured], 0.0, atol=1e-4)
    assert np.abs(result - images).max() > 0.01
    # Of brightness alone; contrast and saturation keep the mean grey level.
    brightness = reference.grey(result).mean((1, 2)) / reference.grey(images).mean((1, 2))
    assert np.all(np.abs(brightness - 1.0) <= 0.1 + 1e-5)
    assert len(set(brightness.round(4))) == 8


def test_views_of_an_even_grey_image_is_its_brightness():
    images = tf.fill([1000, 4, 4, 3], 0.5)
    result = augment(images, translation=0.04, jitter=0.3).numpy()
    assert np.ptp(result, axis=(1, 2, 3)).max() < 1e-5
    reference.assert_uniform(result[:, 0, 0, 0] / 0.5, 0.7, 1.3)


def test_translation_and_jitter_are_unrelated():
    size, draws = (32, 32), 1000
    images = np.broadcast_to(0.2 + reference.coded(1, *size), [draws, *size, 3])
    args = {"translation": 0.2}
    shifted = augment(tf.constant(images), jitter=0.0, **args).numpy()
    jittered = augment(tf.constant(images), jitter=0.1, **args).numpy()
    brightness = reference.grey(jittered).mean((1, 2)) / reference.grey(shifted).mean((1, 2))
    reference.assert_unrelated(shifted[:, 16, 16, 0], brightness)
    reference.assert_unrelated(shifted[:, 16, 16, 1], brightness)


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
def test_views_keeps_dtype_shape_and_range(dtype):
    images = tf.cast(np.random.default_rng(2).integers(0, 2, (4, 16, 20, 3)), dtype)
    result = augment(images, translation=0.1, jitter=0.5)
    assert result.dtype == dtype
    assert result.shape == images.shape
    assert 0.0 <= result.numpy().min() <= result.numpy().max() <= 1.0


def test_a_crop_is_a_window_of_its_own_image_and_every_place_is_as_likely():
    draws, size = 4000, 13
    image = np.arange(16 * 15 * 2, dtype=np.uint8).reshape(16, 15, 2)
    images = np.broadcast_to(image, [draws, *image.shape])
    corners = view.draw_crops(draws, (16, 15), size, SEED)
    drawn = view.draw(draws, (size, size), SEED, translation=0.0, jitter=0.0, crops=corners)
    crops = 255.0 * view.apply(tf.constant(images), drawn, (size, size)).numpy()
    crops = np.round(crops).astype(np.uint8)
    assert crops.shape == (draws, size, size, 2)
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
    seen = set()
    for one, *corner in zip(views, *(axis.numpy() for axis in corners), strict=True):
        places = [
            (down, right)
            for down in range(-limit, limit + 1)
            for right in range(-limit, limit + 1)
            if np.array_equal(
                padded[
                    corner[0] + down + limit : corner[0] + down + limit + size,
                    corner[1] + right + limit : corner[1] + right + limit + size,
                ],
                one,
            )
        ]
        assert len(places) == 1
        seen.update(places)
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(-3, 4))


def test_brightness_contrast_and_saturation_have_a_range_each():
    draws = 300
    pictures = np.repeat(noise(1, 12, 12, 3), draws, axis=0)
    grey = pictures @ np.array([0.299, 0.587, 0.114], np.float32)

    def jittered(*maximum):
        return augment(tf.constant(pictures), translation=0.0, jitter=maximum).numpy()

    brightness, contrast, saturation = (
        jittered(0.3, 0.0, 0.0),
        jittered(0.0, 0.3, 0.0),
        jittered(0.0, 0.0, 0.3),
    )
    factors = (brightness / pictures).mean(axis=(1, 2, 3))
    reference.assert_uniform(factors, 0.7, 1.3)
    mean = grey.mean(axis=(1, 2))[:, None, None, None]
    factors = ((contrast - mean) / (pictures - mean)).mean(axis=(1, 2, 3))
    reference.assert_uniform(factors, 0.7, 1.3)
    from_grey = pictures - grey[..., None]
    factors = ((saturation - grey[..., None]) * from_grey).sum((1, 2, 3)) / (from_grey**2).sum(
        (1, 2, 3)
    )
    reference.assert_uniform(factors, 0.7, 1.3)
