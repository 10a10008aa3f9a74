"""What is done beside the steps."""

import pytest
import tensorflow as tf
from training import config, largest_difference, train_until_killed, trained

from cutpaste_tf.train import callbacks, classifier, loop

pytestmark = pytest.mark.usefixtures("small_backbone", "quick_views")


@pytest.fixture
def interrupted(images, tmp_path, short_epochs, monkeypatch):
    """A run's folder after two epochs, killed in the third."""
    train_until_killed(config(steps=12), images, tmp_path / "run", 9, monkeypatch)
    return tmp_path / "run"


def test_a_kill_while_the_backup_is_written_leaves_the_one_before(interrupted, images, tmp_path):
    (interrupted / "checkpoints" / "backup" / "training.npz.tmp").write_bytes(b"PK")
    whole = trained(config(steps=12), images, tmp_path / "whole")
    model = classifier.build_classifier(config(steps=12))
    lines = []
    loop.train(model, images, config(steps=12), interrupted, log=lines.append)
    assert "resuming at step 8 of 12" in lines
    assert largest_difference(whole, model) < 1e-6


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


def test_the_log_says_where_the_training_is(images, tmp_path, short_epochs):
    lines = []
    settings = config(steps=10)
    loop.train(classifier.build_classifier(settings), images, settings, tmp_path, log=lines.append)
    assert lines[-1].startswith("step 10/10: loss ")
    assert all("\r" not in line for line in lines)
