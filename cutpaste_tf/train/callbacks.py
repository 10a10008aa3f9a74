"""What is done beside the steps: backups, the clock, TensorBoard, the progress bar."""

import math
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf import command
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.files import read_npz, replacing
from cutpaste_tf.train import epochs, views
from cutpaste_tf.train.epochs import Epoch
from cutpaste_tf.train.stages import Stage, stages

_GALLERY_IMAGES = 4


class SparseLogs(keras.callbacks.CallbackList):
    """Callbacks that read the logs of one step in many.

    To read them is to wait for the step, and an accelerator then waits for the next one. Keras
    reads every step's for its callbacks; of those here only the search for a loss that is no number
    looks at them.
    """

    EVERY = 32  # steps

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Passes on the logs of every 32nd step."""
        super().on_train_batch_end(batch, logs if (batch + 1) % self.EVERY == 0 else None)


class Backup(keras.callbacks.Callback):
    """Saves the training after each epoch, whole or not at all."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Writes all that a step changes, the state of layers that draw random numbers included."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as temporary, open(temporary, "wb") as file:
            np.savez(file, *(variable.numpy() for variable in _state(self.model)))

    def restore(self, model: keras.Model) -> None:
        """Reads the backup, if there is one."""
        if self._path.is_file():
            arrays = read_npz(self._path).values()
            for variable, array in zip(_state(model), arrays, strict=True):
                variable.assign(array)


def _state(model):
    return [*model.variables, *model.optimizer.variables]


class Record(keras.callbacks.Callback):
    """Keeps the epochs in a file across restarts, and says when the network has collapsed.

    Adds images_per_second to the logs, for TensorBoard.
    """

    def __init__(self, config: Config, path: pathlib.Path, log: Callable[[str], None]):
        super().__init__()
        self._config, self._path, self._log = config, path, log
        self.epochs: list[Epoch] = []

    def on_train_begin(self, logs=None) -> None:
        """Takes up an interrupted training; what its backup had not yet is done again."""
        self.epochs = epochs.until(epochs.read(self._path), self.model.steps_done)

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Adds the epoch."""
        passed, steps = time.perf_counter() - self._began, self.params["steps"]
        logs["images_per_second"] = steps * self._config.batch_size / passed
        before = epochs.collapse(self.epochs, self._config)
        self.epochs.append(Epoch(steps, passed, float(logs["accuracy"])))
        epochs.write(self._path, self.epochs)
        after = epochs.collapse(self.epochs, self._config)
        # A network that has learnt nothing yet may be about to; the end will tell.
        if after is not None and before is None and after.since and math.isfinite(logs["loss"]):
            self._log(f"warning: {after}")


class Evaluation(keras.callbacks.Callback):
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
    """Keras's, but that a fault of its files is a warning, after which it writes nothing more."""

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
            with command.faults_as_warnings(f"{self.log_dir}: not written"):
                method(*arguments)
                self._works = True


class Progress(keras.callbacks.Callback):
    """Shows how far the training is."""

    def __init__(self, config: Config, log: Callable[[str], None]):
        super().__init__()
        self._steps, self._log = config.steps, log
        self._stages = stages(config)

    def on_train_begin(self, logs=None) -> None:
        """Begins at the steps that are done already."""
        done = self.model.steps_done
        self.progress = command.Progress(self._steps, "step", self._log, done=done)

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Counts a step."""
        self.progress.update()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Tells loss, accuracy and, where it was measured, the AUROC."""
        shown = {"loss": logs["loss"], "accuracy": logs["accuracy"]}
        if "image_auroc" in logs:
            shown["AUROC"] = logs["image_auroc"]
        text = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        done = self.progress.done
        if len(self._stages) > 1:
            text += ", " + next(s.name for s in self._stages if done <= s.end)
        self.progress.tell(text, now=epoch == 0 or done >= self._steps)

    def on_train_end(self, logs=None) -> None:
        """Closes the bar."""
        self.progress.__exit__()


@command.faults_as_warnings("TensorBoard's stage: not written")
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


@command.faults_as_warnings("TensorBoard's views: not written")
def show_views(images: pipeline.Images, config: Config, folder: pathlib.Path) -> None:
    """Shows the first step's views in TensorBoard's folder, a few images per class."""
    by_class = views.gallery(images, config, _GALLERY_IMAGES)
    with tf.summary.create_file_writer(str(folder)).as_default():
        for cls, pictures in zip(proxy.TASKS[config.task], by_class, strict=True):
            tf.summary.image(f"views/{cls.name}", pictures, 0, max_outputs=_GALLERY_IMAGES)
