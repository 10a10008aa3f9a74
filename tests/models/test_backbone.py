"""A backbone by its name, with its weights, and where its maps' places lie."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SETTINGS, slow_but
from training import config

from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone, plain
from cutpaste_tf.models.efficientnet import efficientnet
from cutpaste_tf.models.resnet import resnet18


def test_initial_weights_come_from_another_runs_file(tmp_path):
    first = backbone.build_backbone(config(seed=1))
    first.save_weights(tmp_path / "one.weights.h5")
    first.save(tmp_path / "one.keras")
    for name in ("one.weights.h5", "one.keras"):
        loaded = backbone.build_backbone(config(weights=str(tmp_path / name)))
        for a, b in zip(first.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match=r"--weights=.*one\.keras.*--width=0\.125"):
        backbone.build_backbone(config(weights=str(tmp_path / "one.keras"), width=0.125))
    (tmp_path / "bad.weights.h5").write_bytes(b"no weights")
    for name, message in (("bad.weights.h5", "not readable"), ("no.keras", "no such file")):
        with pytest.raises(UserError, match=message):
            backbone.build_backbone(config(weights=str(tmp_path / name)))


NETWORKS = {
    "large": lambda size: resnet18(size, width=0.0625),
    "small": lambda size: resnet18(size, width=0.0625, stem="small"),
    "b0": lambda size: efficientnet("efficientnet_b0", size),
    "lite0": lambda size: efficientnet("efficientnet_lite0", size),
}
SIZES = [(32, 64), (65, 96), (128, 97), (192, 224), (225, 250), (256, 260), (300, 227)]
CASES = [(network, size) for network in NETWORKS for size in SIZES]


def open_up(network):
    """Has each place answer to what is before it, and alike to all that a stride brings it."""
    for layer in plain.all_layers(network):
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            kernel = np.zeros(layer.kernel.shape, np.float32)
            middle = kernel.shape[0] // 2
            window = slice(None) if layer.strides[0] > 1 else slice(middle, middle + 1)
            inputs = 1 if isinstance(layer, keras.layers.DepthwiseConv2D) else kernel.shape[2]
            if "_se_" not in layer.name:  # Squeeze and excitation sees all of an image.
                kernel[window, window] = 0.7 / (inputs * kernel[window, window].shape[0] ** 2)
            layer.kernel.assign(kernel)
    return network


@pytest.mark.parametrize(("name", "size"), slow_but(CASES, *[c for c in CASES if 225 in c[1]]))
@pytest.mark.usefixtures("shallow_efficientnet")
def test_a_place_is_in_the_middle_of_what_its_gradient_is_of(name, size):
    network = open_up(NETWORKS[name](size))
    model = backbone.feature_maps(network)[0]
    # Lighter to one side and to the other: max-pooling hands its gradient to the lightest pixel.
    ramp = np.add.outer(*(np.linspace(0.9, 1.0, side) / 2 for side in size)).astype(np.float32)
    images = tf.constant(np.stack([ramp, ramp[::-1, ::-1]])[..., None].repeat(3, axis=-1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        maps = model(images, training=False)
        middles = {k: m[:, m.shape[1] // 2, m.shape[2] // 2] for k, m in maps.items()}
    settings, compared = Config(**SETTINGS, backbone=network.name, image_size=size), 0
    for level, middle in middles.items():
        field = tape.gradient(middle, images).numpy().any(axis=(0, 3))
        for axis, places in enumerate(backbone.places(settings, model.output[level])):
            assert places.count == maps[level].shape[axis + 1]
            pixels = np.flatnonzero(field.any(axis=1 - axis))
            if pixels[0] < 3 or pixels[-1] >= size[axis] - 3:  # a window of max-pooling
                continue  # It sees more than there is.
            # EfficientNet's answer most to what is before the middle, once they are trained.
            before = 0 if network.name == "resnet18" else (places.stride - 1) / 2
            at = places.first + places.stride * (places.count // 2) + before
            assert at == (pixels[0] + pixels[-1]) / 2, (level, axis)
            compared += 1
    assert compared >= min(size) / 32


def pooled(size):
    """Means of 3, 3, 5, 3 and 5 pixels with a stride of 2, as EfficientNet has its kernels."""
    x = images = keras.Input([*size, 3])
    maps = []
    for number, window in enumerate((3, 3, 5, 3, 5)):
        pool = keras.layers.AveragePooling2D(window, 2, "same" if number % 2 else "valid")
        if pool.padding == "valid":
            zeros = [(window // 2 - (side + 1) % 2, window // 2) for side in x.shape[1:3]]
            x = keras.layers.ZeroPadding2D(zeros)(x)
        x = pool(x)
        maps.append(x)
    return keras.Model(images, maps)


@pytest.mark.parametrize(
    "sizes",
    slow_but([range(32, 529, 31), range(32, 529)], range(32, 529, 31)),
    ids=["some", "all"],
)
def test_places_are_those_of_a_map_of_coordinates_at_every_size(sizes):
    """Means of coordinates are those of the windows' middles; two sizes, up to 1,024, at a time."""
    for size in ((first, first + 496) for first in sizes):
        network = pooled(size)
        settings = Config(**SETTINGS, backbone="efficientnet_b0", image_size=size)
        coordinates = [*np.meshgrid(*map(np.arange, size), indexing="ij"), np.ones(size)]
        all_maps = network(np.stack(coordinates, axis=-1)[None].astype(np.float32))
        for symbolic, maps in zip(network.output, all_maps, strict=True):
            maps = (maps[0, ..., :2] / maps[0, ..., 2:]).numpy()  # Zeros count as nothing.
            for axis, places in enumerate(backbone.places(settings, symbolic)):
                at = places.first + places.stride * np.arange(places.count)
                at += (places.stride - 1) / 2.0  # as above
                # At the border there are zeros.
                middles = np.moveaxis(maps[..., axis], axis, 0)[2:-2]
                expected = np.broadcast_to(at[2:-2, None], middles.shape)
                np.testing.assert_allclose(middles, expected, rtol=1e-5, err_msg=size)
