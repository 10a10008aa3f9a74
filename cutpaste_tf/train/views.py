"""What a training step sees: batches of images, and the proxy task's views of them."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from cutpaste_tf import distribution
from cutpaste_tf.augment import proxy, random
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline

Views = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def view_settings(config: Config) -> proxy.Settings:
    """Returns the ranges of the views that the flags ask for."""
    fields = (field.name for field in dataclasses.fields(proxy.Settings))
    return proxy.Settings(**{name: getattr(config, name) for name in fields})


def view_maker(config: Config, task: str | None = None, *, jit_compile: bool = False) -> Views:
    """Returns the function that makes a step's views, the same wherever it runs.

    Args:
      config: names the task, its ranges and the seed.
      task: another proxy task in its place.
      jit_compile: whether the views are compiled with XLA by themselves.

    Returns:
      A function of the step, an integer scalar, images, uint8 [B, H, W, 3], and their rows, integer
      [B], where they are a device's share of the step's batch. It returns views, float32
      [K * B, H, W, 3], and labels, int32 [K * B]. The views depend on the seed, the step, the row
      and the images alone, so any step can be made again.

      For a patch model a random crop takes the image's place (Equation 3 crops first), and the
      views are of its size. The paper gives no other ranges for patches, so those of Appendix A.2
      are applied to the crop as they stand: 2% to 15% of its area are pasted, and scars are 2 to 16
      pixels wide and 10 to 25 long, up to four tenths of the side of a crop of 64.
    """
    settings = view_settings(config)

    def views(
        step: tf.Tensor, images: tf.Tensor, rows: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([tf.constant(config.seed, tf.int32), tf.cast(step, tf.int32)])
        if rows is not None:
            seed = random.Share(seed, rows, config.batch_size)
        return proxy.make_views(
            images, task or config.task, seed, settings, jit_compile=jit_compile
        )

    return views


def device_views(config: Config) -> Views | None:
    """Returns what makes views inside a step, of what `batches` yields.

    Args:
      config: the settings.

    Returns:
      The function; None where `batches` yields views already.
    """
    if config.augment == "pipeline":
        return None
    make = view_maker(config)
    if config.distribution == "none":
        return make
    return lambda steps, rows, images: make(steps[0], images, rows)


def batches(
    images: pipeline.Images, config: Config, start: int
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Makes the training batches as `fit` takes them.

    Args:
      images: the normal training images.
      config: the settings.
      start: the step of the first batch.

    Returns:
      An endless data set: with --augment=pipeline of views and labels, else of what the function of
      `device_views` takes.
    """
    if config.distribution == "multi_worker":
        return distribution.share_out(config, lambda: _whole_batches(images, config, start))
    return _whole_batches(images, config, start)


def _whole_batches(images, config, start):
    size = config.batch_size
    # On the host, two cores or many must keep up with a GPU, and XLA makes them two to three times
    # faster. Inside a step on a CPU, views are too small a share of it to pay for compiling.
    make = view_maker(config, jit_compile=True) if config.augment == "pipeline" else None
    data = pipeline.training_batches(images, size, config.seed, start, make)
    if make is None and config.distribution != "none":
        # tf.distribute shares out what has a row for each image.
        data = data.map(lambda step, batch: (tf.fill([size], step), tf.range(size), batch))
    return data


def gallery(
    images: pipeline.Images, config: Config, count: int, task: str | None = None
) -> tf.Tensor:
    """Makes views of some training images.

    Args:
      images: the training images.
      config: names the task and its ranges.
      count: how many images.
      task: another proxy task in its place.

    Returns:
      float32 [K, min(count, N), H, W, 3]: for each class of the task the views of the images.
    """
    count = min(count, images.count)
    chosen = tf.cast(tf.linspace(0, images.count - 1, count), tf.int64)
    views, _ = view_maker(config, task)(tf.constant(0), images.read(chosen))
    classes = len(proxy.TASKS[task or config.task])
    return tf.reshape(views, [classes, count, *views.shape[1:]])
