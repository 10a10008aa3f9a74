"""The views of a training step."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from training import config, largest_difference, trained

from cutpaste_tf.data import pipeline
from cutpaste_tf.train import views as step_views

pytestmark = pytest.mark.usefixtures("small_backbone")


def test_views_are_the_same_on_device_and_in_the_pipeline(images):
    settings = config()
    views = step_views.view_maker(settings)
    compiled = step_views.view_maker(settings, jit_compile=True)
    host = pipeline.training_batches(images, 4, 0, views=compiled).take(3)
    device = pipeline.training_batches(images, 4, 0).take(3)
    for (step, batch), (host_views, host_labels) in zip(device, host, strict=True):
        device_views, device_labels = tf.function(views)(step, batch)
        np.testing.assert_allclose(host_views, device_views, atol=1e-6)
        np.testing.assert_array_equal(host_labels, device_labels)


def test_training_is_the_same_wherever_views_are_made(images, tmp_path):
    device = trained(config(augment="device"), images, tmp_path / "d")
    host = trained(config(augment="pipeline"), images, tmp_path / "p")
    assert largest_difference(device, host) < 1e-5


def test_a_step_can_be_made_again_and_no_two_are_alike(images):
    views = step_views.view_maker(config())
    batch = images.read(tf.range(4))
    np.testing.assert_array_equal(views(tf.constant(5), batch)[0], views(tf.constant(5), batch)[0])
    assert np.abs(views(tf.constant(5), batch)[0] - views(tf.constant(6), batch)[0]).max() > 0
    other = step_views.view_maker(config(seed=1))
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
