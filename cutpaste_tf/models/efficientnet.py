"""EfficientNet-B0 to B7 of keras.applications, as backbones to fine-tune (Section 4.3, A.4)."""

import os
import pathlib

import keras

from cutpaste_tf.errors import UserError

NAMES = tuple(f"efficientnet_b{number}" for number in range(8))
# What Keras's ImageNet weights were trained with: these statistics of images in [0, 1]. Keras's own
# model keeps them in the weights' file; here they are part of the network, so that it takes its
# images in the same way whatever its weights are.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_DEVIATION = (0.229, 0.224, 0.225)
_ADDRESS = "https://storage.googleapis.com/keras-applications/"


def efficientnet(
    name: str,
    image_size: int,
    *,
    imagenet: bool = False,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds an EfficientNet up to its features.

    Args:
      name: "efficientnet_b0" to "efficientnet_b7".
      image_size: height and width of the images, in pixels.
      imagenet: whether to load Keras's ImageNet weights, from its cache or the network.
      seed: of the initial weights.
      synchronized: whether batch statistics are of all devices' images, with tf.distribute.

    Returns:
      A model from images, float32 [B, image_size, image_size, 3] in [0, 1], to three features,
      float32, all averaged over space (Section 4.3): `pool`, [B, D], after the top convolution
      (1,792 values for B4), `level7`, the output of block 6 (272 for B4), and `level8`, that of
      block 7 (448 for B4). Its one inner model, `trunk`, has the layers of keras.applications'
      model by their names.

      The paper takes "level-7" from Rippel et al. (its [43]), who number EfficientNet's stages from
      the stem: level 1. So block 6 is level 7, and block 7 level 8.

    Raises:
      UserError: if the ImageNet weights are asked for and cannot be had.
      ValueError: for an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, not {name!r}")
    shape = (image_size, image_size, 3)
    whole = _keras_model(name, shape, imagenet)
    if not imagenet:
        _initialise(whole, seed)
    for layer in whole.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = synchronized  # keras.applications takes no such argument

    # Keras's layers from the first after its input scaling on.
    maps = {
        "pool": whole.output,
        "level7": whole.get_layer("block7a_expand_conv").input,
        "level8": whole.get_layer("top_conv").input,
    }
    trunk = keras.Model(whole.get_layer("stem_conv_pad").input, maps, name="trunk")
    images = keras.Input(shape, name="images")
    scaled = keras.layers.Rescaling(
        [1.0 / deviation for deviation in PIXEL_DEVIATION],
        offset=[-m / d for m, d in zip(PIXEL_MEAN, PIXEL_DEVIATION, strict=True)],
        name="normalize",
    )(images)
    # Features leave in float32 also under mixed precision: densities are sensitive to rounding.
    features = {
        feature: keras.layers.GlobalAveragePooling2D(dtype="float32", name=feature)(x)
        for feature, x in trunk(scaled).items()
    }
    return keras.Model(images, features, name=name)


def _keras_model(name, shape, imagenet):
    """keras.applications' model without its classifier."""
    make = getattr(keras.applications, f"EfficientNetB{name[-1]}")
    if not imagenet:
        return make(include_top=False, weights=None, input_shape=shape)
    file_name = f"efficientnetb{name[-1]}_notop.h5"
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    try:
        return make(include_top=False, weights="imagenet", input_shape=shape)
    # Keras raises bare Exceptions for what goes wrong with a download.
    except Exception as error:
        raise UserError(
            f"--weights=imagenet: {_ADDRESS}{file_name} could not be fetched; fetch it where you "
            f"can, put it at {home / 'models' / file_name} and give --weights=imagenet again, or "
            "name other weights by --weights=FILE"
        ) from error


def _initialise(model, seed):
    """Draws a model's kernels from the seed, as keras.applications does without one."""
    initial = keras.initializers.VarianceScaling(
        2.0,
        mode="fan_out",
        distribution="truncated_normal",
        seed=keras.random.SeedGenerator(seed),
    )
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            layer.kernel.assign(initial(layer.kernel.shape))
