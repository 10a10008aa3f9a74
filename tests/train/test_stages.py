"""The stages of a training: what each trains, and what TensorBoard shows of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from training import TWO_STAGES, config, trained, variables

from cutpaste_tf.train import classifier, loop, stages

pytestmark = pytest.mark.usefixtures("small_backbone", "quick_views")


@pytest.mark.parametrize(
    ("changes", "rates"), [({"steps": 100}, [0.03]), (TWO_STAGES, [0.03, 0.02])]
)
def test_each_stage_has_an_optimiser_and_one_cosine_to_zero_of_its_own(changes, rates):
    settings = config(**changes)
    model = classifier.build_classifier(settings)
    for stage, rate in zip(stages.stages(settings), rates, strict=True):
        model.begin(stage, settings)
        schedule = model.optimizer._learning_rate
        assert int(model.optimizer.iterations) == 0
        for step in (0, stage.steps // 4, stage.steps // 2, stage.steps - 1, stage.steps):
            expected = rate * 0.5 * (1 + np.cos(np.pi * step / stage.steps))
            assert float(schedule(step)) == pytest.approx(expected, abs=1e-8)


def test_tensorboard_shows_both_stages_on_one_axis(images, tmp_path, short_epochs):
    settings = config(**TWO_STAGES, task="cutpaste_3way", eval_every=1)
    lines, aurocs = [], iter([0.25, 0.75, 0.5, 0.5])
    keras.utils.set_random_seed(0)
    loop.train(
        classifier.build_classifier(settings),
        images,
        settings,
        tmp_path,
        lambda: {"image_auroc": next(aurocs), "image_auroc_level7": 0.75},
        log=lines.append,
    )
    reader = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    reader.Reload()

    def by_epoch(tag):
        events = reader.Tensors(tag)
        return {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events}

    assert by_epoch("epoch_image_auroc") == {0: 0.25, 1: 0.75, 2: 0.5, 3: 0.5}
    assert by_epoch("epoch_image_auroc_level7") == dict.fromkeys(range(4), 0.75)
    for tag in ("epoch_loss", "epoch_accuracy", "epoch_images_per_second"):
        assert sorted(by_epoch(tag)) == [0, 1, 2, 3, 4]  # epochs of 4 + 2, then 4 + 4 + 2 steps
    rates = [rate for _, rate in sorted(by_epoch("epoch_learning_rate").items())]
    assert rates[0] > rates[1] == pytest.approx(0, abs=1e-7)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0, abs=1e-7)
    texts = by_epoch("stage")
    assert sorted(texts) == [0, 2]
    assert texts[0].startswith(b"head: steps 0 to 6, the head, ")
    assert texts[2].startswith(b"finetune: steps 6 to 16, all layers, batch normalisation frozen")
    for name in ("normal", "CutPaste", "CutPaste-Scar"):
        assert f"views/{name}" in reader.Tags()["tensors"]
    assert lines[-1].startswith("step 16/16: loss ")
    assert "finetune" in lines[-1]


class Snapshots(classifier.ProxyClassifier):
    """Keeps the backbone's variables as they are at the beginning of each stage."""

    def begin(self, stage, settings):
        self.__dict__.setdefault("taken", []).append(variables(self.backbone))
        super().begin(stage, settings)


def test_stages_of_efficientnet_change_what_they_say_and_no_more(
    images, tmp_path, monkeypatch, efficientnet
):
    monkeypatch.setattr(classifier, "ProxyClassifier", Snapshots)
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
    for layer in classifier.all_layers(model.backbone):
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


def test_a_frozen_backbone_runs_in_inference_mode_as_a_whole(images):
    settings = config(**TWO_STAGES)
    model = classifier.build_classifier(settings)
    views = tf.cast(images.read(tf.range(4)), tf.float32) / 255.0
    for stage in stages.stages(settings):
        model.begin(stage, settings)
        features = model.backbone(views, training=False)["pool"]
        same = np.allclose(model(views, training=True), model.head(features, training=True))
        assert same == (stage.name == "head")  # the other stage has dropout
