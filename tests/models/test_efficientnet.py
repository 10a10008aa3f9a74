"""EfficientNet: equal to keras.applications' own, its weights from files and Keras's cache."""

import hashlib
import types

import h5py
import keras
import numpy as np
import pytest
from conftest import slow_but
from keras.src.applications import efficientnet as keras_efficientnet
from keras.src.legacy.saving import legacy_h5_format

from cutpaste_tf.files import UserError
from cutpaste_tf.models.efficientnet import efficientnet

SIZE = 32
# As keras.applications' documentation of ImageNet preprocessing has them.
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, SIZE, SIZE, 3), np.float32)


@pytest.fixture(scope="module")
def plain():
    """keras.applications' model, and what its ImageNet weights' file holds for the input."""
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    rng = np.random.default_rng(1)
    norms = (x for x in model.layers if isinstance(x, keras.layers.BatchNormalization))
    for layer in norms:  # statistics as a trained network has them
        for weight in layer.weights:
            positive = weight.name in ("gamma", "moving_variance")
            low, high = (0.5, 1.5) if positive else (-0.2, 0.2)
            weight.assign(rng.uniform(low, high, weight.shape))
    return model


def expected_features(plain, images):
    """All features of keras.applications' model of images in [0, 1], with NumPy's averages."""
    # The outputs of blocks 6 and 7 by their last layers, whose names count repetitions by letters.
    blocks = [[n.name for n in plain.layers if n.name.startswith(f"block{k}")][-1] for k in (6, 7)]
    maps = keras.Model(plain.input, [plain.output, *(plain.get_layer(n).output for n in blocks)])
    # Its own scaling divides by 255 and, without the file's statistics, does no more.
    outputs = maps(255.0 * (images - MEAN.astype(np.float32)) / DEVIATION.astype(np.float32))
    means = (output.numpy().mean((1, 2)) for output in outputs)
    return dict(zip(("pool", "level7", "level8"), means, strict=True))


def assert_same_features(model, plain, images):
    features = model(images, training=False)
    for name, values in expected_features(plain, images).items():
        np.testing.assert_allclose(features[name], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ending", slow_but([".weights.h5", ".keras"], ".weights.h5"))
def test_all_features_equal_keras_applications(plain, images, tmp_path, ending):
    file = tmp_path / f"plain{ending}"
    plain.save_weights(file) if ending == ".weights.h5" else plain.save(file)
    model = efficientnet("efficientnet_b0", SIZE)
    model.get_layer("trunk").load_weights(file)
    assert_same_features(model, plain, images)


# The stem is level 1 (Rippel et al., the paper's [43]), so level 7 of B4 is block 6: 272 values.
@pytest.mark.parametrize(
    ("name", "dimensions"),
    slow_but([("b0", (1280, 192, 320)), ("b4", (1792, 272, 448))], ("b4", (1792, 272, 448))),
)
def test_features_have_the_papers_length(name, dimensions):
    model = efficientnet(f"efficientnet_{name}", SIZE)
    shapes = {feature: output.shape[-1] for feature, output in model.output.items()}
    assert shapes == dict(zip(("pool", "level7", "level8"), dimensions, strict=True))


def test_imagenet_weights_come_from_kerass_cache_with_their_own_scaling(
    plain, images, tmp_path, monkeypatch
):
    """A file as Keras's download: old layout, the pixels' statistics among the weights."""
    file = tmp_path / "models" / "efficientnetb0_notop.h5"
    file.parent.mkdir()
    # Keras's file has the deviation where the layer takes the variance, and its model divides by
    # the root of the deviation once more.
    mean, variance = plain.get_layer(index=2).weights[:2]
    mean.assign(MEAN)
    variance.assign(DEVIATION)
    with h5py.File(file, "w") as opened:
        legacy_h5_format.save_weights_to_hdf5_group(opened, plain)
    mean.assign(np.zeros(3))
    variance.assign(np.ones(3))
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(keras_efficientnet.WEIGHTS_HASHES, "b0", ("", digest))
    keras_home(tmp_path, monkeypatch)
    model = efficientnet("efficientnet_b0", SIZE, imagenet=True, seed=5)
    assert_same_features(model, plain, images)


def keras_home(folder, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(folder))
    # Keras has read KERAS_HOME when it was imported.
    config = types.SimpleNamespace(keras_home=lambda: str(folder))
    monkeypatch.setattr(keras_efficientnet.file_utils, "config", config)


def test_what_to_fetch_where_the_download_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_efficientnet, "BASE_WEIGHTS_PATH", "file:///nowhere/")
    keras_home(tmp_path, monkeypatch)
    address = "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5"
    with pytest.raises(UserError, match=f"--weights=imagenet: {address}.*/models/efficientnetb0_"):
        efficientnet("efficientnet_b0", SIZE, imagenet=True)


def test_stochastic_depth_is_kerass_for_b0_to_b7_and_none_for_lite():
    def rates(name):
        layers = efficientnet(name, SIZE).get_layer("trunk").layers
        return [x.rate for x in layers if isinstance(x, keras.layers.Dropout)]

    # Block b of 16 is left out with b / 16 of 0.2.
    blocks = [2, 4, 6, 7, 9, 10, 12, 13, 14]  # those with a skip to take instead
    np.testing.assert_allclose(rates("efficientnet_b0"), 0.2 * np.array(blocks) / 16)
    assert rates("efficientnet_lite0") == []
