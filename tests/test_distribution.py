"""Training shared among devices: two logical CPU devices, in a process of their own."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import MAIN, QUICK, ROOT, SMALL_MAIN, assert_user_error, command

from cutpaste_tf import command as commands
from cutpaste_tf import distribution, main
from cutpaste_tf.config import Config

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
from cutpaste_tf.detector import Embedder
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


WITHOUT_DROPOUT = os.environ | {"DROPOUT": "0"}


def on_two_devices(runs, network="small"):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(runs), network],
        cwd=ROOT,
        env=WITHOUT_DROPOUT,
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


# Several workers: processes of their own that talk over loopback.


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(flags, workdirs, program=MAIN):
    """Starts one process for each work directory, all workers of one training."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(len(workdirs))]
    processes = []
    for index, workdir in enumerate(workdirs):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [
                    *(*program, "--distribution=multi_worker"),
                    *(f"--workdir={workdir}", *flags),
                ],
                cwd=ROOT,
                env=WITHOUT_DROPOUT | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes):
    """Waits for all; returns their output."""
    done = [process.communicate(timeout=280) for process in processes]
    for process, (_, err) in zip(processes, done, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in done]


def losses(run_dir):
    """The epochs' losses, from TensorBoard's events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard" / "train")).Reload()
    return [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors("epoch_loss")]


def scores(run_dir):
    lines = (run_dir / "scores.csv").read_text().splitlines()[1:]
    return np.array([float(line.split(",")[3]) for line in lines])


WORKERS = (*QUICK, "--seed=0", "--learning_rate=0.003", "--dataset=folder")


def test_two_workers_train_as_one_does(small_backbone, quick_views, monkeypatch, mvtec, tmp_path):
    flags = [*WORKERS, f"--data_dir={mvtec}"]
    outputs = finish(start_workers(flags, [tmp_path / "two"] * 2, SMALL_MAIN))
    monkeypatch.setenv("DROPOUT", WITHOUT_DROPOUT["DROPOUT"])
    assert main.main(["main", *flags, f"--workdir={tmp_path / 'one'}"]) == 0
    one, two = (tmp_path / name / "part" / "seed_0" for name in ("one", "two"))
    assert "image AUROC" in outputs[0]
    assert outputs[1] == ""  # The first one alone reports and writes.
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert len(losses(one)) == 1
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    np.testing.assert_allclose(scores(two), scores(one), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--augment=pipeline",)], ids=["device", "pipeline"])
def test_two_workers_in_two_stages_and_views_made_on_the_host(mvtec, tmp_path, more):
    flags = [flag for flag in WORKERS if not flag.startswith("--steps")]
    flags += ["--head_steps=4", "--finetune_steps=4", "--finetune_learning_rate=0.003"]
    flags += [f"--data_dir={mvtec}"]
    finish(start_workers([*flags, *more], [tmp_path / "two"] * 2))
    assert command(*flags, f"--workdir={tmp_path / 'one'}").returncode == 0
    one, two = (tmp_path / name / "part" / "seed_0" for name in ("one", "two"))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-3)


@pytest.mark.slow
def test_killed_workers_resume_together_and_refuse_different_folders(mvtec, tmp_path):
    flags = [*WORKERS, f"--data_dir={mvtec}", "--steps=300", "--batch_size=2"]
    processes = start_workers(flags, [tmp_path / "two"] * 2)
    backup = tmp_path / "two" / "part" / "seed_0" / "checkpoints" / "backup" / "training"
    deadline = time.monotonic() + 200
    while not (backup / "training_metadata.json").is_file():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    for process in processes:
        process.kill()
        process.communicate()
    # A worker that does not see the backup would start from another step.
    apart = start_workers(flags, [tmp_path / "two", tmp_path / "elsewhere"])
    for process in apart:
        out, err = process.communicate(timeout=280)
        assert_user_error(
            subprocess.CompletedProcess([], process.returncode, out, err), "the same folder"
        )
    outputs = finish(start_workers(flags, [tmp_path / "two"] * 2))
    assert "resuming at step" in outputs[0]


@pytest.mark.parametrize("devices", [1, 2])
def test_workers_devices_have_the_batchs_rows_in_order(devices):
    batches = [np.arange(8) + 100 * number for number in range(3)]
    whole = tf.data.Dataset.from_tensor_slices((np.stack(batches), 10 * np.stack(batches)))
    shares = []
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, 2 * devices)
        shares.append(list(distribution.own_rows(whole, context).as_numpy_iterator()))
    assert [len(share) for share in shares] == [3 * devices] * 2
    for number, batch in enumerate(batches):
        parts = [share[number * devices + d] for share in shares for d in range(devices)]
        assert {len(rows) for rows, _ in parts} == {8 // (2 * devices)}
        assert np.concatenate([rows for rows, _ in parts]).tolist() == batch.tolist()
        assert np.concatenate([rows for _, rows in parts]).tolist() == (10 * batch).tolist()


def test_a_worker_that_loses_the_others_says_so():
    config = Config(dataset="textures", distribution="multi_worker")
    lost = tf.errors.UnavailableError(None, None, "Connection refused\nmore")
    assert "another worker" in commands.error_line(lost, config)
    assert "\n" not in commands.error_line(lost, config)
    assert commands.error_line(lost, dataclasses.replace(config, distribution="none")) is None
    assert commands.error_line(ValueError("a fault of the program's"), config) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "TF_CONFIG must be set"),
        ("{", "TF_CONFIG={"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "worker", "index": 0}}', "worker"),
    ],
)
def test_a_wrong_tf_config_is_a_user_error(content, message, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if content is not None:
        monkeypatch.setenv("TF_CONFIG", content)
    flags = ["--dataset=textures", "--category=brick", "--distribution=multi_worker"]
    assert main.main(["main", *flags]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert message in printed
