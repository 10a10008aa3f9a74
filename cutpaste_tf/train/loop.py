"""Trains the proxy classifier, stage by stage, and continues an interrupted training."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable

import keras

from cutpaste_tf import run_folder
from cutpaste_tf.config import EPOCH_STEPS, Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.files import UserError
from cutpaste_tf.models import weights
from cutpaste_tf.train import callbacks, epochs
from cutpaste_tf.train.callbacks import SparseLogs
from cutpaste_tf.train.classifier import ProxyClassifier
from cutpaste_tf.train.stages import stages
from cutpaste_tf.train.views import batches


@dataclasses.dataclass(frozen=True)
class TrainingSummary:
    """How long a training took, and how well it told the proxy task's classes apart."""

    seconds: float = 0.0  # of all epochs, also those before an interruption
    images_per_second: float = 0.0  # normal images, each with a view for each class
    proxy_accuracy: float | None = None  # of the last epoch, in [0, 1]; None without epochs
    collapse: epochs.Collapse | None = None  # None if the network tells the classes apart


def train(
    model: ProxyClassifier,
    images: pipeline.Images,
    config: Config,
    run_dir: pathlib.Path,
    evaluate: Callable[[], dict[str, float]] | None = None,
    log: Callable[[str], None] = print,
) -> TrainingSummary:
    """Trains, or continues a training that was interrupted, and saves the final weights.

    Args:
      model: from `classifier.build_classifier`.
      images: the normal training images.
      config: the settings.
      run_dir: the run's folder, where `checkpoints/` and `tensorboard/` are written.
      evaluate: returns the current image AUROCs by name, for TensorBoard; the weights do not
        depend on them.
      log: prints a line.

    Raises:
      UserError: if the loss is not finite.
    """
    checkpoints = run_dir / "checkpoints"
    backup_dir, record_file = checkpoints / "backup", checkpoints / "epochs.json"
    if has_weights(run_dir):
        load_weights(model, run_dir)
        return _summary(epochs.read(record_file), config)

    record = callbacks.EpochRecord(config, record_file)
    shown = run_dir / "tensorboard" / "train"
    throughout = [
        keras.callbacks.TerminateOnNaN(),
        record,
        callbacks.PeriodicEvaluation(evaluate, config.eval_every, config.steps),
        callbacks.TensorBoard(run_dir / "tensorboard"),
        callbacks.StepProgress(config, log),
    ]
    planned, epoch = stages(config), 0
    # Each stage has its own optimiser, and so its own backup, which stays when the stage ends. An
    # interrupted training resumes in the last stage that has one.
    files = {stage: backup_dir / f"{stage.name}.npz" for stage in planned}
    backed_up = [stage for stage in planned if files[stage].is_file()]
    for stage in planned:
        first_epoch, epoch = epoch, epoch + math.ceil(stage.steps / EPOCH_STEPS)
        if backed_up and stage.first_step < backed_up[-1].first_step:
            continue

        # 1. Restore.
        with model.distribute_strategy.scope():
            model.begin(stage, config)
        backup = callbacks.Backup(files[stage])
        backup.restore(model)
        if model.steps_done > stage.first_step:
            log(f"resuming at step {model.steps_done} of {config.steps}")
        else:
            callbacks.show_stage(stage, first_epoch, shown)
        if not model.steps_done:
            callbacks.show_views(images, config, shown)

        # 2. Train.
        if not _train_stage(model, images, config, stage, first_epoch, [*throughout, backup]):
            shutil.rmtree(backup_dir, ignore_errors=True)
            raise UserError(
                f"{run_dir}: the training diverged (its loss is not finite); lower "
                f"--{stage.flag}={stage.learning_rate:g}"
            )

    # 3. Save the final weights. No others are kept, so none are selected on test data.
    save_weights(model, run_dir)
    shutil.rmtree(backup_dir, ignore_errors=True)
    return _summary(record.epochs, config)


def _train_stage(model, images, config, stage, first_epoch, called):
    """Trains the steps that remain of a stage; returns whether the loss stayed finite.

    An epoch has 256 steps; what remains of a stage's steps is a shorter epoch.
    """
    full, rest = divmod(stage.steps, EPOCH_STEPS)
    for first, last, steps in (
        (first_epoch, first_epoch + full, EPOCH_STEPS),
        (first_epoch + full, first_epoch + full + (rest > 0), rest),
    ):
        begin = stage.first_step + (first - first_epoch) * EPOCH_STEPS
        done = model.steps_done
        if done >= begin + (last - first) * steps:
            continue
        history = _fit(
            model,
            batches(images, config, done),
            initial_epoch=first + (done - begin) // EPOCH_STEPS,
            epochs=last,
            steps_per_epoch=steps,
            callbacks=called,
        )
        losses = history.history.get("loss", [])
        if model.stop_training or not all(map(math.isfinite, losses)):
            return False
    return True


def _fit(model, data, *, callbacks, **options):
    """Calls Keras's fit with `SparseLogs`, so that its loop does not wait for each step."""
    counts = {"epochs": options["epochs"], "steps": options["steps_per_epoch"]}
    listed = SparseLogs(callbacks, add_history=True, model=model, verbose=0, **counts)
    return model.fit(data, callbacks=listed, shuffle=False, verbose=0, **options)


def has_weights(run_dir: pathlib.Path) -> bool:
    """Returns whether a run's training has ended."""
    # The head is written first, so where the backbone is, the head is too.
    return (run_dir / run_folder.BACKBONE_WEIGHTS).is_file()


def save_weights(model: ProxyClassifier, run_dir: pathlib.Path) -> None:
    """Writes the final weights of head and backbone, each atomically."""
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    weights.save(model.head, run_dir / run_folder.HEAD_WEIGHTS)
    weights.save(model.backbone, run_dir / run_folder.BACKBONE_WEIGHTS)


def load_weights(model: ProxyClassifier, run_dir: pathlib.Path) -> None:
    """Reads what `save_weights` wrote; a file that does not fit is a UserError."""
    weights.load(model.head, run_dir / run_folder.HEAD_WEIGHTS)
    weights.load(model.backbone, run_dir / run_folder.BACKBONE_WEIGHTS)


def _summary(recorded, config):
    if not recorded:
        return TrainingSummary()
    seconds = sum(epoch.seconds for epoch in recorded)
    rate = sum(epoch.steps for epoch in recorded) * config.batch_size / seconds
    collapse = epochs.collapse(recorded, config)
    return TrainingSummary(seconds, rate, recorded[-1].accuracy, collapse)
