"""Trains the proxy classifier (Section 2.1, Appendix A.1)."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import sys
import time
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
import tqdm

from cutpaste_tf import distribution
from cutpaste_tf.augment import proxy, random, view
from cutpaste_tf.config import EPOCH_STEPS, Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.errors import UserError
from cutpaste_tf.models.efficientnet import efficientnet
from cutpaste_tf.models.head import projection_head
from cutpaste_tf.models.resnet import resnet18

BACKBONE_WEIGHTS = "backbone.weights.h5"
HEAD_WEIGHTS = "head.weights.h5"
_GALLERY_IMAGES = 4

Views = Callable[..., tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training with an optimiser and a cosine cycle of its own.

    Attributes:
      name: "training" where it is the only one, or "head" and "finetune" (Appendix A.4).
      first_step: the number of steps before it.
      steps: its own number of steps.
      learning_rate: at its start.
      trains_backbone: whether the backbone is trained, or the head alone.
      freezes_norms: whether the backbone's batch normalisation stays as it is and runs in inference
        mode.
    """

    name: str
    first_step: int
    steps: int
    learning_rate: float
    trains_backbone: bool = True
    freezes_norms: bool = False

    @property
    def end(self) -> int:
        """The number of steps when it has ended."""
        return self.first_step + self.steps


def stages(config: Config) -> list[Stage]:
    """Returns the stages of a training, in their order; those without steps are left out."""
    if not config.staged:
        planned = [Stage("training", 0, config.steps, config.learning_rate)]
    else:
        # Appendix A.4: the head with the pretrained backbone frozen, then all layers, with batch
        # normalisation frozen throughout.
        head, rest = config.head_steps, config.finetune_steps
        planned = [
            Stage("head", 0, head, config.learning_rate, False, True),
            Stage("finetune", head, rest, config.finetune_learning_rate, True, True),
        ]
    return [stage for stage in planned if stage.steps]


class ProxyClassifier(keras.Model):
    """Backbone, projection head and softmax over the proxy task's classes.

    Args:
      backbone: a model from images, [B, H, W, 3] in [0, 1], to a dict of features, [B, D]; the head
        takes `pool`.
      head: a model from features to logits, [B, K].
      views: makes views and labels of what the data set yields inside the train step, on the
        accelerator; None where the data set yields views and labels.
    """

    def __init__(self, backbone: keras.Model, head: keras.Model, views: Views | None = None):
        super().__init__()
        self.backbone, self.head = backbone, head
        self._views = views
        # Counts the steps over restarts. The optimiser's own count leaves out those whose gradients
        # overflowed under mixed precision.
        self.step = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
            name="step",
        )
        # Made here rather than by compile, which makes it in the first step: every variable that a
        # step creates has the step traced a second time.
        self._accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self._trains_backbone = True
        self.build([None, *backbone.input_shape[1:]])

    def build(self, input_shape: list) -> None:
        """Backbone and head are built already."""
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logits, float32 [B, K], of images, float32 [B, H, W, 3] in [0, 1]."""
        # A frozen backbone runs in inference mode as a whole, stochastic depth included.
        features = self.backbone(images, training=training and self._trains_backbone)
        return self.head(features["pool"], training=training)

    @property
    def steps_done(self) -> int:
        """The number of train steps, those before an interruption included."""
        return int(tf.convert_to_tensor(self.step.value))

    def seed_layers(self, seed: int) -> None:
        """Sets the state of layers that draw random numbers, as a function of seed and step.

        Keras does not save it. Each step moves it on by one, so a training that is interrupted goes
        on with the numbers of one that was not.
        """
        drawing = [x for x in _layers(self.backbone) if getattr(x, "seed_generator", None)]
        for number, layer in enumerate(drawing, 1):
            first = (seed + number * 0x9E3779B1) % 2**32  # far apart from each other
            layer.seed_generator.state.assign([first, self.steps_done])

    def begin(self, stage: Stage, config: Config) -> None:
        """Sets what a stage trains, and its optimiser."""
        self._trains_backbone = stage.trains_backbone
        self.backbone.trainable = stage.trains_backbone
        if stage.freezes_norms:
            for layer in _layers(self.backbone):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        # A single cycle of cosine decay, to zero (Appendix A.1).
        schedule = keras.optimizers.schedules.CosineDecay(stage.learning_rate, stage.steps)
        self.compile(
            optimizer=keras.optimizers.SGD(schedule, momentum=config.momentum),
            jit_compile=config.jit_compile,
        )
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: None = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns a device's part of Equation 1's loss on views and the weights' L2 penalty.

        Written out because Keras builds the losses that `compile` takes, under tf.distribute, on
        what the data set yields, and that may be images and no views.
        """
        entropy = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        loss = tf.reduce_mean(entropy) + tf.add_n(self.losses or [0.0])
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    def compute_metrics(
        self, x: tf.Tensor, y: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
    ) -> dict:
        """Counts the proxy task's accuracy."""
        self._accuracy.update_state(y, y_pred, sample_weight)
        return self.get_metrics_result()

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict:
        """One step on images and what places them, or on views and labels made on the host."""
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
        if config.patch_size:
            crop_seed, seed = random.split(seed, 2)
            images = view.crop(images, config.patch_size, crop_seed)
        return proxy.make_views(
            images, task or config.task, seed, settings, jit_compile=jit_compile
        )

    return views


