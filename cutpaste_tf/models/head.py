"""The projection head: an MLP on the pooled features, and the proxy task's logits (Section 4)."""

from collections.abc import Sequence

import keras

from cutpaste_tf.models.resnet import BN_EPSILON, BN_MOMENTUM


def projection_head(
    features: int,
    classes: int,
    *,
    dims: Sequence[int] = (128,),
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds the head of the companion code (the paper's [52]); only the logits have a bias.

    The model turns features, float32 [B, features], into logits, float32 [B, classes]. Each of
    `dims` but the last is a Dense layer without bias, batch normalisation and ReLU; the last is
    linear; the logits follow. The companion code's rotation script has eight layers of 512 units.
    """
    # The backbone's seeds count from `seed`.
    seeds = keras.random.SeedGenerator(seed + 1)

    # Scaled by fan_out, as convolutions are, three logits would have a standard deviation of nine.
    def dense(units, name, **options):
        initial = keras.initializers.GlorotUniform(seed=seeds)
        return keras.layers.Dense(units, kernel_initializer=initial, name=name, **options)

    inputs = x = keras.Input([features], name="features")
    for number, units in enumerate(dims[:-1], 1):
        x = dense(units, f"dense{number}", use_bias=False)(x)
        x = keras.layers.BatchNormalization(
            momentum=BN_MOMENTUM, epsilon=BN_EPSILON, synchronized=synchronized, name=f"bn{number}"
        )(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = dense(dims[-1], "projection", use_bias=False)(x)
    # Softmax and loss in float32 also under mixed precision.
    logits = dense(classes, "logits", dtype="float32")(x)
    return keras.Model(inputs, logits, name="head")
