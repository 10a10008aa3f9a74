"""Networks of Keras's own layers, against ours."""

import keras
import numpy as np

from cutpaste_tf.models import conv, norm, plain, resnet


def test_a_network_of_keras_own_layers_has_the_same_features():
    model = resnet.resnet18(32, width=0.125)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0.0, 0.1, w.shape) for w in model.get_weights()])
    copied = plain.as_keras(model)
    assert not any(isinstance(x, norm.FusedBatchNormalization) for x in copied.layers)
    assert [layer.name for layer in copied.layers] == [layer.name for layer in model.layers]
    images = rng.random((3, 32, 32, 3), np.float32)
    np.testing.assert_allclose(copied(images)["pool"], model(images)["pool"], rtol=1e-4, atol=1e-5)
    assert plain.as_keras(copied) is copied


def test_of_a_network_keras_own_layer_is_left():
    inputs = keras.Input([4, 4, 4])
    model = keras.Model(inputs, conv.Convolution(5, 3, padding="same", name="one")(inputs))
    copied = plain.as_keras(model)
    assert type(copied.get_layer("one")) is keras.layers.Conv2D
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(copied(x), model(x), rtol=1e-6)