def _layers(model):
    """All layers of a model, those of models inside it included."""
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else [layer]


def build_backbone(config: Config, *, initial_weights: bool = True) -> keras.Model:
    """Builds the backbone.

    Args:
      config: names the network, its size, its weights and the seed.
      initial_weights: whether to load what --weights names; without, the weights are random, to be
        replaced by a run's.

    Returns:
      A model from images, float32 [B, H, W, 3] in [0, 1], to a dict of features, float32 [B, D].

    Raises:
      UserError: if the weights cannot be had, or are another network's.
    """
    shared = {
        "weight_decay": config.weight_decay,
        "seed": config.seed,
        "synchronized": config.distribution != "none",
    }
    if config.backbone == "resnet18":
        backbone = resnet18(
            # A patch model scores smaller patches than it is trained on (Appendix A.5).
            None if config.patch_size else config.image_size,
            width=config.width,
            stem=config.stem,
            **shared,
        )
    else:
        imagenet = initial_weights and config.weights == "imagenet"
        backbone = efficientnet(config.backbone, config.image_size, imagenet=imagenet, **shared)
    if initial_weights and config.weights not in ("none", "imagenet"):
        path = pathlib.Path(config.weights)
        if not path.is_file():
            raise UserError(f"--weights={path}: there is no such file")
        # EfficientNet's inner model has the layers of keras.applications' own.
        parts = [backbone, *(m for m in backbone.layers if isinstance(m, keras.Model))]
        if not any(_try_load(part, path) for part in parts):
            raise UserError(f"--weights={path}: not readable as weights of {_network(config)}")
    return backbone


def _network(config):
    width = f" with --width={config.width:g}" if config.backbone == "resnet18" else ""
    stem = f" and --stem={config.stem}" if config.backbone == "resnet18" else ""
    return f"--backbone={config.backbone}{width}{stem}"


def set_precision(config: Config) -> None:
    """Sets what layers that are built from now on compute in."""
    keras.config.set_dtype_policy("mixed_float16" if config.mixed_precision else "float32")


def build(config: Config, *, initial_weights: bool = True) -> ProxyClassifier:
    """Builds the proxy classifier, ready for the first stage of its training.

    Args:
      config: names backbone, head, task and optimiser.
      initial_weights: as in `build_backbone`.

    Returns:
      The compiled model, with the seed's initial weights or those that --weights names.

    Raises:
      UserError: if the weights cannot be had, or are another network's.
    """
    set_precision(config)
    with distribution.strategy(config).scope():
        backbone = build_backbone(config, initial_weights=initial_weights)
        head = projection_head(
            backbone.output["pool"].shape[-1],
            len(proxy.TASKS[config.task]),
            dims=config.head_dims,
            weight_decay=config.weight_decay,
            seed=config.seed,
            synchronized=config.distribution != "none",
        )
        model = ProxyClassifier(backbone, head, _views_of_batches(config))
        model.seed_layers(config.seed)
        for stage in stages(config)[:1]:
            model.begin(stage, config)
    return model


def _views_of_batches(config):
    """The function that makes views of what `_batches` yields; None if that is views already."""
    if config.augment == "pipeline":
        return None
    make = view_maker(config)
    if config.distribution == "none":
        return make
    return lambda steps, rows, images: make(steps[0], images, rows)


def _batches(images, config, start):
    """The training batches from a step on, as `fit` takes them."""
    if config.distribution == "multi_worker":
        return distribution.share_out(config, lambda: _whole_batches(images, config, start))
    return _whole_batches(images, config, start)


