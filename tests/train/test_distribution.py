"""Training shared among devices: two logical CPU devices, in a process of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = """
import json, pathlib, sys, tempfile
import cutpaste_tf
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal
from cutpaste_tf.scoring.detector import Embedder
from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone
from cutpaste_tf.train import classifier, loop

loop.EPOCH_STEPS = 4
if sys.argv[2] == "small":
    sys.path.insert(0, "tests")
    import small
    backbone.build_backbone = small.build_backbone
    proxy.draw_views, proxy.apply_views = small.draw_views, small.apply_views
rng = np.random.default_rng(0)
arrays = list(rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
split = normal([str(i) for i in range(10)], arrays)


class Losses(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        found["losses"].append(logs["loss"])


def numbers(layers):
    return [w.numpy() for layer in layers for w in layer.weights]


results, fit = {}, loop._fit
for name, settings in json.loads(sys.argv[1]).items():
    settings = Config(dataset="textures", category="brick", image_size=32, eval_every=0, **settings)
    images = pipeline.prepare(split, Preparation.of(settings))
    found = {"losses": []}
    keras.utils.set_random_seed(0)
    try:
        model = classifier.build_classifier(settings)
    except UserError as error:
        results[name] = str(error)
        continue
    found["devices"] = model.distribute_strategy.num_replicas_in_sync
    layers = classifier.all_layers(model.backbone)
    norms = [layer for layer in layers if "Normalization" in type(layer).__name__]
    before = numbers(norms)
    found["first_features"] = Embedder(model.backbone)(images)["pool"].tolist()
    loop._fit = lambda *a, callbacks, **k: fit(*a, callbacks=[Losses(), *callbacks], **k)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(model, images, settings, pathlib.Path(folder), log=lambda text: None)
    found["norms_moved"] = any((a != b).any() for a, b in zip(before, numbers(norms)))
    found["steps"] = model.steps_done
    features = Embedder(model.backbone)(images)["pool"]
    found["features"] = features.tolist()
    results[name] = found
print(json.dumps(results))
"""


def on_two_devices(runs, network="small"):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(runs), network],
        cwd=ROOT,
        env=os.environ | {"DROPOUT": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MIRRORED = {"distribution": "mirrored"}


# At the paper's learning rate a network of a few channels turns rounding into per mille in 6 steps.
SMALL = {
    "task": "cutpaste",
    "width": 0.0625,
    "head_dims": (8, 4),
    "batch_size": 8,
    "steps": 6,
    "learning_rate": 0.003,
}


def assert_alike(one, two):
    assert (one["devices"], two["devices"]) == (1, 2)
    assert one["steps"] == two["steps"] == 6
    assert len(set(one["losses"])) == 2  # of the two epochs
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    # What rounding did is small beside what training did.
    first, last, other = (
        np.array(f) for f in (one["first_features"], one["features"], two["features"])
    )
    assert np.linalg.norm(other - last) < 0.01 * np.linalg.norm(last - first)


def test_two_devices_train_as_one_does():
    found = on_two_devices(
        {"one": SMALL, "two": SMALL | MIRRORED, "odd": SMALL | MIRRORED | {"batch_size": 5}}
    )
    assert_alike(found["one"], found["two"])
    assert found["one"]["norms_moved"]
    assert found["odd"].startswith("--batch_size=5: must be a multiple of 2, ")


@pytest.mark.slow
def test_two_devices_train_as_one_does_on_views_made_on_the_host():
    runs = {"one": SMALL, "two": SMALL | MIRRORED | {"augment": "pipeline"}}
    found = on_two_devices(runs, "real")
    assert_alike(found["one"], found["two"])


@pytest.mark.slow
def test_two_devices_train_as_one_does_on_tiles_with_regions():
    padded = SMALL | {"resize": "pad", "tiles": (1, 2), "task": "cutpaste_union"}
    padded["learning_rate"] = 0.001  # edges of regions make gradients larger
    found = on_two_devices({"one": padded, "two": padded | MIRRORED}, "real")
    assert_alike(found["one"], found["two"])


TWO_STAGES = {"head_dims": (8, 4), "batch_size": 2, "head_steps": 4, "finetune_steps": 2}


@pytest.mark.slow
def test_efficientnet_on_two_devices():
    efficient = TWO_STAGES | {"backbone": "efficientnet_b0"}
    found = on_two_devices({"one": efficient, "two": efficient | MIRRORED}, "real")
    one, two = found["one"], found["two"]
    assert (one["devices"], two["devices"]) == (1, 2)
    # Stochastic depth draws other numbers on two devices; the first stage has none.
    assert one["losses"][0] == pytest.approx(two["losses"][0], rel=1e-4)
    assert one["losses"][1] == pytest.approx(two["losses"][1], rel=0.1)
    assert not two["norms_moved"]


@pytest.mark.slow
def test_lite_which_has_no_stochastic_depth_trains_on_two_devices_as_on_one():
    lite = TWO_STAGES | {"backbone": "efficientnet_lite0"}
    found = on_two_devices({"one": lite, "two": lite | MIRRORED}, "real")
    assert_alike(found["one"], found["two"])
    assert not found["two"]["norms_moved"]
