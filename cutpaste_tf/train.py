"""Trains the proxy classifier (Section 2.1, Appendix A.1)."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable

import keras
import tensorflow as tf
import tqdm

from cutpaste_tf.augment import proxy
from cutpaste_tf.config import EPOCH_STEPS, Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.errors import UserError
from cutpaste_tf.models.head import projection_head
from cutpaste_tf.models.resnet import resnet18

BACKBONE_WEIGHTS = "backbone.weights.h5"
HEAD_WEIGHTS = "head.weights.h5"
_GALLERY_IMAGES = 4

Views = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class ProxyClassifier(keras.Model):
    """Backbone, projection head and softmax over the proxy task's classes.

    Args:
      backbone: a model from images, [B, H, W, 3] in [0, 1], to features, [B, D].
      head: a model from features to logits, [B, K].
      views: makes views and labels of a step's number and images (uint8 [B, H, W, 3]) inside the
        train step, on the accelerator; None where the data set yields views and labels.
    """

    def __init__(self, backbone: keras.Model, head: keras.Model, views: Views | None = None):
        super().__init__()
        self.backbone, self.head = backbone, head
        self._views = views
        # Counts the steps over restarts. The optimiser's own count leaves out those whose gradients
        # overflowed under mixed precision.
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        # Made here rather than by compile, which makes it in the first step: every variable that a
        # step creates has the step traced a second time.
        self._accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.build([None, *backbone.input_shape[1:]])

    def build(self, input_shape: list) -> None:
        """Backbone and head are built already."""
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logits, float32 [B, K], of images, float32 [B, H, W, 3] in [0, 1]."""
        return self.head(self.backbone(images, training=training), training=training)

    def compute_metrics(
        self, x: tf.Tensor, y: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
    ) -> dict:
        """Counts the proxy task's accuracy."""
        self._accuracy.update_state(y, y_pred, sample_weight)
        return self.get_metrics_result()

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict:
        """One step on (step, images), or on (views, labels) where they are made on the host."""
        if self._views is not None:
            data = self._views(*data)
        self.step.assign_add(1)
        return super().train_step(data)

    def save_weights(self, filepath: str | os.PathLike, overwrite: bool = True, **options) -> None:
        """Saves as keras.Model does, or raises OSError before anything of a file is written."""
        _reserve(pathlib.Path(filepath), [*self.variables, *self.optimizer.variables])
        super().save_weights(filepath, overwrite, **options)


def view_settings(config: Config) -> proxy.Settings:
    """Returns the ranges of the views that the flags ask for."""
    fields = (field.name for field in dataclasses.fields(proxy.Settings))
    return proxy.Settings(**{name: getattr(config, name) for name in fields})


