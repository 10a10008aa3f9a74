"""Scoring new images with an exported ONNX file, and what the file says of its run."""

import dataclasses
import json
import operator
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import ROOT, assert_user_error, slow_but, write_image
from graphs import write_model
from mean import read_rows, write_images
from PIL import Image

from cutpaste_tf import export, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.predict import exported
from cutpaste_tf.predict.exported import Description, OnnxModel
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.threshold import Threshold

HEAVY = ("tensorflow", "keras", "sklearn", "tensorflow_datasets", "tensorboard", "h5py")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "new")


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from cutpaste_tf.predict import __main__ as predict
status = predict.main(sys.argv)
assert not set(REFUSED) & set(sys.modules)
sys.exit(status)
"""


def alone(refused, *arguments):
    """Runs the command where packages cannot be imported."""
    program = [sys.executable, "-c", f"REFUSED = {refused!r}{ALONE}", *map(str, arguments)]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)
def test_the_files_are_the_runs_without_tensorflow(localized, load_once, images, tmp_path, predict):
    run_dir = localized[0]
    path, _ = export.export(run_dir, tmp_path / "exported", "onnx")
    usual = [f"--images={images}", "--maps"]
    for done in (
        predict(*usual, run=run_dir, output=tmp_path / "run"),
        alone(HEAVY, f"--model={path}", *usual, f"--output={tmp_path / 'model'}"),
    ):
        assert_user_error(done, "1 of 7 images", "broken.png", "not an image")
    ours, theirs = read_rows(tmp_path / "model"), read_rows(tmp_path / "run")
    for row, expected in zip(ours, theirs, strict=True):
        for name in ("path", "threshold", "verdict", "error"):
            assert row[name] == expected[name]
        if row["score"] is None:
            continue
        assert row["score"] == pytest.approx(expected["score"], rel=5e-3, abs=2e-3)
        assert row["map"] == expected["map"].replace(f"{tmp_path}/run", f"{tmp_path}/model")
        maps = [np.load(one["map"].removesuffix(".png") + ".npy") for one in (row, expected)]
        np.testing.assert_allclose(*maps, rtol=2e-2, atol=1e-2 * np.abs(maps[1]).max())
        pictures = [np.asarray(Image.open(one["map"]), np.float32) for one in (row, expected)]
        assert np.abs(pictures[0] - pictures[1]).mean() < 1.0
    names = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("run", "model")]
    assert names[0] == names[1]
    # So are the threshold and the scale.
    for options in ({}, {"threshold": 3.5}, {"false_positive_rate": 0.4}):
        found = OnnxModel(path, **options, maps=True)
        assert found.threshold == run_folder.choose_threshold(run_dir, **options)
        assert found.scale == RunModel(run_dir, **options, maps=True).scale


def test_scores_need_numpy_pillow_and_the_runtime(images, tmp_path):
    """An image that cannot be scored does not end the rest: a black one's score is not finite."""
    import tensorflow as tf

    model, output = write_model(tmp_path / "model.onnx"), tmp_path / "out"
    grey = write_image(images / "b" / "broken.png", np.full([9, 9], 40000, np.uint16))
    black = write_image(images / "2a.png", np.zeros([30, 30, 3], np.uint8))
    deep = images / "deep.png"
    deep.write_bytes(tf.io.encode_png(np.full([9, 9, 3], 40000, np.uint16)).numpy())
    refused = (*HEAVY, "scipy", "matplotlib", "absl", "ray", "pyarrow", "onnx")
    done = alone(refused, f"--model={model}", f"--images={images}", f"--output={output}")
    assert_user_error(done, "2 of 9 images", black, "not finite")
    for row in read_rows(output):
        if row["path"] in (str(black), str(deep)):
            assert row["score"] is row["verdict"] is None
            assert ("needs TensorFlow" in row["error"]) == (row["path"] == str(deep))
            continue
        levels = np.asarray(Image.open(row["path"]))
        mean = 40000 >> 8 if row["path"] == str(grey) else levels.mean()
        assert row["score"] == pytest.approx(np.log(mean), rel=1e-3)
        assert row["verdict"] == ("anomalous" if row["score"] > 4.0 else "normal")


def test_a_watch_needs_no_tensorflow(tmp_path):
    path = write_model(tmp_path / "model.onnx")
    image = write_image(tmp_path / "inbox" / "a.png", np.full([9, 9, 3], 100, np.uint8))
    flags = ["--watch", f"--model={path}", f"--images={image.parent}", f"--output={tmp_path / 'o'}"]
    program = [sys.executable, "-c", f"REFUSED = {HEAVY!r}{ALONE}", *flags]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()
        assert process.wait(60) == 0
        relative = f"{np.log(100) - 3.0:.2f}"  # The normal median is 3, the threshold 4.
        assert lines[2].split() == ["anomalous", f"{np.log(100):.6g}", relative, str(image)]


