"""What several test modules share: tiny data sets, and the command line in a process of its own."""

import contextlib
import csv
import functools
import gc
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import small
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import cutpaste_tf  # noqa: F401 - sets TensorFlow's variables before it is imported

# Tracing makes objects by the million that are no garbage; the search took a tenth of the time.
gc.set_threshold(100_000, 20, 100)

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# A run of seconds: the whole code, at a size that learns nothing.
TINY = ("--image_size=32", "--width=0.0625", "--head_dims=8,4", "--batch_size=4", "--steps=6")
# Two views are traced in half the time of three.
QUICK = (*TINY, "--task=cutpaste")
# What settings need for a network alone.
SETTINGS = {"dataset": "folder", "data_dir": "x", "category": "part"}
# Command lines that run a training: the real one, and one with a network that is quick to trace.
MAIN = (sys.executable, "-m", "cutpaste_tf.main")
SMALL_MAIN = (sys.executable, str(pathlib.Path(small.__file__)))
# The runs of `app_runs`, by their names.
IMAGE_RUN, PATCH_RUN = "part/seed_0", "patch/part/seed_0"

# Fixtures that take seconds: the tests that share one run in one process, where it is made once.
# Some tests take a finished run and one with anomaly maps, so these two are one group.
SHARED = {"finished": "runs", "localized": "runs", "cells": "cells"}
SHARED |= {"app_runs": "app", "detector": "detector"}
# Long tests begin first, so that at the end no worker waits for another's.
LONG = ("test_main.py", "test_distribution.py", "test_sweep.py")


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in this hook too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        groups = {SHARED[name] for name in item.fixturenames if name in SHARED}
        assert len(groups) < 2, f"{item.nodeid} would be of a group of its own"
        for group in groups:
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    gc.freeze()  # Nor are modules that were imported.


def slow_but(cases: list, *quick) -> list:
    """Cases for `parametrize`, of which only the quick ones are run by default."""
    tuples = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in quick else pytest.mark.slow for case in cases]
    return [pytest.param(*x, marks=mark) for x, mark in zip(tuples, marks, strict=True)]


def write_image(path: pathlib.Path, pixels: np.ndarray, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def pattern(rng: np.random.Generator, size: int = 40) -> np.ndarray:
    """A smooth random colour image, uint8 [size, size, 3]."""
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def make_mvtec(
    root: pathlib.Path, category="part", train=8, good=4, bad=4, sizes=((40, 40),)
) -> pathlib.Path:
    """Writes a tiny category in MVTec layout, of some sizes; returns the folder that holds it."""
    rng = np.random.default_rng(0)
    folder = root / category

    def picture(i):
        height, width = sizes[i % len(sizes)]
        return pattern(rng, max(height, width))[:height, :width].copy()

    for kind, count in (("train", train), ("test", good)):
        for i in range(count):
            write_image(folder / kind / "good" / f"{i:03d}.png", picture(i))
    for i in range(bad):
        image = picture(i)
        mask = np.zeros(image.shape[:2], np.uint8)
        image[10:20, 5 + i : 25 + i] = rng.integers(0, 256, (10, 20, 3))
        mask[10:20, 5 + i : 25 + i] = 255
        write_image(folder / "test" / "hole" / f"{i:03d}.png", image)
        write_image(folder / "ground_truth" / "hole" / f"{i:03d}_mask.png", mask)
    return root


@pytest.fixture
def mvtec(tmp_path: pathlib.Path) -> pathlib.Path:
    return make_mvtec(tmp_path / "data")


@pytest.fixture
def small_backbone(monkeypatch):
    """A convolution and a batch norm: a ResNet takes seconds to trace, for nothing here.

    Nor are a run's figures drawn, for the same reason; whole runs, as `finished`, have them.
    """
    monkeypatch.setattr("cutpaste_tf.models.backbone.build_backbone", small.build_backbone)
    monkeypatch.setattr("cutpaste_tf.run.pictures.draw_figures", small.draw_figures)


@pytest.fixture
def quick_views(monkeypatch):
    """Views of a dozen operations, for tests of all about a training but its views."""
    monkeypatch.setattr("cutpaste_tf.augment.proxy.draw_views", small.draw_views)
    monkeypatch.setattr("cutpaste_tf.augment.proxy.apply_views", small.apply_views)


@pytest.fixture(scope="module")
def images():
    """Ten images of noise, 32x32."""
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.split import normal_split

    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(10)]
    return pipeline.prepare(normal_split([str(i) for i in range(10)], arrays), 32)


@pytest.fixture
def short_epochs(monkeypatch):
    """Epochs of 4 steps, so that a few steps make several epochs and a rest."""
    monkeypatch.setattr("cutpaste_tf.train.loop.EPOCH_STEPS", 4)


@pytest.fixture
def shallow_efficientnet(monkeypatch):
    """Has EfficientNet's seven blocks a layer each, where B0 has sixteen: in half the time."""
    from keras.src.applications import efficientnet

    shallow = [arguments | {"repeats": 1} for arguments in efficientnet.DEFAULT_BLOCKS_ARGS]
    monkeypatch.setattr(efficientnet, "DEFAULT_BLOCKS_ARGS", shallow)