def _whole_batches(images, config, start):
    size = config.batch_size
    # On the host, two cores or many must keep up with a GPU, and XLA makes them two to three times
    # faster. Inside a step on a CPU, views are too small a share of it to pay for compiling.
    views = view_maker(config, jit_compile=True) if config.augment == "pipeline" else None
    data = pipeline.training_batches(images, size, config.seed, start, views)
    if views is None and config.distribution != "none":
        # tf.distribute shares out what has a row for each image.
        data = data.map(lambda step, batch: (tf.fill([size], step), tf.range(size), batch))
    return data


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
    evaluate: Callable[[], dict[str, float]] | None = None,
    log: Callable[[str], None] = print,
) -> Summary:
    """Trains, or goes on with a training that was interrupted, and saves the final weights.

    Args:
      model: what `build` made.
      images: the normal training images.
      config: the settings.
      run_dir: the run's folder; writes `checkpoints/` and `tensorboard/` in it.
      evaluate: returns the image AUROCs at present by their names, for TensorBoard; the weights do
        not depend on them.
      log: prints a line.

    Returns:
      What it took.

    Raises:
      UserError: if the loss is no longer finite, or the backup cannot be read.
    """
    checkpoints = run_dir / "checkpoints"
    backup_dir, clock_file = checkpoints / "backup", checkpoints / "train_seconds.json"
    if has_weights(run_dir):
        distribution.check_agreement(config, config.steps)
        load_weights(model, run_dir)
        return _summary(_read_clock(clock_file), config)

    clock = _Clock(config.batch_size, clock_file)
    plotted = run_dir / "tensorboard"
    leads = distribution.leads(config)
    shared = [keras.callbacks.TerminateOnNaN()]
    if leads:
        shared += [
            clock,
            _Evaluation(evaluate, config.eval_every, config.steps),
            keras.callbacks.TensorBoard(str(plotted), write_graph=False),
            _Gallery(images, config, plotted / "train"),
            _Progress(config, log),
        ]
    planned, epoch = stages(config), 0
    # A stage's optimiser starts anew, so each has a backup of its own. The last one with a backup
    # is where an interrupted training goes on; the stage before it left one at its end.
    backed_up = [stage for stage in planned if (backup_dir / stage.name).is_dir()]
    for stage in planned:
        first_epoch, epoch = epoch, epoch + math.ceil(stage.steps / EPOCH_STEPS)
        if backed_up and stage.first_step < backed_up[-1].first_step:
            continue

        # 1. Restore.
        with model.distribute_strategy.scope():
            model.begin(stage, config)
        backup = _Backup(backup_dir / stage.name)
        try:
            backup.restore(model)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{backup_dir}: the interrupted run's backup cannot be read; remove {run_dir} to "
                "start again"
            ) from error
        model.seed_layers(config.seed)
        done = model.steps_done
        distribution.check_agreement(config, done)
        if done > stage.first_step:
            log(f"resuming at step {done} of {config.steps}")

        # 2. Train, in epochs of 256 steps and the rest.
        callbacks = shared
        if leads:
            announcement = _Announcement(stage, first_epoch, plotted / "train")
            callbacks = [announcement, *shared, backup]
        fit = functools.partial(_fit, model)
        if config.distribution == "multi_worker":
            fit = functools.partial(distribution.fit, model)
        full, rest = divmod(stage.steps, EPOCH_STEPS)
        for first, last, steps in (
            (first_epoch, first_epoch + full, EPOCH_STEPS),
            (first_epoch + full, epoch, rest),
        ):
            begin = stage.first_step + (first - first_epoch) * EPOCH_STEPS
            done = model.steps_done
            if done >= begin + (last - first) * steps:
                continue
            history = fit(
                _batches(images, config, done),
                initial_epoch=first + (done - begin) // EPOCH_STEPS,
                epochs=last,
                steps_per_epoch=steps,
                callbacks=callbacks,
            )
            losses = history.history.get("loss", [])
            if model.stop_training or not all(map(math.isfinite, losses)):
                if leads:
                    shutil.rmtree(backup_dir, ignore_errors=True)
                name = "finetune_learning_rate" if stage.name == "finetune" else "learning_rate"
                raise UserError(
                    f"{run_dir}: the training diverged (its loss is no longer a number); lower "
                    f"--{name}={stage.learning_rate:g}"
                )

    # 3. The final weights are what is evaluated: no selection on test data.
    if leads:
        save_weights(model, run_dir)
        shutil.rmtree(backup_dir, ignore_errors=True)
    return _summary(clock.seconds, config)


