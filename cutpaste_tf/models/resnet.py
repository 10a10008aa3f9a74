"""ResNet-18 (He et al., CVPR 2016), trained from scratch (Section 4, Appendix A.1).

Where the paper leaves details open, this follows the authors' companion code (their reference
[52]): batch normalisation with momentum 0.9 and epsilon 1e-5, kernels drawn from
VarianceScaling(2, fan_out), and layers with a stride padded by zeros on all sides alike.
"""

import keras

from cutpaste_tf.models.norm import FusedBatchNormalization

BLOCKS = (2, 2, 2, 2)
CHANNELS = (64, 128, 256, 512)
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5
# With these, images in [0, 1] are normalised to about zero mean and unit variance.
PIXEL_MEAN = 0.5
PIXEL_DEVIATION = 0.25
# With fewer input channels than a vector has lanes, oneDNN 3 returns a wrong kernel gradient for a
# 1x1 convolution with a stride (uxlfoundation/oneDNN#6035). Such a convolution sees every second
# pixel, so a pooling picks these pixels first, and the convolution needs no stride.
NARROW = 16


def resnet18(
    image_size: int | tuple[int, int] | None,
    *,
    width: float = 1.0,
    stem: str = "large",
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds ResNet-18 up to `pool`, the last block's output averaged over space.

    The model turns images, float32 [B, H, W, 3] in [0, 1], into a dict of one feature, float32
    [B, 512 * width]. Without `image_size` it takes images of any size. The "large" stem is 7x7 with
    stride 2 and 3x3 max-pooling with stride 2; the "small" one is 3x3 with stride 1. Synchronized
    batch statistics are those of all devices' images under tf.distribute.
    """
    seeds = keras.random.SeedGenerator(seed)
    initial = keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal", seeds)
    stages = [max(1, round(channels * width)) for channels in CHANNELS]

    def padded(x, size, name):
        # "same" would put more zeros below and on the right, and would shift strided maps by a
        # pixel against their shortcuts.
        return keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x) if size > 1 else x

    def convolution(x, channels, size, stride, name):
        return keras.layers.Conv2D(
            channels,
            size,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            use_bias=False,
            kernel_initializer=initial,
            name=name,
        )(x if stride == 1 else padded(x, size, name))

    def normalisation(x, name):
        settings = {"momentum": BN_MOMENTUM, "epsilon": BN_EPSILON, "synchronized": synchronized}
        return FusedBatchNormalization(**settings, name=name)(x)

    def relu(x, name):
        return keras.layers.ReLU(name=name)(x)

    large = stem == "large"
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    images = keras.Input([*sides, 3], name="images")
    scale, offset = 1.0 / PIXEL_DEVIATION, -PIXEL_MEAN / PIXEL_DEVIATION
    x = keras.layers.Rescaling(scale, offset, name="normalize")(images)
    x = convolution(x, stages[0], 7 if large else 3, 2 if large else 1, "stem_conv")
    x = relu(normalisation(x, "stem_bn"), "stem_relu")
    if large:
        x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(padded(x, 3, "stem_pool"))
    for stage, (channels, blocks) in enumerate(zip(stages, BLOCKS, strict=True), 2):
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
            x = keras.layers.Add(name=f"{name}_add")([shortcut, y])
            x = relu(x, f"conv{stage}" if block + 1 == blocks else f"{name}_out")
    # Features are float32 also under mixed precision: densities are sensitive to rounding.
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(x)
    return keras.Model(images, {"pool": x}, name="resnet18")
