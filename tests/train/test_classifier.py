"""A step of the proxy classifier."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow_but
from training import config, largest_difference, trained, variables, weights

from cutpaste_tf.augment import proxy
from cutpaste_tf.train import classifier
from cutpaste_tf.train import views as step_views

pytestmark = pytest.mark.usefixtures("small_backbone")


def test_a_step_is_the_papers(images, tmp_path):
    """One step equals the update written out: cross-entropy, L2, momentum SGD."""
    settings = config(weight_decay=0.01, learning_rate=0.5)
    model, copy = classifier.build_classifier(settings), classifier.build_classifier(settings)
    batch = images.read(tf.range(4))
    numbers = step_views.StepViews(settings).draw(7, 4)
    views, labels = step_views.StepViews(settings).make(batch, *numbers)
    with tf.GradientTape() as tape:
        logits = copy(views, training=True)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        # The companion code's penalty: half the squares of all, batch normalisation's included.
        squares = [tf.reduce_sum(tf.square(w.value)) for w in copy.trainable_weights]
        loss = tf.reduce_mean(entropy) + 0.01 * 0.5 * tf.add_n(squares)
    gradients = tape.gradient(loss, [w.value for w in copy.trainable_weights])
    logs = model.train_step((batch, *numbers))
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for after, before, gradient in zip(
        model.trainable_weights, copy.trainable_weights, gradients, strict=True
    ):
        expected = before.numpy() - 0.5 * gradient.numpy()
        np.testing.assert_allclose(after.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert model.optimizer.momentum == 0.9


# Of each number of classes one by default.
@pytest.mark.parametrize("task", slow_but(list(proxy.TASKS), "rotation", "cutpaste_3way"))
def test_every_task_trains(task, images, tmp_path):
    settings = config(task=task)
    model = trained(settings, images, tmp_path)
    assert model.head.output_shape[-1] == {"rotation": 4, "cutpaste_3way": 3}.get(task, 2)
    assert model.steps_done == 6
    assert largest_difference(model, classifier.build_classifier(settings)) > 0


@pytest.mark.parametrize("flag", slow_but(["jit_compile", "mixed_precision"], "mixed_precision"))
def test_trains_under_xla_and_mixed_precision(flag, images, tmp_path, monkeypatch):
    # Keras's dropout draws random floats, which are others under XLA.
    monkeypatch.setattr(keras.layers, "Dropout", lambda rate, seed: keras.layers.Identity())
    settings = config(steps=6, **{flag: True})
    try:
        model = trained(settings, images, tmp_path)
    finally:
        keras.config.set_dtype_policy("float32")
    if flag == "jit_compile":
        assert largest_difference(model, trained(config(steps=6), images, tmp_path / "p")) < 1e-3
    assert model.steps_done == 6
    # Not all steps were left out for overflow: the statistics alone move even then.
    untrained = classifier.build_classifier(config(steps=6))
    kernel, initial = (m.backbone.trainable_weights[0].numpy() for m in (model, untrained))
    assert np.abs(kernel - initial).max() > 1e-5
    assert all(np.isfinite(w).all() for w in weights(model))
    assert all(w.dtype == np.float32 for w in weights(model))


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["jit_compile", "mixed_precision"])
def test_efficientnets_gradients_under_xla_and_mixed_precision(
    flag, images, efficientnet, monkeypatch
):
    """Each kernel's update in a step of stage two is what it is without the flag."""
    monkeypatch.setattr(classifier, "MOMENTUM", 0.0)
    settings = config(
        backbone="efficientnet_b0", width=1.0, head_dims=(8,), steps=1, finetune_steps=1,
        finetune_learning_rate=0.01,
    )  # fmt: skip

    def built(settings):
        try:
            model = classifier.build_classifier(settings)
        finally:
            keras.config.set_dtype_policy("float32")
        for layer in classifier.all_layers(model.backbone):
            # Stochastic depth draws random floats, which are others under XLA.
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        return model

    # Statistics of the very views, so that signals and gradients keep their size, as in a trained
    # network: others overflow float16 in this depth, at any loss scale.
    model = built(settings)
    views, _ = model._views.make(*next(iter(step_views.batches(images, settings, 0))))
    for layer in classifier.all_layers(model.backbone):
        layer.trainable = True
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model.backbone(views, training=True)
    initial = model.backbone.get_weights()

    def updates(**changes):
        changed = dataclasses.replace(settings, **changes)
        model = built(changed)
        model.backbone.set_weights(initial)
        if flag in changes and flag == "mixed_precision":
            # As training itself finds it, after some steps that overflow and are left out.
            model.optimizer.dynamic_scale.assign(256.0)
        before = variables(model.backbone)
        batches = step_views.batches(images, changed, 0)
        model.fit(batches, steps_per_epoch=1, verbose=0, shuffle=False)
        after = variables(model.backbone)
        # In order: Keras numbers the names of some layers and of generators anew for each model.
        paths = [path for path in before if "seed_generator" not in path]
        return np.concatenate([(after[path] - before[path]).ravel() for path in paths])

    plain, flagged = updates(), updates(**{flag: True})
    assert plain.any()
    assert np.isfinite(flagged).all()
    difference = np.linalg.norm(plain - flagged) / np.linalg.norm(plain)
    # The random network amplifies rounding a thousandfold; a step left out would differ by 1, a
    # step that keeps the loss scale by 255.
    assert difference < (0.001 if flag == "jit_compile" else 0.5)
