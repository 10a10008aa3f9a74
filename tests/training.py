"""What the tests of training share: settings of a few steps, and a comparison of weights."""

import keras
import numpy as np
import pytest

from cutpaste_tf.config import Config
from cutpaste_tf.train import classifier, loop


def config(**changes):
    # Tracing cutpaste takes half the time of cutpaste_3way.
    values = {"dataset": "textures", "category": "brick", "task": "cutpaste", "image_size": 32}
    values |= {"width": 0.0625, "head_dims": (8, 4), "batch_size": 4, "steps": 6, "eval_every": 0}
    return Config(**(values | changes))


def weights(model):
    return [w.numpy() for w in (*model.backbone.weights, *model.head.weights)]


def trained(settings, images, run_dir, **options):
    keras.utils.set_random_seed(settings.seed)
    model = classifier.build_classifier(settings)
    loop.train(model, images, settings, run_dir, log=lambda text: None, **options)
    return model


def largest_difference(one, other):
    return max(
        np.abs(a - b).max(initial=0) for a, b in zip(weights(one), weights(other), strict=True)
    )


class Killed(Exception):
    """Ends a training as a kill does: nothing of ours cleans up."""


def train_until_killed(settings, images, run_dir, steps, monkeypatch):
    """Trains in a folder and is killed right after some steps."""
    fit = loop._fit

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.step) == steps:
                raise Killed

    def killed_fit(*args, callbacks, **kwargs):
        return fit(*args, callbacks=[*callbacks, Kill()], **kwargs)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(loop, "_fit", killed_fit)
        trained(settings, images, run_dir)


TWO_STAGES = {"steps": 16, "head_steps": 6, "finetune_steps": 10, "finetune_learning_rate": 0.02}


def variables(model):
    return {v.path: v.numpy() for v in model.variables}
