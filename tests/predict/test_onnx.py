"""Scoring new images with an exported ONNX file, as a user meets it."""

import csv
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import ROOT, assert_user_error, pattern, slow_but, write_image
from graphs import write_model
from PIL import Image

from cutpaste_tf import export, run_folder
from cutpaste_tf.predict import __main__ as predict
from cutpaste_tf.predict import onnx as predict_onnx
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.predict.onnx import OnnxModel
from cutpaste_tf.scoring.detector import Detector

HEAVY = ("tensorflow", "keras", "sklearn", "tensorflow_datasets", "tensorboard", "h5py")


def main(capsys, *arguments):
    capsys.readouterr()
    status = predict.main(["predict", *map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


def rows(output, name="predictions.csv"):
    with open(output / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(tmp_path):
    """Images of several sizes and formats in two folders, one of them broken."""
    rng, folder = np.random.default_rng(1), tmp_path / "new"
    for i, kind in enumerate(["png", "jpg", "tif", "png", "webp"]):
        write_image(folder / ("b" if i > 2 else "") / f"{i}.{kind}", pattern(rng, 30 + 9 * (i % 4)))
    (folder / "b" / "broken.png").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def model(localized, tmp_path_factory):
    """A run that makes maps, and its exported file."""
    path, _ = export.export(localized[0], tmp_path_factory.mktemp("model"), "onnx")
    return localized[0], path


@pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)
def test_the_files_are_the_runs(model, load_once, images, tmp_path, capsys):
    run_dir, path = model
    usual = (f"--images={images}", "--maps")
    for name, which in (("run", f"--run={run_dir}"), ("model", f"--model={path}")):
        done = main(capsys, which, *usual, f"--output={tmp_path / name}")
        assert_user_error(done, "1 of 6 images", "broken.png", "not an image")
    ours, theirs = rows(tmp_path / "model"), rows(tmp_path / "run")
    for row, expected in zip(ours, theirs, strict=True):
        assert [row[n] for n in ("path", "threshold", "verdict", "error")] == [
            expected[n] for n in ("path", "threshold", "verdict", "error")
        ]
        if not row["score"]:
            continue
        assert float(row["score"]) == pytest.approx(float(expected["score"]), rel=5e-3, abs=2e-3)
        assert row["map"] == expected["map"].replace(f"{tmp_path}/run", f"{tmp_path}/model")
        maps = [np.load(one["map"].removesuffix(".png") + ".npy") for one in (row, expected)]
        np.testing.assert_allclose(*maps, rtol=2e-2, atol=1e-2 * np.abs(maps[1]).max())
        pictures = [np.asarray(Image.open(one["map"]), np.float32) for one in (row, expected)]
        assert np.abs(pictures[0] - pictures[1]).mean() < 1.0
    names = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("run", "model")]
    assert names[0] == names[1]
    lines = (tmp_path / "model" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [row["path"] for row in ours]


@pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)
def test_threshold_and_scale_are_the_runs(model, load_once):
    run_dir, path = model
    for options in ({}, {"threshold": 3.5}, {"false_positive_rate": 0.4}):
        found = OnnxModel(path, **options, maps=True)
        assert found.threshold == run_folder.choose_threshold(run_dir, **options)
        assert found.scale == RunModel(run_dir, **options, maps=True).scale
    assert found.description.run == "part/seed_0"
    assert found.description.config == Detector.load(run_dir).config


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
    return subprocess.run(
        [sys.executable, "-c", f"REFUSED = {refused!r}{ALONE}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)
def test_maps_take_no_tensorflow(model, images, tmp_path):
    _, path = model
    (images / "b" / "broken.png").unlink()
    output = tmp_path / "out"
    done = alone(HEAVY, f"--model={path}", f"--images={images}", f"--output={output}", "--maps")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(row["map"] for row in rows(output))


def test_scores_take_numpy_pillow_and_the_runtime(images, tmp_path):
    path = write_model(tmp_path / "model.onnx")
    deep = images / "b" / "broken.png"
    write_image(deep, np.full([9, 9], 40000, np.uint16))
    refused = (*HEAVY, "scipy", "matplotlib", "absl", "ray", "onnx")
    output = tmp_path / "out"
    done = alone(refused, f"--model={path}", f"--images={images}", f"--output={output}")
    assert (done.returncode, done.stderr) == (0, "")
    found = {row["path"]: row for row in rows(output)}
    assert len(found) == 6
    assert float(found[str(deep)]["score"]) == pytest.approx(np.log(40000 >> 8))


def test_a_watch_takes_it_too(tmp_path):
    path = write_model(tmp_path / "model.onnx")
    image = write_image(tmp_path / "inbox" / "a.png", np.full([9, 9, 3], 100, np.uint8))
    flags = ["--watch", f"--model={path}", f"--images={image.parent}", f"--output={tmp_path / 'o'}"]
    program = [sys.executable, "-c", f"REFUSED = {HEAVY!r}{ALONE}", *flags]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()
        assert process.wait(60) == 0
    assert lines[2].split() == ["anomalous", f"{np.log(100):.6g}", str(image)]


def test_colours_of_16_bits_say_that_they_take_tensorflow(tmp_path):
    path = write_model(tmp_path / "model.onnx")
    import tensorflow as tf

    pixels = np.full([9, 9, 3], 40000, np.uint16)
    (tmp_path / "deep.png").write_bytes(tf.io.encode_png(pixels).numpy())
    arguments = (f"--images={tmp_path / 'deep.png'}", f"--output={tmp_path / 'out'}")
    assert_user_error(alone(HEAVY, f"--model={path}", *arguments), "takes TensorFlow")


def test_a_score_that_is_not_finite_does_not_end_the_rest(images, tmp_path, capsys):
    path, output = write_model(tmp_path / "model.onnx"), tmp_path / "out"
    (images / "b" / "broken.png").unlink()
    black = write_image(images / "2a.png", np.zeros([30, 30, 3], np.uint8))
    done = main(capsys, f"--model={path}", f"--images={images}", f"--output={output}")
    assert_user_error(done, "1 of 6 images", black, "not finite")
    for row in rows(output):
        if row["path"] == str(black):
            assert row["score"] == row["verdict"] == ""
            continue
        levels = np.asarray(Image.open(row["path"]).convert("RGB"))
        assert float(row["score"]) == pytest.approx(np.log(levels.mean()), rel=1e-3)
        assert row["verdict"] == ("anomalous" if float(row["score"]) > 4.0 else "normal")


def test_large_images_are_resized_one_by_one(tmp_path, monkeypatch):
    model = OnnxModel(write_model(tmp_path / "model.onnx"))
    run, counts = model._session.run, []

    class Session:
        def run(self, names, inputs):
            counts.append(len(inputs["images"]))
            return run(names, inputs)

    model._session = Session()
    monkeypatch.setattr(predict_onnx, "_PIXELS", 250)
    sizes = [(10, 10), (30, 30), (10, 10), (10, 11), (10, 10), (30, 30)]
    images = [np.full([*size, 3], 10 + n, np.uint8) for n, size in enumerate(sizes)]
    scores = [score for score, _ in model.score(images, sizes)]
    np.testing.assert_allclose(scores, np.log(10.0 + np.arange(6)), rtol=1e-6)
    assert counts == [2, 1, 1, 1, 1]
    assert model.score([], []) == []


def test_the_bit_depth_is_the_runs(tmp_path):
    assert OnnxModel(write_model(tmp_path / "model.onnx", bits=12)).bits == 12


def test_mistakes_are_one_line_and_leave_nothing(images, tmp_path, capsys, monkeypatch):
    good = write_model(tmp_path / "good.onnx")
    output = tmp_path / "out"
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "short.onnx").write_bytes(good.read_bytes()[:100])
    other = write_model(tmp_path / "other.onnx", format=99)
    plain = onnx.load(str(good))
    del plain.metadata_props[:]
    onnx.save(plain, str(tmp_path / "plain.onnx"))
    usual = {"model": good, "images": images, "output": output}
    for change, message in (
        ({"model": tmp_path / "none.onnx"}, "none.onnx: there is no such file"),
        ({"model": tmp_path}, "there is no such file"),
        ({"model": tmp_path / "text.onnx"}, "text.onnx: no ONNX file, or a damaged one"),
        ({"model": tmp_path / "empty.onnx"}, "no ONNX file"),
        ({"model": tmp_path / "short.onnx"}, "no ONNX file"),
        ({"model": tmp_path / "plain.onnx"}, "says nothing of a run"),
        ({"model": other}, "says nothing of a run that this version can read"),
        ({"run": tmp_path}, "not allowed with"),
        ({"threshold": "nan"}, "--threshold=nan"),
        ({"threshold": 1, "false_positive_rate": 0.1}, "leave one of them out"),
        ({"batch_size": 0}, "--batch_size=0"),
    ):
        arguments = [f"--{name}={value}" for name, value in (usual | change).items()]
        assert_user_error(main(capsys, *arguments), message)
        assert not output.exists()
    arguments = [f"--{name}={value}" for name, value in usual.items()]
    assert_user_error(main(capsys, *arguments[1:]), "--run --model is required")
    assert_user_error(main(capsys, *arguments, "--maps"), "--maps", "makes none")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_user_error(main(capsys, *arguments), "pip install onnxruntime")
    assert not output.exists()


@pytest.mark.parametrize("fault", ["name", "type", "rank", "runs"])
def test_another_graph_is_one_line(images, tmp_path, capsys, fault):
    path = write_model(tmp_path / "model.onnx")
    graph = onnx.load(path)
    if fault == "name":
        graph.graph.output[0].name = graph.graph.node[2].output[0] = "other"
    elif fault == "type":
        graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    elif fault == "rank":
        del graph.graph.input[0].type.tensor_type.shape.dim[0]
    else:  # It fails on images, and not before.
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(graph, path)
    arguments = (f"--model={path}", f"--images={images}", f"--output={tmp_path / 'out'}")
    assert_user_error(main(capsys, *arguments), "--model=", "graph")
