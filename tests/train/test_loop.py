"""The training as a whole: repeatable, and resumed where it was interrupted."""

import json

import pytest
from training import TWO_STAGES, config, largest_difference, train_until_killed, trained

from cutpaste_tf.config import EPOCH_STEPS
from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import detector as detectors
from cutpaste_tf.train import classifier, loop

pytestmark = pytest.mark.usefixtures("small_backbone", "quick_views")


SLOW = pytest.mark.slow


def test_same_seed_same_weights(images, tmp_path):
    one = trained(config(), images, tmp_path / "1")
    again = trained(config(), images, tmp_path / "2")
    other = trained(config(seed=1), images, tmp_path / "3")
    assert largest_difference(one, again) < 1e-6
    assert largest_difference(one, other) > 1e-3


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
    train_until_killed(settings, images, tmp_path / "cut", steps, monkeypatch)
    lines = []
    model = classifier.build_classifier(settings)
    loop.train(model, images, settings, tmp_path / "cut", log=lines.append)
    assert model.steps_done == 10
    # A kill in an epoch's last step comes before the epoch's backup.
    resumed = 4 * ((steps - 1) // 4)
    assert any(f"resuming at step {resumed} " in line for line in lines) == (resumed > 0)
    assert largest_difference(whole, model) < 1e-6


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
    train_until_killed(settings, images, tmp_path / "cut", steps, monkeypatch)
    lines = []
    model = classifier.build_classifier(settings)
    loop.train(model, images, settings, tmp_path / "cut", log=lines.append)
    assert model.steps_done == 16
    # Backups are made at the end of the epochs: after steps 4 and 6, then 10, 14 and 16.
    resumed = max(step for step in (0, 4, 6, 10, 14) if step < steps)
    assert any(f"resuming at step {resumed} of 16" in line for line in lines) == (resumed > 0)
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


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_damaged_weights_are_named(content, tmp_path):
    loop.save_weights(classifier.build_classifier(config()), tmp_path)
    file = tmp_path / "checkpoints" / "backbone.weights.h5"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.weights\.h5: not readable"):
        loop.load_weights(classifier.build_classifier(config()), tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    loop.save_weights(classifier.build_classifier(config()), tmp_path)
    with pytest.raises(UserError, match="not readable as this network's weights"):
        other = classifier.build_classifier(config(width=0.125, head_dims=(8, 8)))
        loop.load_weights(other, tmp_path)


def test_divergence_is_the_users_to_mend(images, tmp_path):
    settings = config(learning_rate=100.0, weight_decay=1.0, steps=40)
    with pytest.raises(UserError, match="--learning_rate=100"):
        trained(settings, images, tmp_path)
    assert not loop.has_weights(tmp_path)


def test_evaluating_does_not_change_the_training(images, tmp_path, short_epochs):

    def evaluated(run_dir):
        settings = config(steps=10, eval_every=1)
        model = classifier.build_classifier(settings)
        embedder = detectors.Embedder(model.backbone)

        def aurocs():
            embedder(images)
            return {"image_auroc": 0.5}

        loop.train(model, images, settings, run_dir, aurocs, log=lambda text: None)
        return model

    plain = trained(config(steps=10), images, tmp_path / "plain")
    assert largest_difference(plain, evaluated(tmp_path / "evaluated")) < 1e-6


def test_an_epoch_is_the_papers_256_updates():
    assert EPOCH_STEPS == loop.EPOCH_STEPS == 256