def view_maker(config: Config) -> Views:
    """Returns the function that makes a step's views, the same wherever it runs.

    Args:
      config: names the task, its ranges and the seed.

    Returns:
      A function of the step, an integer scalar, and images, uint8 [B, H, W, 3], that returns views,
      float32 [K * B, H, W, 3], and labels, int32 [K * B]. The views depend on the seed, the step
      and the images alone, so any step can be made again.
    """
    settings = view_settings(config)

    def views(step: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([tf.constant(config.seed, tf.int32), tf.cast(step, tf.int32)])
        images = tf.cast(images, tf.float32) / 255.0
        return proxy.make_views(images, config.task, seed, settings)

    return views


def build_backbone(config: Config) -> keras.Model:
    """Builds the backbone, with the seed's initial weights."""
    return resnet18(
        config.image_size,
        width=config.width,
        stem=config.stem,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )


def build(config: Config) -> ProxyClassifier:
    """Builds the proxy classifier, ready to be trained.

    Args:
      config: names backbone, head, task and optimiser.

    Returns:
      The compiled model, with the seed's initial weights.
    """
    policy = "mixed_float16" if config.mixed_precision else "float32"
    keras.config.set_dtype_policy(policy)
    backbone = build_backbone(config)
    head = projection_head(
        backbone.output_shape[-1],
        len(proxy.TASKS[config.task]),
        dims=config.head_dims,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )
    views = view_maker(config) if config.augment == "device" else None
    model = ProxyClassifier(backbone, head, views)
    # A single cycle of cosine decay, to zero (Appendix A.1).
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
    model.compile(
        optimizer=keras.optimizers.SGD(schedule, momentum=config.momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=config.jit_compile,
    )
    model.optimizer.build(model.trainable_variables)
    return model


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a training took.

    Attributes:
      seconds: wall-clock time of all epochs, those before an interruption included.
      images_per_second: normal images (each seen once per class) a second.
    """

    seconds: float
    images_per_second: float


def train(
    model: ProxyClassifier,
    images: pipeline.Images,
    config: Config,
    run_dir: pathlib.Path,
    evaluate: Callable[[], float | None] | None = None,
    log: Callable[[str], None] = print,
) -> Summary:
    """Trains, or goes on with a training that was interrupted, and saves the final weights.

    Args:
      model: what `build` made.
      images: the normal training images.
      config: the settings.
      run_dir: the run's folder; writes `checkpoints/` and `tensorboard/` in it.
      evaluate: returns the image AUROC at present, for TensorBoard; the weights do not depend on
        it.
      log: prints a line.

    Returns:
      What it took.

    Raises:
      UserError: if the loss is no longer finite, or the backup cannot be read.
    """
    checkpoints = run_dir / "checkpoints"
    backup_dir, clock_file = checkpoints / "backup", checkpoints / "train_seconds.json"
    if has_weights(run_dir):
        load_weights(model, run_dir)
        return _summary(_read_clock(clock_file), config)

    # 1. Restore. The callback restores the weights, the optimiser and the count of steps; the epoch
    # follows from that count, because a kill between the two files that the callback writes would
    # leave them at odds.
    backup = keras.callbacks.BackupAndRestore(
        str(backup_dir), double_checkpoint=True, delete_checkpoint=False
    )
    backup.set_model(model)
    for name in ("training_metadata.json", "training_metadata.json.bkp"):
        (backup_dir / name).unlink(missing_ok=True)
    try:
        backup.on_train_begin()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{backup_dir}: the interrupted run's backup cannot be read; remove {run_dir} to start "
            "again"
        ) from error
    start = int(model.step)
    if start:
        log(f"resuming at step {start} of {config.steps}")

    # 2. Train, in epochs of 256 steps and the rest.
    clock = _Clock(config.batch_size, clock_file, _read_clock(clock_file) if start else 0.0)
    epochs, rest = divmod(config.steps, EPOCH_STEPS)
    callbacks = [
        keras.callbacks.TerminateOnNaN(),
        clock,
        _Evaluation(evaluate, config.eval_every),
        keras.callbacks.TensorBoard(str(run_dir / "tensorboard"), write_graph=False),
        _Gallery(images, config, run_dir / "tensorboard" / "train"),
        _Progress(config.steps, log),
        backup,
    ]
    views = view_maker(config) if config.augment == "pipeline" else None
    for first, last, steps in ((0, epochs, EPOCH_STEPS), (epochs, epochs + (rest > 0), rest)):
        done = int(model.step)
        if done >= first * EPOCH_STEPS + (last - first) * steps:
            continue
        data = pipeline.training_batches(images, config.batch_size, config.seed, done, views)
        history = model.fit(
            data,
            initial_epoch=done // EPOCH_STEPS,
            epochs=last,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=callbacks,
            verbose=0,
        )
        losses = history.history.get("loss", [])
        if model.stop_training or not all(map(math.isfinite, losses)):
            shutil.rmtree(backup_dir, ignore_errors=True)
            raise UserError(
                f"{run_dir}: the training diverged (its loss is no longer a number); lower "
                f"--learning_rate={config.learning_rate:g}"
            )

    # 3. The final weights are what is evaluated: no selection on test data.
    save_weights(model, run_dir)
    shutil.rmtree(backup_dir, ignore_errors=True)
    return _summary(clock.seconds, config)


def has_weights(run_dir: pathlib.Path) -> bool:
    """Returns whether a run's training has ended."""
    # The head is written first, so the backbone's presence means that both are there.
    return (run_dir / "checkpoints" / BACKBONE_WEIGHTS).is_file()


def save_weights(model: ProxyClassifier, run_dir: pathlib.Path) -> None:
    """Writes the final weights of head and backbone, each atomically."""
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for part, name in ((model.head, HEAD_WEIGHTS), (model.backbone, BACKBONE_WEIGHTS)):
        temporary = checkpoints / f"tmp.{name}"
        _reserve(temporary, part.variables)
        part.save_weights(temporary)
        os.replace(temporary, checkpoints / name)


def _reserve(path, variables):
    """Raises OSError if a file with these variables does not fit on the disk.

    On a full disk the HDF5 library prints pages of errors and ends the process at its exit, so
    that case has to be met before.
    """
    size = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size + 4096 for v in variables) + 2**16
    trial = path.with_name(path.name + ".trial")
    try:
        with open(trial, "wb") as file:
            for start in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - start)))
    finally:
        trial.unlink(missing_ok=True)


