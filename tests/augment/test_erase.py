"""Cutout's variants against what NumPy makes of the same pixels."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cutpaste_tf.augment import erase, paste, proxy

from . import edits, reference
from .reference import noise


def filled(shape, fill):
    """A function of images, a seed and ranges that erases a patch of each image."""
    return functools.partial(edits.edit_of, proxy.erase_kind(shape, fill))


RECTANGLES = {
    "cutout": filled(proxy.RECTANGLE, erase.fill_with_grey),
    "cutout_mean": filled(proxy.RECTANGLE, erase.fill_with_mean),
    "cutout_color": filled(proxy.RECTANGLE, erase.fill_with_color),
    "confetti": filled(proxy.RECTANGLE, erase.shift_color),
}
FILLS = RECTANGLES | {"scar": filled(proxy.THIN, erase.fill_with_color)}
SEED = tf.constant([4, 2])


def applied(images, edit):
    """The images with an edit written into them, by NumPy."""
    result = np.array(images)
    flat = result.reshape(len(result), -1, 3)
    for image, index, pixels in zip(flat, edit.index.numpy(), edit.pixels.numpy(), strict=True):
        image[index] = pixels
    return result


@pytest.mark.parametrize("name", RECTANGLES)
@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    height=st.integers(24, 60),
    width=st.integers(24, 60),
    seed=st.integers(0, 2**31 - 1),
    low=st.floats(0.02, 0.1),
    more=st.floats(0.0, 0.1),
)
def test_a_rectangle_of_cutpastes_area_is_filled_and_no_other_pixel(
    name, height, width, seed, low, more
):
    images = noise(3, height, width, 3)
    images *= np.float32([[[[1.0]]], [[[0.5]]], [[[1.2]]]])  # each of its own mean
    edit = RECTANGLES[name](
        tf.constant(images), tf.constant([seed, 1]), area_ratio=(low, low + more)
    )
    after, size = applied(images, edit), (height, width)
    for number, (one, other) in enumerate(zip(images, after, strict=True)):
        mask = reference.written(edit, number, size)
        assert reference.is_box(mask)
        box_height, box_width = reference.bounding_box(mask)[2:]
        assert (box_height - 0.5) * (box_width - 0.5) <= (low + more) * height * width * 1.001
        assert (box_height + 0.5) * (box_width + 0.5) >= low * height * width * 0.999
        assert np.array_equal(one[~mask], other[~mask])
        inside = other[mask]
        if name == "cutout":
            assert np.all(inside == 0.5)
        elif name == "cutout_mean":
            expected = one.astype(np.float64).mean((0, 1))
            np.testing.assert_allclose(inside, np.broadcast_to(expected, inside.shape), atol=5e-5)
        elif name == "cutout_color":
            assert len(np.unique(inside, axis=0)) == 1
        else:
            # One shift for the whole patch, of each channel; what it would take out of [0, 1] is
            # clipped.
            for channel in range(3):
                before, now = one[mask][:, channel].astype(np.float64), inside[:, channel]
                free = (now > 0) & (now < 1)
                if free.any():
                    shift = np.mean(now[free] - before[free])
                    np.testing.assert_allclose(now, np.clip(before + shift, 0, 1), atol=1e-6)
                else:
                    assert set(np.unique(now)) <= {0.0, 1.0}


@pytest.mark.parametrize("name", ["cutout_color", "scar"])
def test_colors_are_uniform_and_channels_unrelated(name):
    colors = FILLS[name](tf.zeros([800, 32, 32, 3]), SEED).pixels.numpy()[:, 0]
    for channel in range(3):
        reference.assert_uniform(colors[:, channel], 0.0, 1.0)
        reference.assert_unrelated(colors[:, channel], colors[:, (channel + 1) % 3])


def test_confettis_shift_is_uniform_in_both_directions():
    colors = RECTANGLES["confetti"](tf.fill([800, 32, 32, 3], 0.5), SEED).pixels.numpy()[:, 0]
    for channel in range(3):
        values = colors[:, channel]
        # A quarter of the shifts takes a middle grey below 0, another beyond 1.
        assert abs(np.mean(values == 0.0) - 0.25) < 0.06
        assert abs(np.mean(values == 1.0) - 0.25) < 0.06
        reference.assert_uniform(values[(values > 0) & (values < 1)], 0.0, 1.0)
        reference.assert_unrelated(values, colors[:, (channel + 1) % 3])


@pytest.mark.parametrize("name", FILLS)
def test_patches_are_where_cutpaste_pastes(name):
    images = noise(20, 64, 48, 3)
    edit = FILLS[name](tf.constant(images), SEED)
    paste_kind = edits.cutpaste_scar if name == "scar" else edits.cutpaste
    pasted = paste_kind(tf.constant(images), SEED)
    after = applied(images, edit)
    for number, (one, other) in enumerate(zip(images, after, strict=True)):
        mask = reference.written(edit, number, (64, 48))
        assert np.array_equal(mask, reference.written(pasted, number, (64, 48)))
        assert np.array_equal(one[~mask], other[~mask])
        assert name != "scar" or len(np.unique(other[mask], axis=0)) == 1


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
@pytest.mark.parametrize("name", FILLS)
def test_values_stay_in_range_and_keep_their_type(name, dtype):
    images = tf.constant(np.random.default_rng(2).integers(0, 2, (6, 40, 40, 3)), dtype)
    pixels = FILLS[name](images, SEED).pixels
    assert pixels.dtype == dtype
    assert 0.0 <= pixels.numpy().min() <= pixels.numpy().max() <= 1.0


def test_either_takes_whole_edits():
    images = tf.constant(noise(6, 64, 64, 3))
    large, scar = edits.cutpaste(images, SEED), edits.cutpaste_scar(images, SEED)
    take = np.array([True, False, False, True, True, False])
    for first, second in ((large, scar), (scar, large)):
        result = applied(images, paste.either(first, second, tf.constant(take)))
        one, other = applied(images, first), applied(images, second)
        expected = np.where(take[:, None, None, None], one, other)
        assert np.array_equal(result, expected)
