"""The views of a training step."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from training import config, largest_difference, trained

from cutpaste_tf.augment import proxy
from cutpaste_tf.train import views as step_views

pytestmark = pytest.mark.usefixtures("small_backbone")


def test_views_are_the_same_on_device_and_in_the_pipeline(images):
    settings = config(batch_size=4)
    views = step_views.device_views(settings)
    host = step_views.batches(images, config(batch_size=4, augment="pipeline"), 0).take(3)
    device = step_views.batches(images, settings, 0).take(3)
    for (host_views, host_labels), drawn in zip(host, device, strict=True):
        device_views, device_labels = tf.function(views.make)(*drawn)
        np.testing.assert_allclose(host_views, device_views, atol=1e-6)
        np.testing.assert_array_equal(host_labels, device_labels)


@pytest.mark.parametrize("task", sorted(proxy.TASKS))
def test_views_in_two_halves_are_those_of_the_proxy_task(task, images):
    settings = config(task=task, translation=0.1, view_jitter=(0.1, 0.2, 0.3))
    batch = images.read(tf.range(4))
    views, labels = step_views.StepViews(settings)(7, batch)
    expected, same = proxy.make_views(
        batch, task, tf.constant([settings.seed, 7]), step_views.view_settings(settings)
    )
    np.testing.assert_array_equal(views, expected)
    np.testing.assert_array_equal(labels, same)


@pytest.mark.parametrize("task", sorted(proxy.TASKS))
def test_some_rows_of_a_batch_have_the_views_of_the_whole(task, images):
    views = step_views.StepViews(config(task=task, translation=0.1, view_jitter=(0.1,)))
    batch, rows = images.read(tf.range(6)), tf.constant([1, 4, 5])
    numbers = views.draw(3, 6)
    whole, _ = views.make(batch, *numbers)
    part, labels = views.make(
        tf.gather(batch, rows), *(tf.gather(drawn, rows) for drawn in numbers)
    )
    classes = len(proxy.TASKS[task])
    expected = tf.gather(tf.reshape(whole, [classes, 6, *whole.shape[1:]]), rows, axis=1)
    np.testing.assert_array_equal(part, tf.reshape(expected, part.shape))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(classes), 3))


def test_training_is_the_same_wherever_views_are_made(images, tmp_path):
    device = trained(config(augment="device"), images, tmp_path / "d")
    host = trained(config(augment="pipeline"), images, tmp_path / "p")
    assert largest_difference(device, host) < 1e-5


def test_a_step_can_be_made_again_and_no_two_are_alike(images):
    views = step_views.StepViews(config())
    batch = images.read(tf.range(4))
    np.testing.assert_array_equal(views(tf.constant(5), batch)[0], views(tf.constant(5), batch)[0])
    assert np.abs(views(tf.constant(5), batch)[0] - views(tf.constant(6), batch)[0]).max() > 0
    other = step_views.StepViews(config(seed=1))
    assert np.abs(views(tf.constant(5), batch)[0] - other(tf.constant(5), batch)[0]).max() > 0


def test_gallery_shows_each_class(images):
    views = step_views.gallery(images, config(task="cutpaste_3way"), 4)
    assert views.shape == (3, 4, 32, 32, 3)
    assert (step_views.gallery(images, config(), 99).shape)[1] == 10
    assert np.abs(views[0] - views[1]).max() > 0


def test_view_settings_come_from_the_flags():
    settings = step_views.view_settings(config(jitter=0.2, area_ratio=(0.1, 0.2), translation=0.3))
    assert (settings.jitter, settings.area_ratio, settings.translation) == (0.2, (0.1, 0.2), 0.3)
    assert dataclasses.is_dataclass(settings)
