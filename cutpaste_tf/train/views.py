"""What a training step takes: batches of images, and the proxy task's views of them."""

import dataclasses

import numpy as np
import tensorflow as tf

from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline


def view_settings(config: Config) -> proxy.Settings:
    """Returns the views' ranges that the flags ask for."""
    fields = (field.name for field in dataclasses.fields(proxy.Settings))
    return proxy.Settings(**{name: getattr(config, name) for name in fields})


class StepViews:
    """Makes a step's views in two halves, so that no accelerator waits for random numbers.

    `draw` draws what happens to each image, on the host and ahead of the step; `make` makes the
    views' pixels, where the network runs. A call does both. The views depend on the seed, the step
    and the images alone, so any step can be made again.

    For a patch model a random crop takes the image's place (Equation 3). The paper gives no ranges
    for patches, so those of Appendix A.2 apply to the crop: 2% to 15% of the crop's area are
    pasted, and scars are up to four tenths as long as a crop of 64 pixels.
    """

    def __init__(self, config: Config, task: str | None = None, *, jit_compile: bool = False):
        self._task, self._settings = task or config.task, view_settings(config)
        self._seed, self._size = config.seed, config.size
        self._jit_compile = jit_compile
        # Data sets and tf.distribute take only tensors; these dtypes restore what was drawn.
        example = tf.ones([1, *self._size], tf.bool) if config.masked else None
        drawn = self._draw(0, 1, example)
        self._dtypes = tf.nest.map_structure(lambda part: getattr(part, "dtype", None), drawn)

    def _draw(self, step, count, region):
        seed = tf.stack([tf.constant(self._seed, tf.int32), tf.cast(step, tf.int32)])
        return proxy.draw_views(count, self._size, self._task, seed, self._settings, region)

    def draw(
        self, step: int | tf.Tensor, count: int | tf.Tensor, region: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Draws a step's random numbers for B images, as `make` takes them, each [B, ...].

        `region`, bool [B, h, w], is each image's region of interest, if the run has one.
        """
        # On the CPU, so that the numbers are the same bits on every machine.
        with tf.device("/CPU:0"):
            drawn = tf.nest.flatten(self._draw(step, count, region))
            # tf.distribute sums batches of several devices, and cannot add booleans.
            drawn = [x if x is None or x.dtype != tf.bool else tf.cast(x, tf.uint8) for x in drawn]
        return tuple(part for part in drawn if part is not None)

    def make(self, images: tf.Tensor, *numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes the views of images, uint8 [B, H, W, 3], by what `draw` drew for them.

        Returns views, float32 [K * B, h, w, 3], and labels, int32 [K * B].
        """
        rest = iter(numbers)
        dtypes = tf.nest.flatten(self._dtypes)
        flat = [None if dtype is None else tf.cast(next(rest), dtype) for dtype in dtypes]
        drawn = tf.nest.pack_sequence_as(self._dtypes, flat)
        return proxy.apply_views(
            images, drawn, self._task, self._settings, jit_compile=self._jit_compile
        )

    def __call__(
        self, step: int | tf.Tensor, images: tf.Tensor, region: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws and makes a step's views of images, uint8 [B, H, W, 3], as `make` returns them."""
        return self.make(images, *self.draw(step, tf.shape(images)[0], region))


def device_views(config: Config) -> StepViews | None:
    """Returns what makes views inside a step from what `batches` yields; None if that is views.

    With a GPU, XLA compiles `make`, since some of its operations have no GPU kernel. On a CPU,
    views are too small a share of the step to pay for compiling.
    """
    if config.augment == "pipeline":
        return None
    return StepViews(config, jit_compile=bool(tf.config.list_logical_devices("GPU")))


def batches(images: pipeline.Images, config: Config, start: int) -> tf.data.Dataset:
    """Makes the endless training batches from step `start` on.

    They are views and labels with --augment=pipeline, else what `StepViews.make` takes.
    """
    views = StepViews(config)

    def numbers(step, batch, region=None):
        return batch, *views.draw(step, config.batch_size, region)

    make = views if config.augment == "pipeline" else numbers
    return pipeline.training_batches(images, config.batch_size, config.seed, start, make)


def gallery(
    images: pipeline.Images, config: Config, count: int, task: str | None = None
) -> tf.Tensor:
    """Makes the views of `count` training images, or of all if there are fewer.

    The task is the run's, or another one. Returns float32 [K, count, H, W, 3], class by class.
    """
    usable = np.flatnonzero(images.in_region)
    count = min(count, len(usable))
    selected = tf.constant(usable[np.linspace(0, len(usable) - 1, count).astype(np.int64)])
    region = None if images.regions is None else images.regions_of(selected)
    views, _ = StepViews(config, task)(0, images.read(selected), region)
    classes = len(proxy.TASKS[task or config.task])
    return tf.reshape(views, [classes, count, *views.shape[1:]])
