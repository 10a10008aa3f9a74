"""The proxy classifier's training: views, schedule, regularisation, resuming."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf import train
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import EPOCH_STEPS, Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal
from cutpaste_tf.errors import UserError


def config(**changes):
    values = {
        "dataset": "textures",
        "category": "brick",
        "task": "cutpaste",  # half the time to trace of cutpaste_3way
        "image_size": 32,
        "width": 0.0625,
        "head_dims": (8, 4),
        "batch_size": 4,
        "steps": 6,
        "eval_every": 0,
    }
    return Config(**(values | changes))


pytestmark = pytest.mark.usefixtures("small_backbone")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(10)]
    return pipeline.prepare(normal([str(i) for i in range(10)], arrays), 32)


def weights(model):
    return [w.numpy() for w in (*model.backbone.weights, *model.head.weights)]


def trained(settings, images, run_dir, **options):
    keras.utils.set_random_seed(settings.seed)
    model = train.build(settings)
    train.train(model, images, settings, run_dir, log=lambda text: None, **options)
    return model


def largest_difference(one, other):
    return max(
        np.abs(a - b).max(initial=0) for a, b in zip(weights(one), weights(other), strict=True)
    )


@pytest.fixture
def short_epochs(monkeypatch):
    """Epochs of 4 steps, so that a few steps make several epochs and a rest."""
    monkeypatch.setattr(train, "EPOCH_STEPS", 4)


def test_a_step_is_the_papers(images, tmp_path):
    """One step equals the update written out: cross-entropy, L2, momentum SGD."""
    settings = config(weight_decay=0.01, learning_rate=0.5)
    model, copy = train.build(settings), train.build(settings)
    batch = images.read(tf.range(4))
    views, labels = train.view_maker(settings)(tf.constant(7), batch)
    with tf.GradientTape() as tape:
        logits = copy(views, training=True)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        )
        decayed = [w for w in copy.trainable_weights if "gamma" not in w.path]
        decayed = [w for w in decayed if "beta" not in w.path]
        loss += 0.01 * tf.add_n([tf.reduce_sum(tf.square(w.value)) for w in decayed])
    gradients = tape.gradient(loss, [w.value for w in copy.trainable_weights])
    expected = [
        w.numpy() - 0.5 * g.numpy() for w, g in zip(copy.trainable_weights, gradients, strict=True)
    ]
    logs = model.train_step((tf.constant(7), batch))
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for ours, theirs in zip(model.trainable_weights, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)
    assert model.optimizer.momentum == 0.9


def test_learning_rate_is_one_cosine_to_zero():
    schedule = train.build(config(steps=100)).optimizer._learning_rate
    for step in (0, 25, 50, 99, 100):
        expected = 0.03 * 0.5 * (1 + np.cos(np.pi * step / 100))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-8)


SLOW = pytest.mark.slow


# Of each number of classes one by default.
@pytest.mark.parametrize(
    "task",
    [
        task
        if task in ("rotation", "cutpaste_3way", "cutpaste_union")
        else pytest.param(task, marks=SLOW)
        for task in proxy.TASKS
    ],
)
def test_every_task_trains(task, images, tmp_path):
    settings = config(task=task)
    model = trained(settings, images, tmp_path)
    assert model.head.output_shape[-1] == {"rotation": 4, "cutpaste_3way": 3}.get(task, 2)
    assert model.steps_done == 6
    assert largest_difference(model, train.build(settings)) > 0


def test_views_are_the_same_on_device_and_in_the_pipeline(images):
    settings = config()
    views = train.view_maker(settings)
    compiled = train.view_maker(settings, jit_compile=True)
    host = pipeline.training_batches(images, 4, 0, views=compiled).take(3)
    device = pipeline.training_batches(images, 4, 0).take(3)
    for (step, batch), (host_views, host_labels) in zip(device, host, strict=True):
        device_views, device_labels = tf.function(views)(step, batch)
        np.testing.assert_allclose(host_views, device_views, atol=1e-6)
        np.testing.assert_array_equal(host_labels, device_labels)


def test_training_is_the_same_wherever_views_are_made(images, tmp_path):
    device = trained(config(augment="device"), images, tmp_path / "d")
    host = trained(config(augment="pipeline"), images, tmp_path / "p")
    assert largest_difference(device, host) < 1e-5


def test_a_step_can_be_made_again_and_no_two_are_alike(images):
    views = train.view_maker(config())
    batch = images.read(tf.range(4))
    np.testing.assert_array_equal(views(tf.constant(5), batch)[0], views(tf.constant(5), batch)[0])
    assert np.abs(views(tf.constant(5), batch)[0] - views(tf.constant(6), batch)[0]).max() > 0
    other = train.view_maker(config(seed=1))
    assert np.abs(views(tf.constant(5), batch)[0] - other(tf.constant(5), batch)[0]).max() > 0


def test_same_seed_same_weights(images, tmp_path):
    one = trained(config(), images, tmp_path / "1")
    again = trained(config(), images, tmp_path / "2")
    other = trained(config(seed=1), images, tmp_path / "3")
    assert largest_difference(one, again) < 1e-6
    assert largest_difference(one, other) > 1e-3


class Killed(Exception):
    pass


def kill_after(steps):
    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.step) == steps:
                raise Killed

    return Kill()


@pytest.mark.parametrize(
    "steps",
    [pytest.param(1, marks=SLOW), 5, 8, pytest.param(9, marks=SLOW), pytest.param(10, marks=SLOW)],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    steps, images, tmp_path, short_epochs, monkeypatch
):
    """Epochs of 4 steps and a rest of 2: killed in each of them and at their borders."""
    settings = config(steps=10)
    whole = trained(settings, images, tmp_path / "whole")
    fit = train._fit

    def killed_fit(*args, callbacks, **kwargs):
        return fit(*args, callbacks=[*callbacks, kill_after(steps)], **kwargs)

    monkeypatch.setattr(train, "_fit", killed_fit)
    with pytest.raises(Killed):
        trained(settings, images, tmp_path / "cut")
    monkeypatch.setattr(train, "_fit", fit)
    lines = []
    model = train.build(settings)
    train.train(model, images, settings, tmp_path / "cut", log=lines.append)
    assert model.steps_done == 10
    # A kill in an epoch's last step comes before the epoch's backup.
    resumed = 4 * ((steps - 1) // 4)
    assert any(f"resuming at step {resumed} " in line for line in lines) == (resumed > 0)
    assert largest_difference(whole, model) < 1e-6


TWO_STAGES = {"steps": 16, "head_steps": 6, "finetune_steps": 10, "finetune_learning_rate": 0.02}


@pytest.mark.parametrize(
    "steps",
    [pytest.param(3, marks=SLOW), 6, pytest.param(11, marks=SLOW), pytest.param(16, marks=SLOW)],
)
def test_two_stages_interrupted_end_with_the_same_weights(
    steps, images, tmp_path, short_epochs, monkeypatch
):
    """Killed inside either stage, in the last step of the first and the first of the second."""
    settings = config(**TWO_STAGES)
    whole = trained(settings, images, tmp_path / "whole")
    fit = train._fit

    def killed_fit(*args, callbacks, **kwargs):
        return fit(*args, callbacks=[*callbacks, kill_after(steps)], **kwargs)

    monkeypatch.setattr(train, "_fit", killed_fit)
    with pytest.raises(Killed):
        trained(settings, images, tmp_path / "cut")
    monkeypatch.setattr(train, "_fit", fit)
    lines = []
    model = train.build(settings)
    train.train(model, images, settings, tmp_path / "cut", log=lines.append)
    assert model.steps_done == 16
    # Backups are made at the end of the epochs: after steps 4 and 6, then 10, 14 and 16.
    resumed = max(step for step in (0, 4, 6, 10, 14) if step < steps)
    assert any(f"resuming at step {resumed} of 16" in line for line in lines) == (resumed > 0)
    assert largest_difference(whole, model) < 1e-6


def test_each_stage_has_an_optimiser_and_a_cosine_of_its_own():
    settings = config(**TWO_STAGES)
    model = train.build(settings)
    for stage, rate in zip(train.stages(settings), (0.03, 0.02), strict=True):
        model.begin(stage, settings)
        schedule = model.optimizer._learning_rate
        assert int(model.optimizer.iterations) == 0
        for step in (0, stage.steps // 2, stage.steps):
            expected = rate * 0.5 * (1 + np.cos(np.pi * step / stage.steps))
            assert float(schedule(step)) == pytest.approx(expected, abs=1e-8)


def test_both_stages_are_on_one_axis_in_tensorboard(images, tmp_path, short_epochs):
    settings = config(**TWO_STAGES, eval_every=1)
    lines = []
    keras.utils.set_random_seed(0)
    train.train(
        train.build(settings),
        images,
        settings,
        tmp_path,
        lambda: {"image_auroc": 0.5, "image_auroc_pool": 0.5, "image_auroc_level7": 0.75},
        log=lines.append,
    )
    from tensorboard.backend.event_processing import event_accumulator

    reader = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    reader.Reload()
    stages = {
        event.step: tf.make_ndarray(event.tensor_proto).item().decode()
        for event in reader.Tensors("stage")
    }
    assert list(stages) == [0, 2]  # epochs of 4 steps: 4 + 2, then 4 + 4 + 2
    assert stages[0].startswith("head: steps 0 to 6, the head, ")
    assert stages[2].startswith("finetune: steps 6 to 16, all layers, batch normalisation frozen")
    rates = [
        (event.step, float(tf.make_ndarray(event.tensor_proto)))
        for event in reader.Tensors("epoch_learning_rate")
    ]
    assert [step for step, _ in rates] == [0, 1, 2, 3, 4]
    assert rates[1][1] == pytest.approx(0, abs=1e-7)
    assert rates[2][1] > 0
    aurocs = [
        float(tf.make_ndarray(e.tensor_proto)) for e in reader.Tensors("epoch_image_auroc_level7")
    ]
    assert aurocs == [0.75] * 4
    assert lines[-1].startswith("step 16/16: loss ")
    assert "finetune" in lines[-1]


class Snapshots(train.ProxyClassifier):
    """Keeps the backbone's variables as they are at the beginning of each stage."""

    def begin(self, stage, settings):
        self.__dict__.setdefault("taken", []).append(variables(self.backbone))
        super().begin(stage, settings)


