"""`python -m cutpaste_tf.main` with a network and views that are quick to trace.

    KILL_AT_STEP=30 python tests/small.py --dataset=folder ...

A ResNet takes fifteen seconds to trace, CutPaste's views take three, and they tell nothing more
about a process that is killed, a full disk or workers that talk to each other; nor do figures,
which are not drawn. An epoch has EPOCH_STEPS steps here. KILL_AT_STEP, if it is set, ends the
process by SIGKILL right after that step. DROPOUT=0 leaves dropout out: it draws other numbers on
each device.
"""

import os
import signal
import sys

EPOCH_STEPS = 16


def build_backbone(settings, *, initial_weights=True):
    """A convolution and a batch norm, with a seed and synchronisation as the real ones."""
    import keras

    initial = keras.initializers.HeNormal(settings.seed)
    features = max(4, round(64 * settings.width))
    inputs = keras.Input([*settings.size, 3])
    x = keras.layers.Conv2D(features, 3, 2, kernel_initializer=initial, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(synchronized=settings.distribution != "none")(x)
    rate = float(os.environ.get("DROPOUT", 0.1))
    x = keras.layers.Dropout(rate, seed=settings.seed)(keras.layers.ReLU()(x))
    return keras.Model(inputs, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})


def staged_backbone(size):
    """Convolutions by the names of a ResNet-18's stages, of strides 4, 8, 16 and 32."""
    import keras

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input([*size, 3])
    x = keras.layers.Conv2D(4, 3, 2, "same", use_bias=False)(x)
    for number in range(2, 6):
        x = keras.layers.Conv2D(6, 3, 2, "same", use_bias=False)(x)
        x = keras.layers.ReLU(name=f"conv{number}")(x)
    return keras.Model(inputs, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})


def draw_views(batch, image_size, task, seed, settings, region=None):
    """Draws a brightness for each image."""
    from cutpaste_tf.augment import random

    return [random.uniform([batch, 1, 1, 1], seed, 0.1, 0.3)], [], None


def apply_views(images, drawn, task, settings, *, jit_compile=False):
    """Views that differ in brightness, by class, image, step and seed as the real ones."""
    import tensorflow as tf

    from cutpaste_tf.augment import proxy

    images = tf.cast(images, tf.float32) / 255.0
    classes = len(proxy.TASKS[task])
    views = tf.concat([images + number * drawn[0][0] for number in range(classes)], axis=0)
    return views, tf.repeat(tf.range(classes), tf.shape(images)[0])


def draw_figures(*arguments):
    """Draws nothing."""


def main():
    """Runs the command line."""
    from cutpaste_tf import main
    from cutpaste_tf.augment import proxy
    from cutpaste_tf.models import backbone
    from cutpaste_tf.run import pictures
    from cutpaste_tf.train import callbacks, loop

    backbone.build_backbone = build_backbone
    proxy.draw_views, proxy.apply_views = draw_views, apply_views
    loop.EPOCH_STEPS = EPOCH_STEPS
    pictures.draw_figures = draw_figures
    last = int(os.environ.get("KILL_AT_STEP", 0))
    count = callbacks.StepProgress.on_train_batch_end

    def count_and_end(self, batch, logs=None):
        count(self, batch, logs)
        if self.done == last:
            os.kill(os.getpid(), signal.SIGKILL)

    callbacks.StepProgress.on_train_batch_end = count_and_end
    return main.main(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
