"""Trains the proxy classifier, stage by stage, and goes on where it was interrupted."""

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
from cutpaste_tf.train.epochs import Collapse
from cutpaste_tf.train.stages import Stage, stages
from cutpaste_tf.train.views import batches


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a training took.

    Attributes:
      seconds: wall-clock time of all epochs, those before an interruption included.
      images_per_second: normal images (each seen once per class) a second.
      proxy_accuracy: share of the last epoch's views whose class was told; None of no epochs.
      collapse: what to say of a network that tells nothing apart, if it does not.
    """

    seconds: float = 0.0
    images_per_second: float = 0.0
    proxy_accuracy: float | None = None
    collapse: Collapse | None = None


def train(
    model: ProxyClassifier,
    images: pipeline.Images,
    config: Config,
    run_dir: pathlib.Path,
    evaluate: Callable[[], dict[str, float]] | None = None,
    log: Callable[[str], None] = print,
) -> Summary:
    """Trains, or goes on with a training that was interrupted, and saves the final weights.

    Args:
      model: what `classifier.build_classifier` made.
      images: the normal training images.
      config: the settings.
      run_dir: the run's folder; writes `checkpoints/` and `tensorboard/` in it.
      evaluate: returns the image AUROCs at present by their names, for TensorBoard; the weights do
        not depend on them.
      log: prints a line.

    Returns:
      What it took.

    Raises:
      UserError: if the loss is no longer finite.
    """
    checkpoints = run_dir / "checkpoints"
    backup_dir, record_file = checkpoints / "backup", checkpoints / "epochs.json"
    if has_weights(run_dir):
        load_weights(model, run_dir)
        return _summary(epochs.read(record_file), config)

    record = callbacks.Record(config, record_file, log)
    shown = run_dir / "tensorboard" / "train"
    throughout = [
        keras.callbacks.TerminateOnNaN(),
        record,
        callbacks.Evaluation(evaluate, config.eval_every, config.steps),
        callbacks.TensorBoard(run_dir / "tensorboard"),
        callbacks.Progress(config, log),
    ]
    planned, epoch = stages(config), 0
    # A stage's optimiser starts anew, so each has a backup of its own. The last one with a backup
    # is where an interrupted training goes on; the stage before it left one at its end.
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
                f"{run_dir}: the training diverged (its loss is no longer a number); lower "
                f"--{stage.flag}={stage.learning_rate:g}"
            )

    # 3. The final weights are what is evaluated: no selection on test data.
    save_weights(model, run_dir)
    shutil.rmtree(backup_dir, ignore_errors=True)
    return _summary(record.epochs, config)


def _train_stage(
    model: ProxyClassifier,
    images: pipeline.Images,
    config: Config,
    stage: Stage,
    first_epoch: int,
    called: list[keras.callbacks.Callback],
) -> bool:
    """Trains the steps that a stage has left; returns whether the loss has stayed finite.

    An epoch has 256 steps; what a stage's steps leave over is one of its own, with fewer.
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


def _fit(model, data, *, epochs, steps_per_epoch, callbacks, **options):
    """Keras's fit, but that its loop does not wait for each step."""
    listed = SparseLogs(
        callbacks, add_history=True, model=model, epochs=epochs, steps=steps_per_epoch, verbose=0
    )
    return model.fit(
        data,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=listed,
        shuffle=False,
        verbose=0,
        **options,
    )


def has_weights(run_dir: pathlib.Path) -> bool:
    """Returns whether a run's training has ended."""
    # The head is written first, so the backbone's presence means that both are there.
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
        return Summary()
    seconds = sum(epoch.seconds for epoch in recorded)
    rate = sum(epoch.steps for epoch in recorded) * config.batch_size / seconds
    return Summary(seconds, rate, recorded[-1].accuracy, epochs.collapse(recorded, config))
