"""One training on several devices: on one machine's (mirrored) or on several machines' (workers).

The global batch, its views and its loss are those of one device; batch statistics are of the whole
batch. With `--distribution=multi_worker` the same command is started on each machine, with the
environment variable TF_CONFIG saying which machines there are and which this one is, as for any
tf.distribute program; all see the same --workdir. The first one alone evaluates and writes.
"""

import functools
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from cutpaste_tf import workers
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError

# What a worker's TensorFlow raises when another one is gone.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def strategy(config: Config) -> tf.distribute.Strategy:
    """Returns how --distribution shares a step among devices.

    Args:
      config: the settings.

    Returns:
      A strategy over all GPUs of this machine or of all workers, or over TensorFlow's logical CPU
      devices where there is no GPU; the default strategy for --distribution=none.

    Raises:
      UserError: if the batch cannot be shared equally, or TF_CONFIG is missing or wrong.
    """
    if config.distribution == "none":
        return tf.distribute.get_strategy()
    if config.distribution == "multi_worker":
        workers.worker_number()  # checks TF_CONFIG
        # Before TensorFlow looks at the devices, which it does once.
        chosen = _of_workers(os.environ["TF_CONFIG"])
    else:
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        chosen = _mirrored(*(device.name for device in tf.config.list_logical_devices(kind)))
    count = chosen.num_replicas_in_sync
    if config.batch_size % count:
        raise UserError(
            f"--batch_size={config.batch_size}: must be a multiple of {count}, the number "
            f"of devices that --distribution={config.distribution} shares it among"
        )
    return chosen


# One for all runs of a process: each numbers the messages between devices from the same number on.
@functools.cache
def _mirrored(*devices):
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _of_workers(tf_config):
    del tf_config  # read by TensorFlow
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"--distribution=multi_worker: cannot be set up ({str(error).splitlines()[0]}); check "
            "TF_CONFIG's hosts and ports"
        ) from error


def _sum(config: Config, value: int) -> int:
    """The sum of all workers' values; waits for all of them."""
    chosen = strategy(config)

    @tf.function(autograph=False)
    def add(number):
        values = chosen.run(tf.identity, args=(number,))
        return chosen.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    total = float(add(tf.constant(value, tf.float64)))
    return round(total * workers.count() / chosen.num_replicas_in_sync)


def wait(config: Config) -> None:
    """Waits until all workers have come here; does nothing on one machine."""
    if config.distribution == "multi_worker":
        _sum(config, 0)


def check_agreement(config: Config, step: int) -> None:
    """Checks that all workers go on from the same step.

    Args:
      config: the settings.
      step: where this one is.

    Raises:
      UserError: if they do not, as when they do not see the same work directory.
    """
    if config.distribution == "multi_worker" and _sum(config, step) != step * workers.count():
        raise UserError(
            f"--workdir={config.workdir}: all workers must see the same folder; they hold "
            "different states of the training"
        )


def share_out(
    config: Config, batches: Callable[[], tf.data.Dataset]
) -> tf.distribute.DistributedDataset:
    """Shares batches among the workers' devices.

    Args:
      config: the settings.
      batches: makes the data set of whole batches, tuples of tensors that all have the same number
        of rows.

    Returns:
      What gives each device its rows of each batch, in order.
    """
    chosen = strategy(config)

    return chosen.distribute_datasets_from_function(lambda context: own_rows(batches(), context))


def own_rows(data: tf.data.Dataset, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Takes a worker's rows of each batch, one of its devices' after the other's.

    Args:
      data: whole batches, tuples of tensors that all have the same number of rows.
      context: which worker, and how many devices there are.

    Returns:
      The rows of each of the worker's devices as an element of its own.
    """
    count = context.num_input_pipelines
    devices = context.num_replicas_in_sync // count

    def of_worker(*batch):
        size = tf.shape(batch[0])[0] // count
        first = context.input_pipeline_id * size
        return tuple(part[first : first + size] for part in batch)

    def of_devices(*rows):
        # Never rows of two batches together.
        return tf.data.Dataset.from_tensor_slices(
            tuple(tf.stack(tf.split(part, devices)) for part in rows)
        )

    data = data.map(of_worker, tf.data.AUTOTUNE)
    return (data.flat_map(of_devices) if devices > 1 else data).prefetch(tf.data.AUTOTUNE)


def fit(
    model: keras.Model,
    data: tf.distribute.DistributedDataset,
    *,
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> keras.callbacks.History:
    """Trains on several workers, as `keras.Model.fit` does on one machine.

    Keras 3 has no fit for MultiWorkerMirroredStrategy (keras-team/keras#20585).

    Args:
      model: a compiled model with a `train_step`.
      data: what `share_out` returned.
      initial_epoch: the first epoch's number.
      epochs: the number after the last epoch's.
      steps_per_epoch: steps an epoch.
      callbacks: Keras's.

    Returns:
      The history.
    """
    chosen = model.distribute_strategy
    history = keras.callbacks.History()
    listed = keras.callbacks.CallbackList(
        [history, *callbacks], model=model, epochs=epochs, steps=steps_per_epoch, verbose=0
    )
    rows = iter(data)

    @tf.function(autograph=False)
    def step(rows):
        chosen.run(model.train_step, args=(next(rows),))

    model.stop_training = False
    listed.on_train_begin()
    logs = {}
    # Reading a metric takes a round among the workers, so that is done once an epoch.
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        listed.on_epoch_begin(epoch)
        for number in range(steps_per_epoch):
            listed.on_train_batch_begin(number)
            step(rows)
            listed.on_train_batch_end(number)
        logs = {name: float(value) for name, value in model.get_metrics_result().items()}
        listed.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    listed.on_train_end(logs)
    return history
