"""What is kept of each epoch, and how a network that has died is found."""

import json
import types

import pytest
from training import config

from cutpaste_tf.train import callbacks, classifier, epochs, loop
from cutpaste_tf.train.epochs import Epoch


def collapse(*accuracies, **settings):
    recorded = [Epoch(256, 1.0, accuracy) for accuracy in accuracies]
    return epochs.collapse(recorded, config(**{"task": "cutpaste_3way", "steps": 65536} | settings))


@pytest.mark.parametrize(
    ("accuracies", "changes", "collapsed"),
    [
        ((), {}, False),
        ((0.5, 0.7, 0.9), {}, False),
        ((0.5, 0.333, 0.9), {}, False),  # it recovered
        ((0.5, 0.9, 1 / 3, 1 / 3), {}, True),
        ((1 / 3, 0.334), {}, True),  # it never was better
        ((0.9, 0.5), {"task": "cutpaste"}, True),
        ((0.9, 0.5), {"task": "rotation"}, False),  # of four classes it is good
        # 256 steps of 4 images in 3 classes: a deviation of 0.0085.
        ((0.9, 1 / 3 + 0.02), {}, True),
        ((0.9, 1 / 3 + 0.03), {}, False),
        ((0.9, 1 / 3 + 0.02), {"batch_size": 64}, False),
    ],
)
def test_a_dead_networks_accuracy_is_that_of_guessing(accuracies, changes, collapsed):
    result = collapse(*accuracies, **changes)
    assert (result is not None) == collapsed
    if result:
        assert result.chance == (0.5 if changes.get("task") == "cutpaste" else 1 / 3)
        assert f"{accuracies[-1]:.3f}, is no better than chance" in str(result)
        assert "lower --learning_rate=0.03, or train longer" in str(result)


def test_a_short_last_epoch_says_nothing_where_there_are_longer_ones():
    recorded = [Epoch(256, 1.0, 0.9), Epoch(2, 1.0, 0.3)]
    assert epochs.collapse(recorded, config(steps=258)) is None
    assert epochs.collapse(recorded[1:], config(steps=258)) is not None


def test_the_flag_is_that_of_the_stage_in_which_it_happened():
    settings = {"head_steps": 256, "finetune_steps": 512, "finetune_learning_rate": 0.01}
    for accuracies, expected in (
        ((0.9, 0.9, 1 / 3), ("finetune_learning_rate", 0.01)),
        ((1 / 3,), ("learning_rate", 0.03)),
    ):
        result = collapse(*accuracies, **settings)
        assert (result.flag, result.learning_rate) == expected


def test_epochs_are_kept_and_read_again(tmp_path):
    recorded = [Epoch(256, 2.5, 0.5), Epoch(4, 0.5, 0.25)]
    path = tmp_path / "checkpoints" / "epochs.json"
    assert epochs.read(path) == []
    epochs.write(path, recorded)
    assert epochs.read(path) == recorded
    # What a backup does not have yet is trained again.
    assert epochs.until(recorded, 260) == recorded
    assert epochs.until(recorded, 259) == recorded[:1]
    assert epochs.until(recorded, 0) == []


@pytest.mark.usefixtures("small_backbone", "quick_views")
def test_a_training_that_collapses_says_so(images, tmp_path, monkeypatch):
    """A decay takes all weights to zero: the loss is finite, and all views look alike."""
    monkeypatch.setattr(loop, "EPOCH_STEPS", 64)
    monkeypatch.setattr(classifier, "MOMENTUM", 0.0)
    settings = config(task="cutpaste_3way", learning_rate=0.9, weight_decay=1.0, steps=192)
    model = classifier.build_classifier(settings)
    summary = loop.train(model, images, settings, tmp_path, log=lambda text: None)
    assert summary.collapse.chance == pytest.approx(1 / 3)
    assert summary.proxy_accuracy == pytest.approx(1 / 3, abs=1e-3)
    kept = json.loads((tmp_path / "checkpoints" / "epochs.json").read_text())
    assert [epoch["steps"] for epoch in kept] == [64, 64, 64]


def test_a_training_that_goes_on_has_the_epochs_before(tmp_path):
    record = callbacks.EpochRecord(config(steps=768), tmp_path / "epochs.json")
    record.set_params({"steps": 256})
    record.set_model(types.SimpleNamespace(steps_done=0))
    record.on_train_begin()
    for number, accuracy in enumerate((0.3, 0.8, 0.9)):
        record.on_epoch_begin(number)
        record.on_epoch_end(number, {"accuracy": accuracy})
    record.set_model(types.SimpleNamespace(steps_done=512))
    record.on_train_begin()
    assert [epoch.accuracy for epoch in record.epochs] == [0.3, 0.8]


def test_the_log_has_a_line_now_and_then(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    shown = callbacks.StepProgress(config(steps=1280), lines.append)
    shown.set_model(types.SimpleNamespace(steps_done=256))
    shown.on_train_begin()
    for epoch in range(1, 5):
        for _ in range(256):
            shown.on_train_batch_end(0)
        now[0] += 10.0
        shown.on_epoch_end(epoch, {"loss": 0.5, "accuracy": 0.75})
    assert lines == [
        "step 768/1280: loss 0.500, accuracy 0.750, 0:00:20 left",
        "step 1280/1280: loss 0.500, accuracy 0.750, 0:00:00 left",
    ]