def variables(model):
    return {v.path: v.numpy() for v in model.variables}


@pytest.fixture
def efficientnet(monkeypatch, shallow_efficientnet):
    from cutpaste_tf.models.efficientnet import efficientnet

    def build_backbone(settings, *, initial_weights=True):
        return efficientnet(
            settings.backbone, settings.image_size, weight_decay=settings.weight_decay, seed=0
        )

    monkeypatch.setattr(train, "build_backbone", build_backbone)


def test_stages_of_efficientnet_change_what_they_say_and_no_more(
    images, tmp_path, monkeypatch, efficientnet
):
    monkeypatch.setattr(train, "ProxyClassifier", Snapshots)
    settings = config(
        backbone="efficientnet_b0", width=1.0, steps=4, head_steps=2, finetune_steps=2,
        finetune_learning_rate=0.01,
    )  # fmt: skip
    model = trained(settings, images, tmp_path)
    initial, *_, before_finetuning = model.taken
    assert initial.keys() == before_finetuning.keys()
    for path, value in initial.items():
        np.testing.assert_array_equal(value, before_finetuning[path], err_msg=path)
    assert all(np.abs(w.numpy()).max() > 0 for w in model.head.trainable_weights)
    final = variables(model.backbone)
    norms, convolutions = [], []
    for layer in train._layers(model.backbone):
        if isinstance(layer, keras.layers.BatchNormalization):
            norms += [w.path for w in layer.weights]
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            convolutions.append(layer.kernel.path)
    # The stem and the top have a norm and a convolution each, a block three and five; the first
    # does not expand.
    assert len(norms) == 4 * (2 + 7 * 3 - 1)
    assert len(convolutions) == 2 + 7 * 5 - 1
    for path in norms:
        np.testing.assert_array_equal(initial[path], final[path], err_msg=path)
    for path in convolutions:
        assert np.abs(initial[path] - final[path]).max() > 0, path


