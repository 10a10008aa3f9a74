"""Images of any size on their way to the network, and maps on their way back."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cutpaste_tf.data.preparation import FILL, Preparation, as_preparation

MANY = settings(max_examples=40, deadline=None, derandomize=True)
RESIZES = ("squash", "pad")
SIDES = st.integers(8, 120)


@st.composite
def preparations(draw, resizes=RESIZES):
    """Any but for regions of interest, of canvases that are small."""
    return Preparation(
        (draw(st.integers(8, 40)), draw(st.integers(8, 40))),
        draw(st.sampled_from(resizes)),
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
    )


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@MANY
@given(preparation=preparations(), height=SIDES, width=SIDES)
def test_an_image_lies_in_the_middle_as_large_as_it_may_and_in_its_shape(
    preparation, height, width
):
    box, canvas = preparation.box(height, width), np.array(preparation.canvas)
    sides = np.array(box[2:])
    if preparation.resize == "squash":
        assert box == (0, 0, *canvas)
        return
    assert (sides <= canvas).all()
    assert (sides == canvas).any()
    # In its shape, but for a rounded pixel.
    exact = np.array([height, width]) * (canvas / (height, width)).min()
    assert np.abs(sides - exact).max() <= 0.5 or sides.min() == 1
    before, after = np.array(box[:2]), canvas - sides - box[:2]
    assert np.abs(before - after).max() <= 1


@MANY
@given(preparation=preparations(("pad",)), height=SIDES, width=SIDES)
def test_pixels_are_where_pillow_has_them(preparation, height, width):
    image = noise(height, width, 3)
    (top, left, *sides), (high, wide) = preparation.box(height, width), preparation.canvas
    found = preparation.on_canvas(image).astype(int)
    assert found.shape == (high, wide, 3)
    expected = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    rows, columns = slice(top, top + sides[0]), slice(left, left + sides[1])
    assert np.abs(found[rows, columns] - np.asarray(expected).astype(int)).max() <= 3
    # All around it is its border.
    rows = np.arange(high).clip(top, rows.stop - 1)
    columns = np.arange(wide).clip(left, columns.stop - 1)
    np.testing.assert_array_equal(found, found[np.ix_(rows, columns)])


@MANY
@given(preparation=preparations(), height=SIDES, width=SIDES, seed=st.integers(0, 99))
def test_a_map_comes_back_to_where_the_image_has_it(preparation, height, width, seed):
    slopes = np.random.default_rng(seed).uniform(-1.0, 1.0, 2)

    def linear(rows, columns):  # of an image's share of its height and width
        return 3.0 + slopes[0] * rows[:, None] + slopes[1] * columns[None]

    box, canvas = preparation.box(height, width), preparation.canvas
    on_canvas = linear(
        *(
            (np.arange(of) + 0.5 - first) / side
            for of, first, side in zip(canvas, box[:2], box[2:], strict=True)
        )
    ).astype(np.float32)
    rows, columns = ((np.arange(side) + 0.5) / side for side in (height, width))
    found = preparation.to_image(on_canvas, height, width)
    assert found.shape == (height, width)
    # Half a pixel of the canvas is lost at a border, and half a pixel of the image to rounding.
    slack = np.abs(slopes) @ [1 / s + 1 / o for s, o in zip(box[2:], (height, width), strict=True)]
    np.testing.assert_allclose(found, linear(rows, columns), atol=slack + 1e-5)


@pytest.mark.parametrize("size", [(1, 100), (100, 1), (1, 1), (2, 90)])
@pytest.mark.parametrize("resize", RESIZES)
def test_an_image_of_a_line_has_a_map(size, resize):
    preparation = Preparation((32, 40), resize)
    assert preparation.apply(noise(*size, 3)).shape == (1, 32, 40, 3)
    found = preparation.to_image(np.ones([32, 40], np.float32), *size)
    np.testing.assert_array_equal(found, np.ones(size))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=st.tuples(*[st.integers(8, 40)] * 2), tiles=st.tuples(*[st.integers(1, 4)] * 2))
@pytest.mark.parametrize("further", [(), (3,)])
def test_tiles_put_together_are_the_canvas(further, size, tiles):
    preparation = Preparation(size, tiles=tiles)
    canvases = np.random.default_rng(0).normal(size=(2, *preparation.canvas, *further))
    canvases = canvases.astype(np.float32)
    cut = preparation.cut(canvases)
    assert cut.shape == (2, preparation.count, *size, *further)
    joined = preparation.join(cut)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, canvases, atol=1e-5)
    np.testing.assert_allclose(preparation.join(np.ones_like(cut)), 1.0, atol=1e-6)  # the weights


def test_tiles_lie_row_by_row_and_have_their_share_in_common():
    preparation = Preparation((40, 24), tiles=(2, 3))
    assert preparation.canvas == (40 + 35, 24 + 21 + 21)
    (cut,) = preparation.cut(np.arange(75 * 66).reshape(1, 75, 66))
    assert cut[:, 0, 0].tolist() == [row * 66 + 21 * k for row in (0, 35) for k in range(3)]
    np.testing.assert_array_equal(cut[0][:, -3:], cut[1][:, :3])
    np.testing.assert_array_equal(cut[0][-5:], cut[3][:5])


def roi_of(height, width):
    """A region of two parts that leaves the border out, but for one side."""
    roi = np.zeros([height, width], bool)
    roi[height // 5 : height // 2, width // 6 : width // 2] = True
    roi[height // 3 : 3 * height // 4, width // 2 :] = True
    return roi


@MANY
@given(preparation=preparations(), height=SIDES, width=SIDES)
def test_a_region_is_where_the_image_has_it(preparation, height, width):
    roi = roi_of(30, 30)
    masked = Preparation(preparation.size, preparation.resize, preparation.tiles, roi=roi)
    region = masked.region(height, width)
    box = preparation.box(height, width)
    for y, x in np.ndindex(*preparation.canvas):
        row = (y + 0.5 - box.top) / box.height
        column = (x + 0.5 - box.left) / box.width
        inside = 0 <= row < 1 and 0 <= column < 1 and roi[int(row * 30), int(column * 30)]
        assert region[y, x] == inside


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("tiles", [(1, 1), (2, 3)])
@pytest.mark.parametrize("size", [(40, 60), (71, 50), (130, 97), (20, 33)])
def test_what_lies_outside_the_region_changes_no_bit(resize, tiles, size):
    preparation = Preparation((32, 40), resize, tiles, roi=roi_of(40, 60))
    image = noise(*size, 3)
    outside = ~preparation.own_region(*size)
    other = image.copy()
    other[outside] = noise(*size, 3, seed=1)[outside]
    assert (image != other).any()
    np.testing.assert_array_equal(preparation.apply(image), preparation.apply(other))


@pytest.mark.parametrize("resize", RESIZES)
def test_images_of_the_canvass_size_are_kept_bit_by_bit_but_grey_outside_the_region(resize):
    preparation = Preparation((32, 40), resize, (2, 2), roi=roi_of(*Preparation((32, 40)).canvas))
    image = noise(*preparation.canvas, 3)
    region = preparation.region(*preparation.canvas)
    expected = np.where(region[..., None], image, FILL)
    np.testing.assert_array_equal(preparation.on_canvas(image), expected)


def test_a_size_is_a_preparation_that_squashes():
    assert as_preparation(32).size == (32, 32)
    assert as_preparation((32, 48)).size == (32, 48)
    preparation = Preparation((8, 8))
    assert as_preparation(preparation) is preparation
    assert not preparation.masked
    assert Preparation((8, 8), "pad").masked
    image = noise(20, 30, 3)
    expected = tf.image.resize(image[None].astype(np.float32), [8, 8], antialias=True)[0]
    np.testing.assert_array_equal(preparation.apply(image)[0], np.round(expected))
