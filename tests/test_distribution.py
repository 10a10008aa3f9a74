"""Training shared among devices: two logical CPU devices, in a process of their own."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from cutpaste_tf.augment import proxy, random

SCRIPT = """
import json, pathlib, sys, tempfile
import cutpaste_tf
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cutpaste_tf import evaluate, train
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal
from cutpaste_tf.errors import UserError

train.EPOCH_STEPS = 4
rng = np.random.default_rng(0)
arrays = list(rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
images = pipeline.prepare(normal([str(i) for i in range(10)], arrays), 32)


class Losses(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        found["losses"].append(logs["loss"])


def numbers(layers):
    return [w.numpy() for layer in layers for w in layer.weights]


results = {}
for name, settings in json.loads(sys.argv[1]).items():
    settings = Config(dataset="textures", category="brick", image_size=32, eval_every=0, **settings)
    found = {"losses": []}
    keras.utils.set_random_seed(0)
    try:
        model = train.build(settings)
    except UserError as error:
        results[name] = str(error)
        continue
    found["devices"] = model.distribute_strategy.num_replicas_in_sync
    norms = [l for l in train._layers(model.backbone) if "Normalization" in type(l).__name__]
    before = numbers(norms)
    found["first_features"] = evaluate.Embedder(model.backbone)(images)["pool"].tolist()
    fit = model.fit
    model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[Losses(), *callbacks], **k)
    with tempfile.TemporaryDirectory() as folder:
        train.train(model, images, settings, pathlib.Path(folder), log=lambda text: None)
    found["norms_moved"] = any((a != b).any() for a, b in zip(before, numbers(norms)))
    found["steps"] = model.steps_done
    features = evaluate.Embedder(model.backbone)(images)["pool"]
    found["features"] = features.tolist()
    results[name] = found
print(json.dumps(results))
"""


def on_two_devices(runs):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(runs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MIRRORED = {"distribution": "mirrored"}


# At the paper's learning rate a network of a few channels turns rounding into per mille in 6 steps.
SMALL = {
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
    found = on_two_devices({"one": SMALL, "two": SMALL | MIRRORED | {"augment": "pipeline"}})
    assert_alike(found["one"], found["two"])


@pytest.mark.slow
def test_efficientnet_on_two_devices():
    efficient = {
        "backbone": "efficientnet_b0",
        "head_dims": (8, 4),
        "batch_size": 2,
        "head_steps": 4,
        "finetune_steps": 2,
    }
    found = on_two_devices({"one": efficient, "two": efficient | MIRRORED})
    one, two = found["one"], found["two"]
    assert (one["devices"], two["devices"]) == (1, 2)
    # Stochastic depth draws other numbers on two devices; the first stage has none.
    assert one["losses"][0] == pytest.approx(two["losses"][0], rel=1e-4)
    assert one["losses"][1] == pytest.approx(two["losses"][1], rel=0.1)
    assert not two["norms_moved"]


@pytest.mark.parametrize("task", sorted(proxy.TASKS))
def test_a_share_of_a_batch_has_the_views_of_the_whole(task):
    images = tf.random.stateless_uniform([6, 32, 32, 3], [1, 2])
    whole, _ = proxy.make_views(images, task, tf.constant([3, 4]))
    rows = tf.constant([1, 4, 5])
    share = random.Share(tf.constant([3, 4]), rows, 6)
    part, labels = proxy.make_views(tf.gather(images, rows), task, share)
    classes = len(proxy.TASKS[task])
    expected = tf.gather(tf.reshape(whole, [classes, 6, 32, 32, 3]), rows, axis=1)
    np.testing.assert_array_equal(part, tf.reshape(expected, part.shape))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(classes), 3))
