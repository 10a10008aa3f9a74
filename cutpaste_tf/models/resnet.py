"""ResNet-18 (He et al., CVPR 2016), trained from scratch (Section 4, Appendix A.1).

Where the paper leaves details open, this follows the authors' companion code (their reference
[52]): batch normalisation with momentum 0.9 and epsilon 1e-5, and kernels drawn from
VarianceScaling(2, fan_out). Its weight decay covers batch normalisation too, and here it does not.
"""

import keras

from cutpaste_tf.models.conv import Convolution
from cutpaste_tf.models.norm import FusedBatchNormalization

BLOCKS = (2, 2, 2, 2)
CHANNELS = (64, 128, 256, 512)
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5
# Images in [0, 1] are brought to about zero mean and unit variance.
PIXEL_MEAN = 0.5
PIXEL_DEVIATION = 0.25
# With fewer input channels than a vector has lanes, oneDNN 3 writes beyond its buffer and returns a
# wrong gradient for the kernel of a 1x1 convolution with a stride (uxlfoundation/oneDNN#6035). Such
# a convolution is of every second pixel, so these are taken first, and it needs no stride.
NARROW = 16


def resnet18(
    image_size: int | None,
    *,
    width: float = 1.0,
    stem: str = "large",
    weight_decay: float = 0.0,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds ResNet-18 up to its pooled features.

    Args:
      image_size: height and width of the images, in pixels; None for any.
      width: multiplies the channels of every layer.
      stem: "large" is 7x7 with stride 2 and 3x3 max-pooling with stride 2; "small" is 3x3 with
        stride 1.
      weight_decay: L2 coefficient of the kernels.
      seed: of the initial kernels.
      synchronized: whether batch statistics are of all devices' images, with tf.distribute.

    Returns:
      A model from images, float32 [B, image_size, image_size, 3] in [0, 1], to a dict of one
      feature, `pool`, [B, 512 * width]: the last block's output averaged over space.

    Raises:
      ValueError: for an unknown stem.
    """
    if stem not in ("large", "small"):
        raise ValueError(f"stem must be large or small, not {stem!r}")
    seeds = keras.random.SeedGenerator(seed)
    initial, *rest = (max(1, round(c * width)) for c in CHANNELS)

    def convolution(x, channels, size, stride, name):
        return Convolution(
            channels,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, mode="fan_out", distribution="truncated_normal", seed=seeds
            ),
            kernel_regularizer=keras.regularizers.L2(weight_decay) if weight_decay else None,
            name=name,
        )(x)

    def normalisation(x, name):
        return FusedBatchNormalization(
            momentum=BN_MOMENTUM, epsilon=BN_EPSILON, synchronized=synchronized, name=name
        )(x)

    def relu(x, name):
        return keras.layers.ReLU(name=name)(x)

    images = keras.Input([image_size, image_size, 3], name="images")
    x = keras.layers.Rescaling(
        1.0 / PIXEL_DEVIATION, offset=-PIXEL_MEAN / PIXEL_DEVIATION, name="normalize"
    )(images)
    large = stem == "large"
    x = convolution(x, initial, 7 if large else 3, 2 if large else 1, "stem_conv")
    x = relu(normalisation(x, "stem_bn"), "stem_relu")
    if large:
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (channels, blocks) in enumerate(zip((initial, *rest), BLOCKS, strict=True), 2):
        for block in range(blocks):
            name = f"conv{stage}_block{block + 1}"
            stride = 2 if stage > 2 and block == 0 else 1
            shortcut = x
            if stride > 1 or shortcut.shape[-1] != channels:
                reach = stride
                if stride > 1 and shortcut.shape[-1] < NARROW:
                    pooling = keras.layers.MaxPooling2D(1, strides=stride, name=f"{name}_0_pool")
                    shortcut, reach = pooling(shortcut), 1
                shortcut = convolution(shortcut, channels, 1, reach, f"{name}_0_conv")
                shortcut = normalisation(shortcut, f"{name}_0_bn")
            y = convolution(x, channels, 3, stride, f"{name}_1_conv")
            y = relu(normalisation(y, f"{name}_1_bn"), f"{name}_1_relu")
            y = convolution(y, channels, 3, 1, f"{name}_2_conv")
            y = normalisation(y, f"{name}_2_bn")
            x = relu(keras.layers.Add(name=f"{name}_add")([shortcut, y]), f"{name}_out")
    # Features leave in float32 also under mixed precision: densities are sensitive to rounding.
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(x)
    return keras.Model(images, {"pool": x}, name="resnet18")
