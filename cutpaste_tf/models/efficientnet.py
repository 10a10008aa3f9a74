"""EfficientNet-B0 to B7 and Lite0 to Lite4, as backbones to fine-tune (Section 4.3, A.4)."""

import copy
import math
import pathlib

import keras

# keras.applications builds B0 to B7 by a function of this module that it does not export.
from keras.src.applications import efficientnet as keras_efficientnet

from cutpaste_tf.files import UserError, locked
from cutpaste_tf.models import lite_weights

# EfficientNet-Lite's factors of width and depth
# (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Lite has no
# squeeze and excitation, ReLU6 for Swish, and B0's stem and top.
_LITE = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}
# Statistics of ImageNet's images in [0, 1], with which Keras's weights were trained. Keras's model
# has them in the weights' file; here they are part of the network, whatever its weights are.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_DEVIATION = (0.229, 0.224, 0.225)
_ADDRESS = "https://storage.googleapis.com/keras-applications/"


def efficientnet(
    name: str,
    image_size: int | tuple[int, int],
    *,
    imagenet: bool = False,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds an EfficientNet up to its features, for images of one size in pixels (Section 4.3).

    The model turns images, float32 [B, H, W, 3] in [0, 1], into three features, float32 [B, D], all
    averaged over space: `pool`, after the top convolution (1,792 values for B4), `level7`, the
    output of block 6 (272 for B4), and `level8`, that of block 7 (448 for B4). Its inner model,
    `trunk`, has keras.applications' layers by their names and returns the maps of the features and
    of blocks 1 to 5. B0 to B7 have Keras's stochastic depth; Lite has none.

    We assume that the paper counts levels as Rippel et al. (its [43]) do, whose level 1 is the
    stem. So block 6 is level 7, and block 7 is level 8.

    ImageNet's weights are Keras's, from its cache or the internet, or, for Lite0 to Lite2, those of
    an installed package; it is a UserError if they cannot be had. Synchronized batch statistics are
    those of all devices' images under tf.distribute.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    shape = (*sides, 3)
    whole = _keras_model(name, shape, imagenet)
    if not imagenet:
        _initialise(whole, seed)
    # keras.applications' networks do not take `synchronized` as an argument.
    for layer in whole.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = synchronized

    feature_maps = {
        "pool": whole.output,
        "level7": whole.get_layer("block7a_expand_conv").input,
        "level8": whole.get_layer("top_conv").input,
    }
    # Blocks end in different layers, but each block begins with the output of the one before.
    maps = {f"block{n}": whole.get_layer(f"block{n + 1}a_expand_conv").input for n in range(1, 6)}
    # Keras's layers after its own scaling of the input.
    first = whole.get_layer("stem_conv_pad").input
    trunk = keras.Model(first, {**feature_maps, **maps}, name="trunk")
    images = keras.Input(shape, name="images")
    if name in _LITE:  # trained on (x - 127) / 128 of bytes
        scale, offset = 255.0 / 128.0, -127.0 / 128.0
    else:
        scale = [1.0 / deviation for deviation in PIXEL_DEVIATION]
        offset = [-m / d for m, d in zip(PIXEL_MEAN, PIXEL_DEVIATION, strict=True)]
    outputs = trunk(keras.layers.Rescaling(scale, offset, name="normalize")(images))
    # Features are float32 also under mixed precision: densities are sensitive to rounding.
    average = keras.layers.GlobalAveragePooling2D
    features = {
        feature: average(dtype="float32", name=feature)(outputs[feature])
        for feature in feature_maps
    }
    return keras.Model(images, features, name=name)


def lite(name: str, shape: tuple[int, int, int], *, classifier: bool = False) -> keras.Model:
    """Builds an EfficientNet-Lite with random weights and keras.applications' names of layers.

    It ends with the top convolution's map, or with the probabilities of ImageNet's 1,000 classes.
    The layers from `stem_conv_pad` on take (x - 127) / 128 of bytes.
    """
    width, depth = _LITE[name]
    blocks = copy.deepcopy(keras_efficientnet.DEFAULT_BLOCKS_ARGS)
    for number, block in enumerate(blocks):
        block["se_ratio"] = 0
        if number > 0:
            block["filters_in"] = _scaled_filters(block["filters_in"], width)
        block["filters_out"] = _scaled_filters(block["filters_out"], width)
        if 0 < number < len(blocks) - 1:
            block["repeats"] = math.ceil(block["repeats"] * depth)
    return keras_efficientnet.EfficientNet(
        # The builder's own factors would also scale the stem and the top.
        width_coefficient=1.0,
        depth_coefficient=1.0,
        default_size=224,
        activation="relu6",
        drop_connect_rate=0.0,
        blocks_args=blocks,
        name=name.replace("_", ""),
        include_top=classifier,
        weights=None,
        input_shape=shape,
    )


def _scaled_filters(filters, width):
    """Rounds `filters * width` to a multiple of 8, as the builder does."""
    rounded = max(8, int(filters * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters * width else rounded


def _keras_model(name, shape, imagenet):
    """The whole network without its classifier."""
    if name in _LITE:
        model = lite(name, shape)
        if imagenet:
            lite_weights.load(model, name)
        return model
    make = getattr(keras.applications, f"EfficientNetB{name[-1]}")
    if not imagenet:
        return make(include_top=False, weights=None, input_shape=shape)
    file_name = f"efficientnetb{name[-1]}_notop.h5"
    # Where a home folder may not be written to, Keras takes another.
    home = pathlib.Path(keras_efficientnet.file_utils.config.keras_home())
    try:
        # Of several runs that start at once, one fetches the weights.
        with locked(home / "models" / f"{file_name}.lock"):
            return make(include_top=False, weights="imagenet", input_shape=shape)
    # Keras raises bare Exceptions if a download fails.
    except Exception as error:
        raise UserError(
            f"--weights=imagenet: {_ADDRESS}{file_name} could not be fetched; fetch it on another "
            f"machine, put it at {home / 'models' / file_name} and run again, or name other "
            "weights by --weights=FILE"
        ) from error


def _initialise(model, seed):
    """Draws a model's kernels from the seed, as keras.applications does without one."""
    seeds = keras.random.SeedGenerator(seed)
    initial = keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal", seeds)
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            layer.kernel.assign(initial(layer.kernel.shape))
