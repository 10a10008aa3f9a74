"""The views of a training step."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import slow_but
from training import config, largest_difference, trained

from cutpaste_tf.augment import proxy
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import FILL, Preparation
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.train import views as step_views

pytestmark = pytest.mark.usefixtures("small_backbone")

AUGMENTED = {"translation": 0.1, "view_jitter": (0.1, 0.2, 0.3)}
ROI = np.zeros([60, 60], bool)
ROI[5:25, 5:35] = True  # the first of 2x2 tiles and a little of the second
SHAPES = {
    "whole": {},
    "region": {"roi": "a.png", "image_size": (32, 48)},
    "tiles": {"tiles": (2, 2), "roi": "a.png", "resize": "pad"},
}


def prepared(settings, seed=0):
    """Images of two shapes, which differ by the seed outside the region alone."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (60, 60 + 30 * (i % 2), 3), dtype=np.uint8) for i in range(10)]
    preparation = Preparation.of(settings, ROI if settings.roi != "none" else None)
    for array in arrays:
        region = preparation.own_region(*array.shape[:2])
        if region is not None:
            rng = np.random.default_rng(seed)
            array[~region] = rng.integers(0, 256, array.shape, np.uint8)[~region]
    return pipeline.prepare(normal_split([""] * 10, arrays), preparation)


@pytest.mark.parametrize("shape", slow_but(list(SHAPES), "whole"))
def test_views_are_the_same_on_device_and_in_the_pipeline(shape):
    settings = config(batch_size=4, translation=0.1, **SHAPES[shape])
    images = prepared(settings)
    views = step_views.device_views(settings)
    host = dataclasses.replace(settings, augment="pipeline")
    host = step_views.batches(images, host, 2).take(3)
    device = step_views.batches(images, settings, 2).take(3)
    for (host_views, host_labels), drawn in zip(host, device, strict=True):
        device_views, device_labels = tf.function(views.make)(*drawn)
        np.testing.assert_allclose(host_views, device_views, atol=1e-6)
        np.testing.assert_array_equal(host_labels, device_labels)
        assert device_views.shape == (8, *settings.size, 3)
        if shape == "whole":
            continue
        # Nothing is pasted outside the region, which moves with its image.
        assert drawn[-1].dtype == tf.uint8
        outside = drawn[-1].numpy() == 0
        normals, pasted = device_views[:4].numpy(), device_views[4:].numpy()
        differs = (normals != pasted).any(-1)
        assert differs.any(axis=(1, 2)).all()
        assert not (differs & outside).any()
        if settings.resize == "squash":
            np.testing.assert_allclose(normals[outside], FILL / 255.0)


@pytest.mark.parametrize("task", sorted(proxy.TASKS))
def test_views_in_two_halves_are_those_of_the_proxy_task(task, images):
    settings = config(task=task, **AUGMENTED)
    batch = images.read(tf.range(4))
    views, labels = step_views.StepViews(settings)(7, batch)
    expected, same = proxy.make_views(
        batch, task, tf.constant([settings.seed, 7]), step_views.view_settings(settings)
    )
    np.testing.assert_array_equal(views, expected)
    np.testing.assert_array_equal(labels, same)


WHOLE = [(task, "whole") for task in sorted(proxy.TASKS)]


@pytest.mark.parametrize(("task", "shape"), [*WHOLE, ("cutpaste_3way", "tiles")])
def test_some_rows_of_a_batch_have_the_views_of_the_whole(task, shape):
    settings = config(task=task, **AUGMENTED, **SHAPES[shape])
    images, views = prepared(settings), step_views.StepViews(settings)
    numbers, rows = tf.constant(np.flatnonzero(images.in_region)[:6]), tf.constant([1, 4, 5])
    batch = images.read(numbers)
    drawn = views.draw(3, 6, None if shape == "whole" else images.regions_of(numbers))
    whole, _ = views.make(batch, *drawn)
    part, labels = views.make(tf.gather(batch, rows), *(tf.gather(x, rows) for x in drawn))
    classes = len(proxy.TASKS[task])
    expected = tf.gather(tf.reshape(whole, [classes, 6, *whole.shape[1:]]), rows, axis=1)
    np.testing.assert_array_equal(part, tf.reshape(expected, part.shape))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(classes), 3))


def test_training_is_the_same_wherever_views_are_made(images, tmp_path):
    device = trained(config(augment="device"), images, tmp_path / "d")
    host = trained(config(augment="pipeline"), images, tmp_path / "p")
    assert largest_difference(device, host) < 1e-5


def test_view_settings_come_from_the_flags():
    settings = step_views.view_settings(config(jitter=0.2, area_ratio=(0.1, 0.2), translation=0.3))
    assert settings == proxy.Settings(jitter=0.2, area_ratio=(0.1, 0.2), translation=0.3)


@pytest.mark.parametrize("shape", ["region", "tiles"])
def test_views_have_nothing_of_what_lies_outside_the_region(shape):
    settings = config(batch_size=4, view_jitter=(0.1, 0.2, 0.3), **SHAPES[shape])
    sets = [step_views.batches(prepared(settings, seed), settings, 0).take(3) for seed in (1, 2)]
    for one, other in zip(*sets, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", ["whole", "tiles"])
def test_the_gallery_shows_each_class_of_what_has_any_region(shape):
    settings = config(**SHAPES[shape])
    images = prepared(settings)
    usable = images.in_region.sum()
    assert (usable == images.inputs) == (shape == "whole")
    assert step_views.gallery(images, settings, 4).shape == (2, 4, 32, 32, 3)
    views = step_views.gallery(images, settings, 99)
    assert views.shape == (2, usable, 32, 32, 3)
    assert (views[0] != views[1]).numpy().any(axis=(1, 2, 3)).all()
