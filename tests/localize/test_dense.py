"""Dense embeddings against the network run on each patch by itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cutpaste_tf.localize import dense
from cutpaste_tf.models.resnet import resnet18


def lively(stem, width=0.0625):
    """A small ResNet-18 whose batch normalisation does something."""
    model = resnet18(None, width=width, stem=stem)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight, low in zip(layer.weights, (0.5, -0.5, -0.5, 0.5), strict=True):
                weight.assign(rng.uniform(low, low + 1, weight.shape))
    return model


def one_by_one(model, images, patch, stride):
    height, width = images.shape[1:3]
    rows, columns = (range(0, n - patch + 1, stride) for n in (height, width))
    found = []
    for y in rows:  # the patches of a row of places at once, for the time that it takes
        crops = [images[:, y : y + patch, x : x + patch] for x in columns]
        embedded = model(np.concatenate(crops), training=False)["pool"].numpy()
        found.append(embedded.reshape(len(columns), len(images), -1).swapaxes(0, 1))
    return np.stack(found, axis=1)


def images_of(height, width, count=2):
    return np.random.default_rng(0).random((count, height, width, 3), np.float32)


@pytest.mark.parametrize(
    ("stem", "height", "width", "patch", "stride"),
    [
        ("large", 64, 48, 32, 4),
        ("small", 44, 52, 32, 4),
        ("large", 40, 40, 32, 8),
        ("large", 37, 41, 32, 1),  # of odd offsets: other pixels under the strides
        ("small", 31, 24, 21, 5),  # padding that differs from layer to layer
        ("large", 33, 33, 33, 4),  # a single patch
    ],
)
def test_each_patch_is_embedded_as_by_itself(stem, height, width, patch, stride, monkeypatch):
    model, images = lively(stem), images_of(height, width)
    expected = one_by_one(model, images, patch, stride)
    places = tuple(dense.locations(n, patch, stride) for n in (height, width))
    assert expected.shape[1:3] == places
    for worth in (0.0, 1.5, 1e9):  # all layers shared, some, none
        monkeypatch.setattr(dense, "_WORTH_SHARING", worth)
        found = dense.embed(model, tf.constant(images), patch, stride).numpy()
        assert found.shape == expected.shape
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    size=st.integers(5, 12),
    extra=st.integers(0, 6),
    step=st.integers(1, 4),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 2),
)
def test_a_convolution_is_kerass_on_each_patch(size, extra, step, kernel, stride):
    rng = np.random.default_rng(size)
    image = rng.random((1, size + extra, size + extra, 2)).astype(np.float32)
    weights = rng.random((kernel, kernel, 2, 3)).astype(np.float32)
    axis = dense._axis(size + extra, size, step)
    found = dense._convolve(
        dense._Map(tf.constant(image), axis, axis), tf.constant(weights), tf.zeros([3]), stride
    )
    pooled = dense._max_pool(dense._Map(tf.constant(image), axis, axis), kernel, stride)
    for i, y in enumerate(range(0, extra + 1, step)):
        crop = image[:, y : y + size, :size]
        for map_, expected in (
            (found, tf.nn.conv2d(crop, weights, stride, "SAME")),
            (pooled, tf.nn.max_pool2d(crop, kernel, stride, "SAME")),
        ):
            rows, columns = map_.rows.numbers[i], map_.columns.numbers[0]
            values = map_.values.numpy()[:, rows][:, :, columns]
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_shared_rows_are_computed_once():
    axis = dense._axis(256, 32, 4)
    first, _ = dense._window(axis, 3, 1)
    # All rows inside are the image's own; of each of the 57 patches the first and last are others,
    # except where a patch ends with the image: there, they are the padded ones of that patch.
    assert first.numbers.shape == (57, 32)
    assert first.count <= 256 + 2 * 57
    assert dense._window(axis, 1, 1)[0].count == 256


def test_compiles_with_xla():
    model, images = lively("large"), tf.constant(images_of(40, 40))
    plain = dense.embed(model, images, 32, 4)
    compiled = tf.function(lambda x: dense.embed(model, x, 32, 4), jit_compile=True)(images)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def test_mixed_precision_gives_nearly_the_same():
    images = np.random.default_rng(0).uniform(size=[1, 64, 64, 3]).astype(np.float32)
    found = {}
    try:
        for policy in ("float32", "mixed_float16"):
            keras.config.set_dtype_policy(policy)
            found[policy] = dense.embed(resnet18(None, width=0.0625), images, 32, 16).numpy()
    finally:
        keras.config.set_dtype_policy("float32")
    assert found["mixed_float16"].dtype == np.float32
    assert (found["mixed_float16"] != found["float32"]).any()
    np.testing.assert_allclose(found["mixed_float16"], found["float32"], rtol=0.05, atol=0.02)
