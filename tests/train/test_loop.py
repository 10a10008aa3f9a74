"""The training as a whole: repeatable, and resumed where it was interrupted."""

import json

import pytest
import tensorflow as tf
from conftest import slow_but
from training import TWO_STAGES, config, largest_difference, train_until_killed, trained

from cutpaste_tf.config import EPOCH_STEPS
from cutpaste_tf.files import UserError
from cutpaste_tf.train import callbacks, classifier, loop

pytestmark = pytest.mark.usefixtures("small_backbone", "quick_views")


def test_same_seed_same_weights(images, tmp_path):
    one = trained(config(), images, tmp_path / "1")
    again = trained(config(), images, tmp_path / "2")
    other = trained(config(seed=1), images, tmp_path / "3")
    assert largest_difference(one, again) < 1e-6
    assert largest_difference(one, other) > 1e-3


# The settings, and the steps at which epochs end: of 4 steps, or of what a stage has left.
ONE_STAGE = ({"steps": 10}, (0, 4, 8, 10))
TWO = (TWO_STAGES, (0, 4, 6, 10, 14, 16))
KILLS = [(ONE_STAGE, step) for step in (1, 5, 8, 9, 10)] + [(TWO, step) for step in (3, 6, 11, 16)]


@pytest.mark.parametrize(("stages", "killed_after"), slow_but(KILLS, (ONE_STAGE, 5), (TWO, 6)))
def test_an_interrupted_training_ends_with_the_same_weights(
    stages, killed_after, images, tmp_path, short_epochs, monkeypatch
):
    changes, epoch_ends = stages
    settings = config(**changes)
    whole = trained(settings, images, tmp_path / "whole")
    train_until_killed(settings, images, tmp_path / "cut", killed_after, monkeypatch)
    # A kill in an epoch's last step comes before the epoch's backup.
    resumed = max(step for step in epoch_ends if step < killed_after)
    for backup in (tmp_path / "cut" / "checkpoints" / "backup").glob("*.npz"):
        # Another kill, while the next backup was written.
        backup.with_name(f"{backup.name}.tmp").write_bytes(b"PK")
    lines = []
    model = classifier.build_classifier(settings)
    loop.train(model, images, settings, tmp_path / "cut", log=lines.append)
    assert model.steps_done == epoch_ends[-1]
    resuming = f"resuming at step {resumed} of {epoch_ends[-1]}"
    assert (resuming in lines) == (resumed > 0)
    assert largest_difference(whole, model) < 1e-6


def test_without_steps_the_initial_weights_are_kept(images, tmp_path):
    settings = config(steps=0)
    model = trained(settings, images, tmp_path)
    assert largest_difference(model, classifier.build_classifier(settings)) == 0
    assert loop.has_weights(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


def test_final_weights_are_kept_and_the_backup_is_not(images, tmp_path):
    model = trained(config(), images, tmp_path)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"backbone.weights.h5", "head.weights.h5", "epochs.json"}
    loaded = classifier.build_classifier(config(seed=5))
    loop.load_weights(loaded, tmp_path)
    assert largest_difference(model, loaded) == 0
    # A second call neither trains nor changes anything.
    summary = loop.train(classifier.build_classifier(config()), images, config(), tmp_path)
    (epoch,) = json.loads((tmp_path / "checkpoints" / "epochs.json").read_text())
    assert (summary.seconds, summary.proxy_accuracy) == (epoch["seconds"], epoch["accuracy"])


@pytest.mark.parametrize("content", [b"", b"no weights", None], ids=["empty", "damaged", "other"])
def test_weights_that_are_damaged_or_another_networks_are_refused(content, tmp_path):
    changes = {} if content is not None else {"width": 0.125}
    loop.save_weights(classifier.build_classifier(config(**changes)), tmp_path)
    if content is not None:
        (tmp_path / "checkpoints" / "backbone.weights.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.h5: not readable as this network's weights"):
        loop.load_weights(classifier.build_classifier(config()), tmp_path)


def test_divergence_is_the_users_to_mend(images, tmp_path):
    settings = config(learning_rate=100.0, weight_decay=1.0, steps=40)
    with pytest.raises(UserError, match="--learning_rate=100"):
        trained(settings, images, tmp_path)
    assert not loop.has_weights(tmp_path)


def test_evaluating_does_not_change_the_training(images, tmp_path, short_epochs):
    def evaluate():
        # Dropout and batch statistics would show.
        model.backbone(tf.cast(images.read(tf.range(4)), tf.float32) / 255.0, training=False)
        return {"image_auroc": 0.5}

    plain = trained(config(steps=10), images, tmp_path / "plain")
    settings = config(steps=10, eval_every=1)
    model = classifier.build_classifier(settings)
    loop.train(model, images, settings, tmp_path / "run", evaluate, log=lambda text: None)
    assert largest_difference(plain, model) < 1e-6


def test_the_loop_waits_for_one_step_in_many(images, tmp_path, monkeypatch):
    """To read a step's logs is to wait for the step."""
    read, count = [], callbacks.StepProgress.on_train_batch_end

    def counted(self, batch, logs=None):
        read.append(bool(logs))
        count(self, batch, logs)

    monkeypatch.setattr(callbacks.StepProgress, "on_train_batch_end", counted)
    lines = []
    settings = config(steps=40)
    loop.train(classifier.build_classifier(settings), images, settings, tmp_path, log=lines.append)
    assert [step for step, logs in enumerate(read, 1) if logs] == [32]
    assert len(read) == 40
    assert "step 40/40: loss" in lines[-1]


def test_an_epoch_is_the_papers_256_updates():
    assert EPOCH_STEPS == loop.EPOCH_STEPS == 256
