"""Fused batch normalisation against Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.models import norm


def pair(dtype="float32"):
    """Keras's layer and ours, with the same weights."""
    layers = []
    for kind in (keras.layers.BatchNormalization, norm.FusedBatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5, dtype=dtype)
        layer.build([None, 7, 5, 6])
        # gamma, beta, mean, variance
        layer.set_weights(np.random.default_rng(0).uniform(0.5, 2.0, (4, 6)))
        layers.append(layer)
    return layers


def inputs():
    return tf.constant(np.random.default_rng(1).normal(1.0, 3.0, (4, 7, 5, 6)), tf.float32)


def results(layer, x, training, jit_compile=False):
    """Outputs, gradients and weights after a step."""

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
        watched = [x, *(w.value for w in layer.trainable_weights)]
        return y, tape.gradient(loss, watched)

    y, gradients = step(x)
    return [y.numpy(), *(gradient.numpy() for gradient in gradients), *layer.get_weights()]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_results_gradients_and_statistics_are_keras(training, jit_compile):
    plain, fused = pair()
    expected = results(plain, inputs(), training)
    actual = results(fused, inputs(), training, jit_compile)
    assert len(expected) == 8
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_a_frozen_layer_stays_as_it_is():
    plain, fused = pair()
    plain.trainable = fused.trainable = False
    before = fused.get_weights()
    actual, expected = fused(inputs(), training=True), plain(inputs(), training=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fused.get_weights(), before)


def test_half_precision_is_normalised_in_single():
    plain, fused = pair("mixed_float16")
    x = tf.cast(inputs(), tf.float16)
    for training in (True, False):
        actual, expected = fused(x, training=training), plain(x, training=training)
        assert actual.dtype == tf.float16
        np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(fused.get_weights()[3], plain.get_weights()[3], rtol=1e-5)


def test_several_devices_are_left_to_keras():
    several = norm.FusedBatchNormalization(synchronized=True)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        several.build([None, 7, 5, 6])
    assert strategy.run(lambda: several(inputs(), training=True)).shape == (4, 7, 5, 6)
