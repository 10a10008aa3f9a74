"""The region of interest."""

import numpy as np
import pytest
import scipy.ndimage
from conftest import write_image
from PIL import Image

from cutpaste_tf.config import Config
from cutpaste_tf.data import region
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.files import UserError

SIDE = 128


def scene(objects, noise=2.0, light=200.0, seed=0):
    """Images of objects, bool [N, H, W], on something plain; uint8 [N, H, W, 3]."""
    rng = np.random.default_rng(seed)
    # A camera's light falls off.
    fall = np.linspace(0.0, 15.0, objects.shape[2])
    images = np.where(objects, 90.0, light - fall)[..., None] + rng.normal(
        0.0, noise, (*objects.shape, 3)
    )
    return np.clip(images, 0, 255).astype(np.uint8)


def discs(centres, radius, side=SIDE):
    rows, columns = np.indices([side, side])
    return np.stack([np.hypot(rows - y, columns - x) < radius for y, x in centres])


@pytest.mark.parametrize("noise", [0.0, 2.0, 5.0])
@pytest.mark.parametrize("light", [250.0, 130.0, 20.0])
def test_an_object_that_moves_leaves_the_background_around_where_it_is(noise, light):
    rng = np.random.default_rng(1)
    objects = discs(rng.uniform(40, 80, (30, 2)), 20)
    found = region.without_background(scene(objects, noise, light))
    ever = objects.any(axis=0)
    assert found[ever].mean() > 0.99
    # And a margin.
    near = scipy.ndimage.binary_dilation(ever, iterations=2 * region._MARGIN + 4)
    assert not found[~near].any()
    assert found.dtype == bool


def test_where_an_object_lies_in_a_single_image_is_looked_at():
    objects = discs([(50, 50)] * 59 + [(90, 90)], 15)
    found = region.without_background(scene(objects, light=150.0))
    assert found[objects[-1]].all()
    assert not found[:25].any()


def test_the_plain_inside_of_objects_and_their_holes_are_looked_at_but_not_what_lies_between():
    rings = discs([(64, 40)] * 20, 30) & ~discs([(64, 40)] * 20, 15)
    both = rings | discs([(64, 105)] * 20, 12)
    found = region.without_background(scene(both))
    assert found[64, 40]
    assert found[both[0]].all()
    assert not found[64, 82]
    assert not found[:15].any()


def test_textures_and_images_of_nothing_or_almost_nothing_plain_have_no_background():
    rng = np.random.default_rng(0)
    textures = rng.integers(60, 200, (20, SIDE, SIDE, 3), dtype=np.uint8)
    assert region.without_background(textures) is None
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(20, SIDE, SIDE)), (0, 4, 4))
    smooth = 128 + 300 * smooth[..., None].repeat(3, axis=-1)
    assert region.without_background(smooth.clip(0, 255).astype(np.uint8)) is None
    nothing = np.zeros([20, SIDE, SIDE], bool)
    assert region.without_background(scene(nothing)) is None
    narrow = scene(~nothing)
    narrow[:, :, 4:] = textures[:, :, 4:]
    assert region.without_background(narrow) is None


def test_specks_of_noise_are_no_region():
    objects = discs([(64, 64)] * 20, 25)
    images = scene(objects)
    rng = np.random.default_rng(0)
    at = rng.integers(0, SIDE, (100, 2))
    images[:, at[:, 0], at[:, 1]] = rng.integers(0, 256, (20, 100, 3))  # a dead pixel flickers
    found = region.without_background(images)
    assert found.mean() < 0.35
    assert not found[:20].any()


def find(roi, images=()):
    config = Config(dataset="textures", category="brick", roi=str(roi))
    return region.find(config, normal_split([""] * len(images), images))


def test_a_masks_file_is_the_region(tmp_path):
    mask = np.zeros([30, 50], bool)
    mask[5:20, 10:40] = True
    file = write_image(tmp_path / "roi.png", mask.astype(np.uint8) * 7)
    np.testing.assert_array_equal(find(file), mask)
    assert find("none") is None


def test_auto_looks_at_images_of_any_size():
    sizes = [(100, 128), (128, 128), (64, 70)]
    images = [scene(discs([(64, 64)], 30), seed=i)[0] for i in range(12)]
    images = [
        np.asarray(Image.fromarray(image).resize(sizes[i % 3])) for i, image in enumerate(images)
    ]
    found = find("auto", images)
    assert found.shape == (256, 256)
    assert found[128, 128]
    assert not found[:10].any()
    rng = np.random.default_rng(0)
    assert find("auto", [rng.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(9)]).all()


def test_mistakes_are_named(tmp_path):
    black = write_image(tmp_path / "black.png", np.zeros([9, 9], np.uint8))
    (tmp_path / "text.png").write_text("no image")
    for roi, message in (
        (tmp_path / "missing.png", r"--roi=.*missing\.png: there is no such file"),
        (tmp_path, "there is no such file"),
        (black, r"--roi=.*black\.png: is black all over"),
        (tmp_path / "text.png", r"text\.png: not an image"),
    ):
        with pytest.raises(UserError, match=message):
            find(roi)