def test_images_of_one_size_are_scored_together_unless_they_are_large(tmp_path, monkeypatch):
    model = OnnxModel(write_model(tmp_path / "model.onnx", bits=12))
    run, counts = model._run, []
    monkeypatch.setattr(model, "_run", lambda images: counts.append(len(images)) or run(images))
    monkeypatch.setattr(exported, "_PIXELS", 250)
    sizes = [(30, 30), (10, 10), (10, 10), (10, 10), (10, 11), (30, 30), (30, 30)]
    images = [np.full([*size, 3], 10 + n, np.uint8) for n, size in enumerate(sizes)]
    scores = [score for score, _ in model.score(images, sizes)]
    np.testing.assert_allclose(scores, np.log(10.0 + np.arange(7)), rtol=1e-6)
    assert counts == [1, 2, 1, 1, 1, 1]
    assert model.score([], []) == []
    assert model.bits == 12


def damage(path, fault):
    """Makes of a good file one that export does not write."""
    if fault == "text":
        return path.write_text("no model")
    if fault == "short":
        return path.write_bytes(path.read_bytes()[:100])
    model = onnx.load(path)
    graph = model.graph
    if fault == "metadata":
        del model.metadata_props[:]
    elif fault == "name":
        graph.output[0].name = graph.node[2].output[0] = "other"
    elif fault == "type":
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    elif fault == "rank":
        del graph.input[0].type.tensor_type.shape.dim[0]
    elif fault == "fails":  # on images, and not before
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    return onnx.save(model, path)


@pytest.mark.parametrize(
    ("fault", "flags", "message"),
    [
        ("text", [], "model.onnx: not an ONNX file, or damaged"),
        ("short", [], "not an ONNX file"),
        ("metadata", [], "has no description of a run"),
        ("name", [], "the graph fails"),
        ("type", [], "the graph fails"),
        ("rank", [], "not an ONNX file, or damaged"),
        ("fails", [], "the graph fails"),
        (None, ["--model=none"], "doesn't exist"),
        (None, ["--threshold=nan"], "--threshold=nan"),
        (None, ["--maps"], "makes no maps"),
        ("runtime", [], "pip install onnxruntime"),
    ],
)
def test_a_mistake_is_one_line(images, tmp_path, predict, monkeypatch, fault, flags, message):
    path = write_model(tmp_path / "model.onnx")
    damage(path, fault)
    if fault == "runtime":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = predict(f"--model={path}", *flags, images=images, output=tmp_path / "out")
    assert_user_error(done, message)
    assert [path.name for path in (tmp_path / "out").glob("*")] in ([], ["_lock"])


@pytest.fixture
def description():
    return Description(
        config=Config(dataset="folder", data_dir="x", category="part", image_size=(32, 48)),
        bits=12,
        threshold=Threshold(0.1 + 0.2, 0.01, 3, 1.0 / 3.0),
        normal_scores=np.array([1.0, 1.0 / 3.0, 2.0]),
        level=None,
        pixel_threshold=7.5,
    )


def read(text):
    return Description.read({exported.KEY: text, "other": "x"}, "--model=a.onnx")


def test_numbers_are_read_back_to_the_last_bit(description):
    without = dataclasses.replace(description, pixel_threshold=None)
    for written in (description, without):
        for field in dataclasses.fields(Description):
            ours, theirs = (getattr(x, field.name) for x in (read(written.to_json()), written))
            equal = np.array_equal if isinstance(theirs, np.ndarray) else operator.eq
            assert equal(ours, theirs)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": 99},
        {"config": {"format": 1}},
        {"normal_scores": [float("nan")]},
        {"normal_scores": [10**400]},
        {"normal_scores": "1"},
        {"threshold": {"value": "high"}},
        {"threshold": {"value": 1.0, "false_positive_rate": 0.1}},
        {"level": "x"},
        {"pixel_threshold": 10**400},
        {"bits": 99},
        {"more": 1},
    ],
)
def test_what_no_export_writes_is_refused(description, metadata):
    text = json.dumps(json.loads(description.to_json()) | metadata)
    message = r"^--model=a\.onnx: has no description of a run.*export the run again"
    with pytest.raises(UserError, match=message):
        read(text)
    with pytest.raises(UserError, match=message):
        read(text[:-1])
