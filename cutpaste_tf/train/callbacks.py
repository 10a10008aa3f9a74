"""Callbacks of a training: backups, a record of epochs, TensorBoard, the progress bar."""

import datetime
import math
import pathlib
import time
from collections.abc import Callable

import keras
import tensorflow as tf
import tqdm

from cutpaste_tf import cli
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.files import read_npz, write_npz
from cutpaste_tf.train import epochs, views
from cutpaste_tf.train.epochs import Epoch
from cutpaste_tf.train.stages import Stage, stages

_GALLERY_IMAGES = 4
_LINE_SECONDS = 15.0  # from one line of progress to the next


class SparseLogs(keras.callbacks.CallbackList):
    """A list of callbacks that gets the logs of every 32nd step only.

    Reading a step's logs waits for the step's end, and meanwhile the accelerator gets no work.
    """

    EVERY = 32  # steps

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Passes the logs on, or none."""
        super().on_train_batch_end(batch, logs if (batch + 1) % self.EVERY == 0 else None)


class Backup(keras.callbacks.Callback):
    """Saves all that a step changes, after each epoch, whole or not at all."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Writes the backup."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        variables = enumerate(_state(self.model))
        write_npz(self._path, {str(number): variable.numpy() for number, variable in variables})

    def restore(self, model: keras.Model) -> None:
        """Reads the backup, if there is one."""
        if self._path.is_file():
            arrays = read_npz(self._path).values()
            for variable, array in zip(_state(model), arrays, strict=True):
                variable.assign(array)


def _state(model):
    # The model's variables include the state of layers that draw random numbers.
    return [*model.variables, *model.optimizer.variables]


class EpochRecord(keras.callbacks.Callback):
    """Keeps the epochs in a file across restarts."""

    def __init__(self, config: Config, path: pathlib.Path):
        super().__init__()
        self._config, self._path = config, path
        self.epochs: list[Epoch] = []

    def on_train_begin(self, logs=None) -> None:
        """Reads the epochs of an interrupted training, as far as its backup has them."""
        self.epochs = epochs.until(epochs.read(self._path), self.model.steps_done)

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Records the epoch, and adds images_per_second to TensorBoard's logs."""
        seconds, steps = time.perf_counter() - self._start, self.params["steps"]
        logs["images_per_second"] = steps * self._config.batch_size / seconds
        self.epochs.append(Epoch(steps, seconds, float(logs["accuracy"])))
        epochs.write(self._path, self.epochs)


class PeriodicEvaluation(keras.callbacks.Callback):
    """Adds the image AUROCs to the logs every few epochs; never for `every` = 0."""

    def __init__(self, evaluate: Callable[[], dict[str, float]] | None, every: int, steps: int):
        super().__init__()
        self._evaluate, self._every, self._steps = evaluate, every, steps

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Evaluates, but not after the last epoch: the run's own evaluation follows."""
        due = self._every and (epoch + 1) % self._every == 0 and self.model.steps_done < self._steps
        if due and self._evaluate is not None and math.isfinite(logs["loss"]):
            logs.update(self._evaluate())


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras's callback, which warns of the first error in writing and then writes no more."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(str(folder), write_graph=False)
        self._works = True

    def on_train_begin(self, logs=None) -> None:
        """Opens the file."""
        self._write(super().on_train_begin)

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Writes the logs."""
        self._write(super().on_epoch_end, epoch, logs)

    def on_train_end(self, logs=None) -> None:
        """Closes the file."""
        self._write(super().on_train_end)

    def _write(self, method, *arguments):
        if self._works:
            self._works = False
            with cli.faults_as_warnings(f"{self.log_dir}: not written"):
                method(*arguments)
                self._works = True


class StepProgress(keras.callbacks.Callback):
    """Shows how far the training is: by a bar in a terminal, by lines of the log elsewhere."""

    def __init__(self, config: Config, log: Callable[[str], None]):
        super().__init__()
        self._steps, self._log = config.steps, log
        self._stages = stages(config)

    def on_train_begin(self, logs=None) -> None:
        """Opens the bar at the steps that are done already."""
        self.done = self._first = self.model.steps_done
        # Without a terminal the bar is disabled, and counts nothing.
        self._bar = tqdm.tqdm(
            total=self._steps, initial=self.done, unit="step", leave=False, disable=None
        )
        self._start = self._last = time.monotonic()

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Counts a step."""
        self.done += 1
        self._bar.update()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Shows loss, accuracy and, if it was measured, the AUROC."""
        names = {"loss": "loss", "accuracy": "accuracy", "image_auroc": "AUROC"}
        texts = [f"{label} {logs[name]:.3f}" for name, label in names.items() if name in logs]
        if len(self._stages) > 1:
            texts.append(next(stage.name for stage in self._stages if self.done <= stage.end))
        self._bar.set_postfix_str(", ".join(texts))
        now = time.monotonic()
        due = epoch == 0 or self.done >= self._steps or now - self._last >= _LINE_SECONDS
        if self._bar.disable and due:
            self._last = now
            per_step = (now - self._start) / (self.done - self._first)
            left = datetime.timedelta(seconds=round(per_step * (self._steps - self.done)))
            self._log(f"step {self.done}/{self._steps}: {', '.join(texts)}, {left} left")

    def on_train_end(self, logs=None) -> None:
        """Closes the bar."""
        self._bar.close()


@cli.faults_as_warnings("TensorBoard's stage: not written")
def show_stage(stage: Stage, epoch: int, folder: pathlib.Path) -> None:
    """Shows a stage's name in TensorBoard's folder, at the epoch where it begins."""
    trained = "all layers" if stage.trains_backbone else "the head"
    frozen = ", batch normalisation frozen" if stage.freezes_norms else ""
    text = (
        f"{stage.name}: steps {stage.first_step} to {stage.end}, {trained}{frozen}, learning rate "
        f"from {stage.learning_rate:g}"
    )
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.text("stage", text, epoch)


@cli.faults_as_warnings("TensorBoard's views: not written")
def show_views(images: pipeline.Images, config: Config, folder: pathlib.Path) -> None:
    """Shows the first step's views in TensorBoard's folder, a few images per class."""
    by_class = views.gallery(images, config, _GALLERY_IMAGES)
    with tf.summary.create_file_writer(str(folder)).as_default():
        for cls, pictures in zip(proxy.TASKS[config.task], by_class, strict=True):
            tf.summary.image(f"views/{cls.name}", pictures, 0, max_outputs=_GALLERY_IMAGES)
