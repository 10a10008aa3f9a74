"""Builds a backbone by its name, and finds its feature maps."""

import pathlib
from typing import NamedTuple

import keras

from cutpaste_tf.choices import MAP_LEVELS
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.models import weights
from cutpaste_tf.models.efficientnet import efficientnet
from cutpaste_tf.models.resnet import resnet18

_BESIDE = ("pretrained", "trained")  # the names of networks side by side
_EFFICIENTNET = "trunk"  # the name of EfficientNet's inner model


def build_backbone(config: Config, *, initial_weights: bool = True) -> keras.Model:
    """Builds the backbone: images, float32 [B, H, W, 3] in [0, 1], to a dict of features, [B, D].

    Its weights are those of --weights; without `initial_weights` they are random. A UserError says
    that they cannot be had, or belong to another network.
    """
    shared = {"seed": config.seed, "synchronized": config.distribution != "none"}
    if config.backbone == "resnet18":
        backbone = resnet18(
            # A patch model scores smaller patches than it is trained on (Appendix A.5).
            None if config.patch_size else config.size,
            width=config.width,
            stem=config.stem,
            **shared,
        )
    else:
        imagenet = initial_weights and config.weights == "imagenet"
        backbone = efficientnet(config.backbone, config.size, imagenet=imagenet, **shared)
    if initial_weights and config.weights not in ("none", "imagenet"):
        path = pathlib.Path(config.weights)
        if not path.is_file():
            raise UserError(f"--weights={path}: there is no such file")
        # EfficientNet's inner model has the layers of keras.applications' model.
        parts = [backbone, *(m for m in backbone.layers if isinstance(m, keras.Model))]
        if not any(weights.try_load(part, path) for part in parts):
            size = f" with --width={config.width:g} and --stem={config.stem}"
            network = f"--backbone={config.backbone}{size if config.backbone == 'resnet18' else ''}"
            raise UserError(f"--weights={path}: not readable as weights of {network}")
    return backbone


def copy_network(backbone: keras.Model) -> keras.Model:
    """Copies a network; training one leaves the other as it is."""
    copied = keras.models.clone_model(backbone)
    copied.set_weights(backbone.get_weights())
    return copied


def side_by_side(pretrained: keras.Model, trained: keras.Model) -> keras.Model:
    """Puts a network's features beside those of the same network with other weights.

    The model has the same inputs, and features of twice the length. It shares the weights.
    """
    images = keras.Input(trained.input_shape[1:], name="images")
    # Maps are joined, not features: GradCAM and the exported scorer need one map for a feature.
    networks = zip(_BESIDE, (pretrained, trained), strict=True)
    maps = [_with_all_maps(network, name)(images) for name, network in networks]
    features = {}
    for name in trained.output:
        joined = keras.layers.Concatenate(name=f"{name}_maps")([one[name] for one in maps])
        features[name] = keras.layers.GlobalAveragePooling2D(dtype="float32", name=name)(joined)
    return keras.Model(images, features, name="side_by_side")


def feature_maps(network: keras.Model) -> list[keras.Model]:
    """Returns a model of a network's feature maps; two for networks side by side.

    A model turns images, float32 [B, H, W, 3] in [0, 1], into a dict of maps, [B, h, w, C]: those
    whose means are the features, and those of the stages, by their names in `MAP_LEVELS`. It
    shares the network's weights.
    """
    names = {layer.name for layer in network.layers}
    if names >= set(_BESIDE):
        return [network.get_layer(name) for name in _BESIDE]
    return [_with_all_maps(network, network.name)]


class Places(NamedTuple):
    """Where the places of a feature map lie along an axis of the image."""

    first: float  # the pixel, counted from 0, at the middle of the first place
    stride: int  # pixels from one place to the next
    count: int


def places(config: Config, maps: keras.KerasTensor) -> tuple[Places, Places]:
    """Finds where the places of a feature map, [B, h, w, C], lie along the image's two axes.

    Places may lie outside the image.
    """
    one_sided = config.backbone != "resnet18"
    axes = zip(config.size, maps.shape[1:3], strict=True)
    return tuple(_places_along(side, count, one_sided) for side, count in axes)


def _places_along(side, count, one_sided):
    # Each layer with a stride halves a map's sides. ResNet-18 pads all sides alike: the first place
    # stays where it was in the layer before. EfficientNets pad even sides by one zero less above
    # and on the left: the first place moves on by one place of the layer before.
    first, stride = 0.0, 1
    while side > count:
        first += stride * (one_sided and side % 2 == 0)
        side, stride = -(-side // 2), 2 * stride
    if one_sided:
        # Kernels with a stride, trained so on ImageNet, respond most half a pixel before their
        # middle. When one spot of an image was changed, Lite0's maps changed within 2.5 pixels of
        # these places, and 4 to 14 pixels before the receptive fields' middles; at odd sizes they
        # followed the zeros.
        first -= (stride - 1) / 2.0
    return Places(first, stride, count)


def _with_all_maps(network, name):
    """Returns a model of all maps of one network."""
    if any(layer.name == _EFFICIENTNET for layer in network.layers):
        images = keras.Input(network.input_shape[1:], name="images")
        maps = network.get_layer(_EFFICIENTNET)(network.get_layer("normalize")(images))
        maps |= {"block6": maps["level7"], "block7": maps["level8"]}
        return keras.Model(images, maps, name=name)
    maps = {feature: network.get_layer(feature).input for feature in network.output}
    levels = set().union(*MAP_LEVELS.values())
    maps |= {layer.name: layer.output for layer in network.layers if layer.name in levels}
    return keras.Model(network.input, maps, name=name)
