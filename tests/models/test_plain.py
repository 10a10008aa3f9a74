"""Networks of Keras's own layers, against ours."""

import numpy as np

from cutpaste_tf.models import norm, plain, resnet


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