def test_a_frozen_norm_runs_in_inference_mode(images):
    settings = config(**TWO_STAGES)
    model = train.build(settings)
    views = tf.cast(images.read(tf.range(4)), tf.float32) / 255.0
    norm = next(x for x in model.backbone.layers if "batch" in x.name)
    inner = keras.Model(model.backbone.input, norm.output)
    for stage in train.stages(settings):
        model.begin(stage, settings)
        np.testing.assert_array_equal(inner(views, training=True), inner(views, training=False))


def test_without_steps_the_initial_weights_are_kept(images, tmp_path):
    settings = config(steps=0)
    model = trained(settings, images, tmp_path)
    assert largest_difference(model, train.build(settings)) == 0
    assert train.has_weights(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


def test_initial_weights_come_from_another_runs_file(images, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real network
    first = train.build_backbone(config(seed=1))
    first.save_weights(tmp_path / "one.weights.h5")
    first.save(tmp_path / "one.keras")
    for name in ("one.weights.h5", "one.keras"):
        loaded = train.build_backbone(config(weights=str(tmp_path / name)))
        for a, b in zip(first.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match=r"--weights=.*one\.keras.*--width=0\.125"):
        train.build_backbone(config(weights=str(tmp_path / "one.keras"), width=0.125))
    (tmp_path / "bad.weights.h5").write_bytes(b"no weights")
    for name, message in (("bad.weights.h5", "not readable"), ("no.keras", "no such file")):
        with pytest.raises(UserError, match=message):
            train.build_backbone(config(weights=str(tmp_path / name)))


@pytest.fixture
def interrupted(images, tmp_path, short_epochs, monkeypatch):
    """A run's folder after two epochs, killed in the third."""
    fit = train._fit

    def killed_fit(*args, callbacks, **kwargs):
        return fit(*args, callbacks=[*callbacks, kill_after(9)], **kwargs)

    monkeypatch.setattr(train, "_fit", killed_fit)
    with pytest.raises(Killed):
        trained(config(steps=12), images, tmp_path / "run")
    monkeypatch.setattr(train, "_fit", fit)
    return tmp_path / "run"


def test_a_kill_while_the_backup_is_written_loses_one_epoch_at_most(interrupted, images, tmp_path):
    backup = interrupted / "checkpoints" / "backup" / "training"
    weights_file = backup / "latest.weights.h5"
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    (backup / "training_metadata.json").write_text('{"epo')
    whole = trained(config(steps=12), images, tmp_path / "whole")
    model = train.build(config(steps=12))
    lines = []
    train.train(model, images, config(steps=12), interrupted, log=lines.append)
    assert "resuming at step 4 of 12" in lines
    assert largest_difference(whole, model) < 1e-6


def test_a_backup_that_cannot_be_read_is_named(interrupted, images):
    for file in (interrupted / "checkpoints" / "backup").rglob("*.h5*"):
        file.write_bytes(b"no")
    settings = config(steps=12)
    with pytest.raises(UserError, match="backup cannot be read"):
        train.train(train.build(settings), images, settings, interrupted)


def test_final_weights_are_kept_and_the_backup_is_not(images, tmp_path):
    model = trained(config(), images, tmp_path)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"backbone.weights.h5", "head.weights.h5", "train_seconds.json"}
    loaded = train.build(config(seed=5))
    train.load_weights(loaded, tmp_path)
    assert largest_difference(model, loaded) == 0
    # A second call neither trains nor changes anything.
    summary = train.train(train.build(config()), images, config(), tmp_path)
    assert summary.seconds == json.loads(
        (tmp_path / "checkpoints" / "train_seconds.json").read_text()
    )


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_damaged_weights_are_named(content, images, tmp_path):
    trained(config(), images, tmp_path)
    file = tmp_path / "checkpoints" / "backbone.weights.h5"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.weights\.h5: not readable"):
        train.load_weights(train.build(config()), tmp_path)


def test_weights_of_another_network_are_refused(images, tmp_path):
    trained(config(), images, tmp_path)
    with pytest.raises(UserError, match="not readable as this network's weights"):
        train.load_weights(train.build(config(width=0.125, head_dims=(8, 8))), tmp_path)


def test_divergence_is_the_users_to_mend(images, tmp_path):
    settings = config(learning_rate=100.0, weight_decay=1.0, steps=40)
    with pytest.raises(UserError, match="--learning_rate=100"):
        trained(settings, images, tmp_path)
    assert not train.has_weights(tmp_path)


def test_tensorboard_has_losses_rates_throughput_aurocs_and_a_gallery(
    images, tmp_path, short_epochs
):
    values = iter([0.25, 0.75])
    settings = config(task="cutpaste_3way", steps=14, eval_every=1)
    trained(settings, images, tmp_path, evaluate=lambda: {"image_auroc": next(values, 0.5)})
    from tensorboard.backend.event_processing import event_accumulator

    reader = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    reader.Reload()
    tags = reader.Tags()
    read = {
        tag: [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in reader.Tensors(tag)]
        for tag in tags["tensors"]
        if tag.startswith("epoch_")
    }
    assert {step for step, _ in read["epoch_loss"]} == {0, 1, 2, 3}
    for tag in ("epoch_accuracy", "epoch_images_per_second", "epoch_learning_rate"):
        assert len(read[tag]) == 4
    rates = [value for _, value in read["epoch_learning_rate"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-7)
    assert read["epoch_image_auroc"][:2] == [(0, 0.25), (1, 0.75)]
    for name in ("normal", "CutPaste", "CutPaste-Scar"):
        assert f"views/{name}" in tags["tensors"]


def test_the_loop_waits_for_one_step_in_many(images, tmp_path, monkeypatch):
    """To read a step's logs is to wait for it."""
    read, count = [], train._Progress.on_train_batch_end

    def counted(self, batch, logs=None):
        read.append(bool(logs))
        count(self, batch, logs)

    monkeypatch.setattr(train._Progress, "on_train_batch_end", counted)
    lines = []
    settings = config(steps=40)
    train.train(train.build(settings), images, settings, tmp_path, log=lines.append)
    assert [step for step, logs in enumerate(read, 1) if logs] == [32]
    assert len(read) == 40
    assert "step 40/40: loss" in lines[-1]


def test_evaluating_does_not_change_the_training(images, tmp_path, short_epochs):
    from cutpaste_tf import evaluate

    def evaluated(run_dir):
        settings = config(steps=10, eval_every=1)
        model = train.build(settings)
        embedder = evaluate.Embedder(model.backbone)

        def aurocs():
            embedder(images)
            return {"image_auroc": 0.5}

        train.train(model, images, settings, run_dir, aurocs, log=lambda text: None)
        return model

    plain = trained(config(steps=10), images, tmp_path / "plain")
    assert largest_difference(plain, evaluated(tmp_path / "evaluated")) < 1e-6


def test_the_log_says_where_the_training_is(images, tmp_path, short_epochs):
    lines = []
    settings = config(steps=10)
    train.train(train.build(settings), images, settings, tmp_path, log=lines.append)
    assert lines[-1].startswith("step 10/10: loss ")
    assert all("\r" not in line for line in lines)


@pytest.mark.parametrize("flag", [pytest.param("jit_compile", marks=SLOW), "mixed_precision"])
def test_trains_under_xla_and_mixed_precision(flag, images, tmp_path, monkeypatch):
    # Keras's dropout draws random floats, which are others under XLA.
    monkeypatch.setattr(keras.layers, "Dropout", lambda rate, seed: keras.layers.Identity())
    settings = config(steps=3, **{flag: True})
    try:
        model = trained(settings, images, tmp_path)
    finally:
        keras.config.set_dtype_policy("float32")
    if flag == "jit_compile":
        assert largest_difference(model, trained(config(steps=3), images, tmp_path / "p")) < 1e-3
    assert model.steps_done == 3
    # No step was left out for overflow: the statistics alone move even then.
    kernel, initial = (
        m.backbone.trainable_weights[0].numpy() for m in (model, train.build(config(steps=3)))
    )
    assert np.abs(kernel - initial).max() > 1e-5
    assert all(np.isfinite(w).all() for w in weights(model))
    assert all(w.dtype == np.float32 for w in weights(model))


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["jit_compile", "mixed_precision"])
def test_efficientnets_gradients_under_xla_and_mixed_precision(flag, images, efficientnet):
    """Each kernel's update in a step of stage two is what it is without the flag."""
    settings = config(
        backbone="efficientnet_b0", width=1.0, head_dims=(8,), steps=1, finetune_steps=1,
        finetune_learning_rate=0.01, momentum=0.0,
    )  # fmt: skip

    # Statistics of the very views, so that signals and gradients keep their size, as in a trained
    # network: others overflow float16 in this depth, at any loss scale.
    model = train.build(settings)
    views, _ = model._views(*next(iter(train._batches(images, settings, 0))))
    usual = model.backbone
    for layer in train._layers(usual):
        layer.trainable = True
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    usual(views, training=True)
    initial = usual.get_weights()

    def updates(**changes):
        changed = dataclasses.replace(settings, **changes)
        try:
            model = train.build(changed)
        finally:
            keras.config.set_dtype_policy("float32")
        model.backbone.set_weights(initial)
        for layer in train._layers(model.backbone):
            # Stochastic depth draws random floats, which are others under XLA.
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        if flag in changes and flag == "mixed_precision":
            # As training itself finds it, after some steps that overflow and are left out.
            model.optimizer.dynamic_scale.assign(256.0)
        before = variables(model.backbone)
        model.fit(train._batches(images, changed, 0), steps_per_epoch=1, verbose=0, shuffle=False)
        after = variables(model.backbone)
        # In order: Keras numbers the names of some layers and of generators anew for each model.
        return np.concatenate(
            [(after[p] - before[p]).ravel() for p in before if "seed_generator" not in p]
        )

    together = [updates(), updates(**{flag: True})]
    assert together[0].any()
    assert np.isfinite(together[1]).all()
    difference = np.linalg.norm(together[0] - together[1]) / np.linalg.norm(together[0])
    # The random network amplifies rounding a thousandfold; a step left out would differ by 1, a
    # step that keeps the loss scale by 255.
    assert difference < (0.001 if flag == "jit_compile" else 0.5)


def test_an_epoch_is_the_papers_256_updates():
    assert EPOCH_STEPS == train.EPOCH_STEPS == 256


def test_gallery_shows_each_class(images):
    views = train.gallery(images, config(task="cutpaste_3way"), 4)
    assert views.shape == (3, 4, 32, 32, 3)
    assert (train.gallery(images, config(), 99).shape)[1] == 10
    assert np.abs(views[0] - views[1]).max() > 0


def test_view_settings_come_from_the_flags():
    settings = train.view_settings(config(jitter=0.2, area_ratio=(0.1, 0.2), translation=0.3))
    assert (settings.jitter, settings.area_ratio, settings.translation) == (0.2, (0.1, 0.2), 0.3)
    assert dataclasses.is_dataclass(settings)