def _fit(model, data, *, epochs, steps_per_epoch, callbacks, **options):
    """Keras's fit, but that its loop does not wait for each step."""
    listed = _Callbacks(
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


class _Callbacks(keras.callbacks.CallbackList):
    """Reads the logs of one step in many.

    To read them is to wait for the step, and an accelerator then waits for the next one. Keras
    reads every step's for its callbacks; of those here only the search for a loss that is no number
    looks at them.
    """

    EVERY = 32  # steps

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs if (batch + 1) % self.EVERY == 0 else None)


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
    if not _try_load(model, path):
        raise UserError(f"{path}: not readable as this network's weights")


def _try_load(model, path):
    """Reads weights; whether they fit and are finite. Keras warns of each layer that does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.load_weights(path)
        # A damaged or hostile file makes h5py, zipfile and Keras raise almost anything.
        except Exception:
            return False
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def _summary(seconds, config):
    return Summary(seconds, config.steps * config.batch_size / seconds if seconds else 0.0)


def _read_clock(path):
    try:
        return float(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return 0.0


class _Backup(keras.callbacks.BackupAndRestore):
    """Restores once, when it is told to, rather than at the beginning of each fit."""

    def __init__(self, folder):
        super().__init__(str(folder), double_checkpoint=True, delete_checkpoint=False)
        self._folder = folder

    def restore(self, model):
        # The epoch follows from the model's count of steps: a kill between the two files that the
        # callback writes would leave them at odds.
        for name in ("training_metadata.json", "training_metadata.json.bkp"):
            (self._folder / name).unlink(missing_ok=True)
        self.set_model(model)
        super().on_train_begin()

    def on_train_begin(self, logs=None):
        pass


class _Clock(keras.callbacks.Callback):
    """Adds images_per_second to the logs, for TensorBoard, and keeps the time across restarts."""

    def __init__(self, batch_size, path):
        super().__init__()
        self._batch_size, self._path = batch_size, path
        self.seconds = 0.0

    def on_train_begin(self, logs=None):
        self.seconds = _read_clock(self._path) if self.model.steps_done else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        passed = time.perf_counter() - self._began
        self.seconds += passed
        logs["images_per_second"] = self.params["steps"] * self._batch_size / passed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.seconds), encoding="utf-8")


class _Evaluation(keras.callbacks.Callback):
    """Adds the image AUROCs to the logs every few epochs."""

    def __init__(self, evaluate, every, steps):
        super().__init__()
        self._evaluate, self._every, self._steps = evaluate, every, steps

    def on_epoch_end(self, epoch, logs=None):
        # Not after the last: the run's own evaluation follows.
        due = self._every and (epoch + 1) % self._every == 0 and self.model.steps_done < self._steps
        if due and self._evaluate is not None and math.isfinite(logs["loss"]):
            logs.update(self._evaluate())


class _Announcement(keras.callbacks.Callback):
    """Shows a stage's name in TensorBoard, at the epoch where it begins."""

    def __init__(self, stage, first_epoch, folder):
        super().__init__()
        self._stage, self._first_epoch, self._folder = stage, first_epoch, folder

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > self._first_epoch:
            return
        trained = "all layers" if self._stage.trains_backbone else "the head"
        frozen = ", batch normalisation frozen" if self._stage.freezes_norms else ""
        text = (
            f"{self._stage.name}: steps {self._stage.first_step} to {self._stage.end}, {trained}"
            f"{frozen}, learning rate from {self._stage.learning_rate:g}"
        )
        with tf.summary.create_file_writer(str(self._folder)).as_default():
            tf.summary.text("stage", text, epoch)


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


class _Progress(keras.callbacks.Callback):
    """A bar in a terminal; in a log file a line now and then."""

    SECONDS = 15.0  # between lines of a log file

    def __init__(self, config, log):
        super().__init__()
        self._steps, self._log = config.steps, log
        self._stages = stages(config)
        self._bar, self._said = None, -math.inf

    def on_train_begin(self, logs=None):
        self._first = self._done = self.model.steps_done
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
        if len(self._stages) > 1:
            text += ", " + next(s.name for s in self._stages if self._done <= s.end)
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
