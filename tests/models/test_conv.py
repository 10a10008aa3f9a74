"""Convolutions against Keras's own."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.models import conv


def pair(side, kernel_size=3, **options):
    layers = []
    for kind in (keras.layers.Conv2D, conv.Convolution):
        layer = kind(5, kernel_size, use_bias=False, **{"padding": "same", **options})
        layer.build([None, side, side, 4])
        layers.append(layer)
    layers[1].set_weights(layers[0].get_weights())
    return layers


def results(layer, x, jit_compile=False):
    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y**2)
        return y, *tape.gradient(loss, [x, layer.kernel.value])

    return step(x)


@pytest.fixture
def used(monkeypatch):
    """What computes the kernel's gradient by products, with a count of its calls."""
    gradient = mock.Mock(wraps=conv._kernel_gradient)
    monkeypatch.setattr(conv, "_kernel_gradient", gradient)
    return gradient


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="a GPU has Keras's own gradient"
)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_results_and_gradients_are_keras_on_small_maps(side, jit_compile, used):
    plain, ours = pair(side)
    x = tf.constant(np.random.default_rng(0).normal(size=(6, side, side, 4)), tf.float32)
    for a, b in zip(results(ours, x, jit_compile), results(plain, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    used.assert_called_once()


@pytest.mark.parametrize(
    ("side", "options"),
    [(9, {}), (8, {"strides": 2}), (8, {"kernel_size": 1}), (8, {"dtype": "mixed_float16"})],
)
def test_all_else_is_left_to_keras(side, options, used):
    plain, ours = pair(side, **options)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, side, side, 4)), tf.float32)
    for a, b in zip(results(ours, x), results(plain, x), strict=True):
        np.testing.assert_array_equal(a, b)
    used.assert_not_called()


def test_a_gpu_has_keras_own_gradient(used, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    _, ours = pair(2)
    results(ours, tf.ones([1, 2, 2, 4]))
    used.assert_not_called()
