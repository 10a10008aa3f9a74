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
sys.path.insert(0, "tests")
import small, training
from cutpaste_tf.augment import proxy
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone
from cutpaste_tf.train import classifier, loop

loop.EPOCH_STEPS = 4
if sys.argv[2] == "small":
    backbone.build_backbone = small.build_backbone
    proxy.draw_views, proxy.apply_views = small.draw_views, small.apply_views
arrays = list(np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
split = normal_split([str(i) for i in range(10)], arrays)


class Losses(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        result["losses"].append(logs["loss"])


def features():
    batch = tf.cast(images.read(tf.range(images.inputs)), tf.float32) / 255.0
    return model.backbone(batch, training=False)["pool"].numpy().tolist()


def norms():
    layers = classifier.all_layers(model.backbone)
    return [w.numpy() for x in layers if "Normalization" in type(x).__name__ for w in x.weights]


results, fit = {}, loop._fit
loop._fit = lambda *a, callbacks, **k: fit(*a, callbacks=[Losses(), *callbacks], **k)
for name, settings in json.loads(sys.argv[1]).items():
    settings = training.config(**settings)
    images = pipeline.prepare(split, Preparation.of(settings))
    keras.utils.set_random_seed(0)
    try:
        model = classifier.build_classifier(settings)
    except UserError as error:
        results[name] = str(error)
        continue
    result = {"devices": model.distribute_strategy.num_replicas_in_sync, "losses": []}
    before, result["first_features"] = norms(), features()
    with tempfile.TemporaryDirectory() as folder:
        loop.train(model, images, settings, pathlib.Path(folder), log=lambda text: None)
    result["norms_moved"] = any((a != b).any() for a, b in zip(before, norms()))
    results[name] = result | {"steps": model.steps_done, "features": features()}
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
SMALL = {"batch_size": 8, "learning_rate": 0.003}
PIPELINE = SMALL | {"augment": "pipeline"}
# Edges of regions make gradients larger.
TILES = SMALL | {"resize": "pad", "tiles": (1, 2), "task": "cutpaste_union", "learning_rate": 0.001}
# Without stochastic depth, which draws other numbers on two devices.
TWO_STAGES = {"batch_size": 2, "head_steps": 4, "finetune_steps": 2}
LITE = TWO_STAGES | {"backbone": "efficientnet_lite0", "width": 1.0, "task": "cutpaste_3way"}


def assert_alike(one, two):
    assert (one["devices"], two["devices"]) == (1, 2)
    assert one["steps"] == two["steps"] == 6
    assert len(set(one["losses"])) == 2  # of the two epochs
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    # What rounding did is small beside what training did.
    keys = ((one, "first_features"), (one, "features"), (two, "features"))
    first, last, other = (np.array(result[key]) for result, key in keys)
    assert np.linalg.norm(other - last) < 0.01 * np.linalg.norm(last - first)


def test_two_devices_train_as_one_does():
    odd = SMALL | MIRRORED | {"batch_size": 5}
    results = on_two_devices({"one": SMALL, "two": SMALL | MIRRORED, "odd": odd})
    assert_alike(results["one"], results["two"])
    assert results["one"]["norms_moved"]
    assert results["odd"].startswith("--batch_size=5: must be a multiple of 2, ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "two"),
    [(SMALL, PIPELINE), (TILES, TILES), (LITE, LITE)],
    ids=["views from the host", "tiles", "two stages"],
)
def test_two_devices_train_as_one_does_on_real_views_and_networks(one, two):
    results = on_two_devices({"one": one, "two": two | MIRRORED}, "real")
    assert_alike(results["one"], results["two"])
    assert results["two"]["norms_moved"] == (one is not LITE)