def load_weights(model: ProxyClassifier, run_dir: pathlib.Path) -> None:
    """Reads what `save_weights` wrote; a file that does not fit is a UserError."""
    for part, name in ((model.head, HEAD_WEIGHTS), (model.backbone, BACKBONE_WEIGHTS)):
        load_part(part, run_dir / "checkpoints" / name)


def load_part(model: keras.Model, path: pathlib.Path) -> None:
    """Reads one model's weights.

    Args:
      model: what to restore.
      path: a `.weights.h5` file.

    Raises:
      UserError: if the file is missing, damaged or another model's.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; has the run finished?")
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as this network's weights") from error


def _summary(seconds, config):
    return Summary(seconds, config.steps * config.batch_size / seconds if seconds else 0.0)


def _read_clock(path):
    try:
        return float(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return 0.0


class _Clock(keras.callbacks.Callback):
    """Adds images_per_second to the logs, for TensorBoard, and keeps the time across restarts."""

    def __init__(self, batch_size, path, seconds):
        super().__init__()
        self.seconds = seconds
        self._batch_size, self._path = batch_size, path

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        passed = time.perf_counter() - self._began
        self.seconds += passed
        logs["images_per_second"] = self.params["steps"] * self._batch_size / passed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.seconds), encoding="utf-8")


class _Evaluation(keras.callbacks.Callback):
    """Adds image_auroc to the logs every few epochs."""

    def __init__(self, evaluate, every):
        super().__init__()
        self._evaluate, self._every = evaluate, every

    def on_epoch_end(self, epoch, logs=None):
        # Not after the last: the run's own evaluation follows.
        due = self._every and (epoch + 1) % self._every == 0 and epoch + 1 < self.params["epochs"]
        if due and self._evaluate is not None and math.isfinite(logs["loss"]):
            auroc = self._evaluate()
            if auroc is not None:
                logs["image_auroc"] = auroc


class _Gallery(keras.callbacks.Callback):
    """Shows the first step's views in TensorBoard, one image per class."""

    def __init__(self, images, config, folder):
        super().__init__()
        self._images, self._config, self._folder = images, config, folder

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > 0:
            return
        views = gallery(self._images, self._config, _GALLERY_IMAGES)
        with tf.summary.create_file_writer(str(self._folder)).as_default():
            for cls, pictures in zip(proxy.TASKS[self._config.task], views, strict=True):
                tf.summary.image(f"views/{cls.name}", pictures, 0, max_outputs=_GALLERY_IMAGES)


def gallery(images: pipeline.Images, config: Config, count: int) -> tf.Tensor:
    """Makes views of some training images.

    Args:
      images: the training images.
      config: names the task and its ranges.
      count: how many images.

    Returns:
      float32 [K, min(count, N), H, W, 3]: for each class of the task the views of the images.
    """
    count = min(count, images.count)
    chosen = tf.cast(tf.linspace(0, images.count - 1, count), tf.int64)
    views, _ = view_maker(config)(tf.constant(0), images.read(chosen))
    return tf.reshape(views, [len(proxy.TASKS[config.task]), count, *views.shape[1:]])


class _Progress(keras.callbacks.Callback):
    """A bar in a terminal; in a log file a line now and then."""

    SECONDS = 15.0  # between lines of a log file

    def __init__(self, steps, log):
        super().__init__()
        self._steps, self._log = steps, log
        self._bar, self._said = None, -math.inf

    def on_train_begin(self, logs=None):
        self._first = self._done = int(self.model.step)
        self._began = time.perf_counter()
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=self._steps, initial=self._done, unit="step", dynamic_ncols=True, leave=False
            )

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        shown = {"loss": logs["loss"], "accuracy": logs["accuracy"]}
        if "image_auroc" in logs:
            shown["AUROC"] = logs["image_auroc"]
        text = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif now - self._said >= self.SECONDS or self._done >= self._steps:
            self._said = now
            left = (now - self._began) / max(self._done - self._first, 1)
            left *= self._steps - self._done
            self._log(f"step {self._done}/{self._steps}: {text}, {_duration(left)} left")

    def on_train_end(self, logs=None):
        if self._bar is not None:
            self._bar.close()


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
