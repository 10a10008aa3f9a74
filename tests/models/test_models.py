"""ResNet-18, the projection head, and what holds for all networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.models import head, resnet
from cutpaste_tf.models.efficientnet import efficientnet
from cutpaste_tf.models.plain import all_layers


def layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_resnet18_has_its_published_number_of_parameters():
    # torchvision's resnet18 has 11,689,512 parameters, 513,000 of them in its classifier.
    model = resnet.resnet18(64)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trainable == 11_689_512 - 513_000


@pytest.mark.parametrize(
    ("stem", "width", "last"), [("large", 0.125, 2), ("large", 2.0, 2), ("small", 0.125, 8)]
)
def test_pool_is_the_average_over_the_last_block_as_the_stem_and_the_width_say(stem, width, last):
    model = resnet.resnet18(64, width=width, stem=stem)
    block = model.get_layer("conv5").output
    assert block.shape[1:] == (last, last, 512 * width)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    expected = keras.Model(model.input, block)(images).numpy().mean((1, 2))
    np.testing.assert_allclose(model(images)["pool"], expected, rtol=1e-5, atol=1e-6)


def test_batch_normalisation_follows_the_companion_code():
    model = resnet.resnet18(32, width=0.125)
    for layer in layers(model, keras.layers.BatchNormalization):
        assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
    convolutions = layers(model, keras.layers.Conv2D)
    assert len(convolutions) == 20  # 17 in the main path with the stem, 3 in shortcuts
    assert not any(layer.use_bias for layer in convolutions)


@pytest.mark.parametrize("stem", ["large", "small"])
@pytest.mark.parametrize("size", [64, 57])
def test_what_has_a_stride_is_padded_on_all_sides_alike(stem, size):
    """As in the companion code and in torchvision, whose weights are of no use otherwise."""
    model = resnet.resnet18(size, width=0.25, stem=stem)
    images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    outputs = {layer.name: layer.output for layer in model.layers}
    outputs = keras.Model(model.input, outputs)(images)

    def convolved(x, name, stride):
        kernel = model.get_layer(name).kernel.value
        side = kernel.shape[0] // 2
        return tf.nn.conv2d(x, kernel, stride, [[0, 0], [side] * 2, [side] * 2, [0, 0]])

    scaled = (images - 0.5) / 0.25
    expected = {"stem_conv": convolved(scaled, "stem_conv", 2 if stem == "large" else 1)}
    for stage in (3, 4, 5):
        name = f"conv{stage}_block1_1_conv"
        expected[name] = convolved(outputs[f"conv{stage - 1}"], name, 2)
    if stem == "large":
        paddings = [[0, 0], [1, 1], [1, 1], [0, 0]]
        padded = tf.pad(outputs["stem_relu"], paddings, constant_values=-9.0)
        expected["stem_pool"] = tf.nn.max_pool2d(padded, 3, 2, "VALID")
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_kernels_are_drawn_with_fan_out_scaling():
    kernel = resnet.resnet18(64).get_layer("conv5_block2_2_conv").kernel.numpy()
    expected = np.sqrt(2.0 / (3 * 3 * 512))
    assert kernel.std() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("width", [0.0625, 0.125, 0.25])
@pytest.mark.parametrize("batch", [4, 24])
def test_gradients_of_the_shortcuts_kernels(width, batch):
    # oneDNN returned wrong ones for few channels; other numbers of images, other code in oneDNN.
    model = resnet.resnet18(64, width=width, stem="small")
    images = tf.constant(np.random.default_rng(0).random((batch, 64, 64, 3), np.float32))
    for stage in (3, 4, 5):
        layer = model.get_layer(f"conv{stage}_block1_0_conv")
        before = model.get_layer(f"conv{stage - 1}").output
        inputs, outputs = keras.Model(model.input, [before, layer.output])(images)
        weights = tf.random.stateless_normal(outputs.shape, [1, stage])
        part = keras.Model(before, layer.output)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(part(inputs) * weights)
        gradient = tape.gradient(loss, layer.kernel.value)[0, 0]
        pixels = inputs.numpy()[:, ::2, ::2].astype(np.float64)
        expected = np.einsum("nhwc,nhwd->cd", pixels, weights.numpy().astype(np.float64))
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=atol)
        products = pixels @ layer.kernel.numpy()[0, 0]
        np.testing.assert_allclose(outputs, products, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dims", [(128,), (512, 128), (512,) * 8 + (128,)])
def test_head_is_as_deep_as_asked(dims):
    model = head.projection_head(64, 3, dims=dims)
    dense = [(layer.units, layer.use_bias) for layer in layers(model, keras.layers.Dense)]
    assert dense == [*((units, False) for units in dims), (3, True)]
    assert len(layers(model, keras.layers.BatchNormalization)) == len(dims) - 1
    assert len(layers(model, keras.layers.ReLU)) == len(dims) - 1
    assert model.output_shape == (None, 3)
    # Logits start small, so that the loss starts near log(3).
    logits = model(np.random.default_rng(0).random((256, 64), np.float32), training=True)
    assert float(np.std(logits)) < 2.0


NETWORKS = {
    "resnet18": lambda **options: resnet.resnet18(32, width=0.125, **options),
    "efficientnet_b0": lambda **options: efficientnet("efficientnet_b0", 32, **options),
    "head": lambda **options: head.projection_head(64, 3, dims=(8, 8, 4), **options),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_are_the_seeds(network, shallow_efficientnet):
    def kernels(seed):
        return [w.numpy() for w in NETWORKS[network](seed=seed).weights if "kernel" in w.path]

    one, same, other = kernels(1), kernels(1), kernels(2)
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert not any((a == b).any() for a, b in zip(one, other, strict=True))
    # Layers of one shape are not copies of each other.
    assert len({kernel.tobytes() for kernel in one}) == len(one)


@pytest.mark.parametrize("network", NETWORKS)
def test_mixed_precision_keeps_features_and_logits_in_float32(network, shallow_efficientnet):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = NETWORKS[network]()
    finally:
        keras.config.set_dtype_policy("float32")
    assert "float16" in {layer.compute_dtype for layer in all_layers(model)}
    outputs = model(np.zeros([1, *model.input_shape[1:]], np.float32))
    assert {values.dtype.name for values in tf.nest.flatten(outputs)} == {"float32"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_statistics_are_of_all_devices_where_asked(
    network, synchronized, shallow_efficientnet
):
    model = NETWORKS[network](synchronized=synchronized)
    norms = [x for x in all_layers(model) if isinstance(x, keras.layers.BatchNormalization)]
    assert {layer.synchronized for layer in norms} == {synchronized}