@pytest.fixture
def efficientnet(monkeypatch, shallow_efficientnet):
    """Takes a shallow EfficientNet for every backbone."""
    from cutpaste_tf.models.efficientnet import efficientnet

    def build_backbone(settings, *, initial_weights=True):
        return efficientnet(settings.backbone, settings.size, seed=0)

    monkeypatch.setattr("cutpaste_tf.models.backbone.build_backbone", build_backbone)


def command(*arguments: str, program=MAIN, **options) -> subprocess.CompletedProcess:
    """Runs `python -m cutpaste_tf.main` in a process of its own."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([*program, *map(str, arguments)], **options)


def assert_user_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Asserts exit status 2 and one line on stderr that holds all of `parts`."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert str(part) in errors[0]


def call(capsys, main, *arguments, **flags) -> subprocess.CompletedProcess:
    """Runs a command's `main` in this process, with flags of values as keywords too."""
    capsys.readouterr()
    arguments = [*arguments, *(f"--{name}={value}" for name, value in flags.items())]
    status = main(["command", *map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


@pytest.fixture
def predict(capsys):
    """Runs the command line of `predict` in this process; see `call`."""
    from cutpaste_tf.predict import __main__ as predict

    return functools.partial(call, capsys, predict.main)


def read_scores(run_dir: pathlib.Path) -> list[dict]:
    """The rows of a run's scores.csv."""
    with open(run_dir / "scores.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def alter_run(run_dir, **settings):
    """Gives a run other settings, and the checksums of its settings and files as they are now."""
    from cutpaste_tf import run_folder
    from cutpaste_tf.config import Config

    config = json.loads((run_dir / "config.json").read_text()) | settings
    (run_dir / "config.json").write_text(json.dumps(config))
    sums = run_folder.checksums(run_dir, Config.load(run_dir))
    run_folder.write_results(run_dir, run_folder.read_results(run_dir) | {"sha256": sums})


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run on a folder with defects, and its data."""
    root = tmp_path_factory.mktemp("finished")
    make_mvtec(root / "data")
    return run_in_this_process(root, *QUICK)


def run_in_this_process(
    root: pathlib.Path, *flags: str, workdir: str = "runs"
) -> tuple[pathlib.Path, pathlib.Path, str]:
    """Trains on the data in a folder; returns the run's folder, its data and what it printed."""
    from cutpaste_tf import main

    arguments = ["--dataset=folder", f"--data_dir={root / 'data'}", f"--workdir={root / workdir}"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main.main(["main", *arguments, *flags]) == 0
    return root / workdir / "part" / "seed_0", root / "data" / "part", output.getvalue()


@pytest.fixture(scope="session")
def cached_load():
    from cutpaste_tf.scoring.detector import Detector

    return functools.cache(Detector.load)


@pytest.fixture
def load_once(monkeypatch, cached_load):
    """Loads each run once in a process, for tests that are about something else."""
    monkeypatch.setattr("cutpaste_tf.scoring.detector.Detector.load", cached_load)


@pytest.fixture(
    scope="session", params=slow_but(["patch", "gradcam", "features"], "patch", "features")
)
def localized(request, tmp_path_factory):
    """The folder of a finished run that makes anomaly maps, and its data."""
    root = tmp_path_factory.mktemp(request.param)
    make_mvtec(root / "data")
    kinds = {
        "patch": ("--patch_size=32", "--dense_stride=16", "--image_size=64"),
        "gradcam": ("--maps=gradcam", "--image_size=64"),
        "features": ("--maps=features", "--image_size=64", "--image_score=map"),
    }
    return run_in_this_process(root, *TINY, *kinds[request.param])


@pytest.fixture(scope="session")
def app_runs(tmp_path_factory):
    """A work directory with a run of whole images and one of patches, untrained, and their data."""
    root = tmp_path_factory.mktemp("app")
    make_mvtec(root / "data")
    patch = ("--image_size=48", "--patch_size=32", "--dense_stride=16")
    with mock.patch("cutpaste_tf.run.pictures.draw_figures", small.draw_figures):
        run_in_this_process(root, *TINY, "--steps=0")
        run_in_this_process(root, *TINY, "--steps=0", *patch, workdir="runs/patch")
    return root / "runs", root / "data" / "part"


@pytest.fixture(scope="session")
def inspector(app_runs):
    from cutpaste_tf.app.__main__ import finished_runs
    from cutpaste_tf.app.inspector import Inspector

    return Inspector(finished_runs(str(app_runs[0])))


@pytest.fixture
def own_copy(app_runs, tmp_path):
    """A copy of the run of whole images, to damage."""
    shutil.copytree(app_runs[0] / IMAGE_RUN, tmp_path / "runs" / IMAGE_RUN)
    return tmp_path / "runs" / IMAGE_RUN
