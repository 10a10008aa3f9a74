"""The proxy classifier, the one keras.Model that is trained."""

import functools

import keras
import tensorflow as tf

from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models.head import projection_head
from cutpaste_tf.models.plain import all_layers
from cutpaste_tf.train import views as step_views
from cutpaste_tf.train.stages import Stage, stages

MOMENTUM = 0.9  # Appendix A.1


class ProxyClassifier(keras.Model):
    """Backbone, projection head and softmax over the proxy task's classes.

    `backbone` turns images, [B, H, W, 3] in [0, 1], into a dict of features, [B, D]; `head` turns
    `pool` into logits, [B, K]. `views` makes views and labels inside the train step, on the
    accelerator; None if the data set yields them. The loss has `weight_decay` times half the
    squares of all trained weights, batch normalisation's and biases included, as in the authors'
    companion code ([52]).
    """

    def __init__(
        self,
        backbone: keras.Model,
        head: keras.Model,
        views: step_views.StepViews | None = None,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        self.backbone, self.head = backbone, head
        self._weight_decay = weight_decay
        self._views = views
        # Counts the steps over restarts. The optimiser's own count leaves out steps whose gradients
        # overflow under mixed precision.
        self.step = self.add_weight(
            (), "zeros", "int64", trainable=False, aggregation="only_first_replica", name="step"
        )
        # Made here, because compile would make it in the first step, and TensorFlow traces a step
        # that creates variables twice.
        self._accuracy = keras.metrics.Mean(name="accuracy")
        self._trains_backbone = True
        self.built = True  # as backbone and head are

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logits, float32 [B, K], of images, float32 [B, H, W, 3] in [0, 1]."""
        # A frozen backbone runs in inference mode as a whole, stochastic depth included.
        features = self.backbone(images, training=training and self._trains_backbone)
        return self.head(features["pool"], training=training)

    @property
    def steps_done(self) -> int:
        """The number of train steps so far, also those before an interruption."""
        return int(tf.convert_to_tensor(self.step.value))

    def begin(self, stage: Stage, config: Config) -> None:
        """Sets what a stage trains, and its optimiser."""
        self._trains_backbone = stage.trains_backbone
        self.backbone.trainable = stage.trains_backbone
        if stage.freezes_norms:
            for layer in all_layers(self.backbone):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        # A single cycle of cosine decay, to zero (Appendix A.1).
        schedule = keras.optimizers.schedules.CosineDecay(stage.learning_rate, stage.steps)
        self.compile(
            optimizer=keras.optimizers.SGD(schedule, momentum=MOMENTUM),
            jit_compile=config.jit_compile,
        )
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True) -> tf.Tensor:
        """Returns a device's part of Equation 1's loss on views and the weights' L2 penalty.

        `compile` takes no loss: under tf.distribute Keras would build it for what the data set
        yields, which may be images instead of views.
        """
        entropy = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        squares = tf.add_n([tf.nn.l2_loss(weight.value) for weight in self.trainable_weights])
        loss = tf.reduce_mean(entropy) + self._weight_decay * squares
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    def compute_metrics(self, x, y, y_pred, sample_weight=None) -> dict:
        """Counts the proxy task's accuracy."""
        # Keras's own accuracy compares int32, for which TensorFlow copies the logits to the host.
        self._accuracy.update_state(tf.equal(tf.argmax(y_pred, axis=1), tf.cast(y, tf.int64)))
        return self.get_metrics_result()

    def train_step(self, data: tuple[tf.Tensor, ...]) -> dict:
        """Takes one step on images and what was drawn for them, or on views and labels."""
        if self._views is not None:
            data = self._views.make(*data)
        self.step.assign_add(1)
        return super().train_step(data)


def build_classifier(config: Config) -> ProxyClassifier:
    """Builds the proxy classifier, compiled for the first stage of its training.

    Raises:
      UserError: if the weights cannot be had or belong to another network, or if the devices cannot
        share a batch equally.
    """
    keras.config.set_dtype_policy("mixed_float16" if config.mixed_precision else "float32")
    with _strategy(config).scope():
        backbone = backbones.build_backbone(config)
        head = projection_head(
            backbone.output["pool"].shape[-1],
            len(proxy.TASKS[config.task]),
            dims=config.head_dims,
            seed=config.seed,
            synchronized=config.distribution != "none",
        )
        views = step_views.device_views(config)
        model = ProxyClassifier(backbone, head, views, config.weight_decay)
        for stage in stages(config)[:1]:
            model.begin(stage, config)
    return model


def _strategy(config):
    """Returns how --distribution shares a batch among this machine's GPUs, or logical CPUs."""
    if config.distribution == "none":
        return tf.distribute.get_strategy()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    strategy = _mirrored(*(device.name for device in tf.config.list_logical_devices(kind)))
    count = strategy.num_replicas_in_sync
    if config.batch_size % count:
        raise UserError(
            f"--batch_size={config.batch_size}: must be a multiple of {count}, the number of "
            f"devices that --distribution={config.distribution} shares it among"
        )
    return strategy


# All runs of a process share one: two would give the messages between devices the same numbers.
@functools.cache
def _mirrored(*devices):
    return tf.distribute.MirroredStrategy(devices)
