"""Scoring new images with a finished run, as a user meets it."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_user_error, pattern, write_image
from PIL import Image

from cutpaste_tf import run_folder
from cutpaste_tf.draw.overlay import overlay
from cutpaste_tf.predict import __main__ as predict
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.predict.rows import COLUMNS, Judge, common_root, map_name
from cutpaste_tf.scoring.detector import Detector, Embedder

pytestmark = pytest.mark.usefixtures("load_once")

RNG = np.random.default_rng(1)


@pytest.fixture
def images(tmp_path):
    """Seven images of several sizes and formats in two folders, one of them broken."""
    folder = tmp_path / "new"
    for i, kind in enumerate(["png", "jpg", "tif", "bmp", "png", "webp"]):
        write_image(folder / ("b" if i > 3 else "") / f"{i}.{kind}", pattern(RNG, 30 + 9 * i))
    (folder / "b" / "broken.png").write_bytes(b"nothing")
    return folder


def main(capsys, *arguments):
    capsys.readouterr()
    status = predict.main(["predict", *map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


def rows(output):
    with open(output / "predictions.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    with open(output / "predictions.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    # Both say the same.
    for row, line in zip(table, lines, strict=True):
        assert list(row) == list(line) == list(COLUMNS)
        for name in ("score", "threshold"):
            assert (float(row[name]) if row[name] else None) == line[name]
        for name in ("path", "verdict", "map", "error"):
            assert (row[name] or None) == line[name]
    return lines


def test_every_image_is_a_row_and_a_broken_one_says_so(finished, images, tmp_path, capsys):
    run_dir, _, _ = finished
    output = tmp_path / "out"
    done = main(capsys, f"--run={run_dir}", "--images", images, f"--output={output}")
    assert_user_error(done, "1 of 7 images", images / "b" / "broken.png", "not an image")
    found = rows(output)
    names = ["0.png", "1.jpg", "2.tif", "3.bmp", "b/4.png", "b/5.webp", "b/broken.png"]
    assert [row["path"] for row in found] == [str(images / name) for name in names]
    detector = Detector.load(run_dir)
    arrays = [predict_read(row["path"]) for row in found[:-1]]
    np.testing.assert_allclose(
        [row["score"] for row in found[:-1]], detector.score(arrays), rtol=1e-6
    )
    value = json.loads((run_dir / "results.json").read_text())["threshold"]
    assert {row["threshold"] for row in found} == {value}
    for row in found[:-1]:
        assert row["verdict"] == ("anomalous" if row["score"] > value else "normal")
        assert row["error"] is None
    assert found[-1]["score"] is found[-1]["verdict"] is None
    assert "not an image" in found[-1]["error"]
    assert "images a second" in done.stdout
    assert sorted(p.name for p in output.iterdir()) == ["predictions.csv", "predictions.jsonl"]


def predict_read(path):
    from cutpaste_tf.data import decode

    return decode.read(path)


def test_a_batch_size_changes_no_score(finished, images, tmp_path, capsys):
    run_dir, _, _ = finished
    (images / "b" / "broken.png").unlink()
    scores = []
    for size in (1, 4, 100):
        done = main(
            capsys,
            f"--run={run_dir}",
            f"--images={images}",
            f"--output={tmp_path / str(size)}",
            f"--batch_size={size}",
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        scores.append([row["score"] for row in rows(tmp_path / str(size))])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-5)


def test_thresholds_change_without_training(finished, images, tmp_path, capsys):
    run_dir, _, _ = finished
    image = images / "0.png"

    def row(*options):
        done = main(
            capsys, f"--run={run_dir}", f"--images={image}", f"--output={tmp_path / 'o'}", *options
        )
        assert done.returncode == 0, done.stderr
        return rows(tmp_path / "o")[0]

    score = row()["score"]
    assert row(f"--threshold={score - 1e-3}")["verdict"] == "anomalous"
    assert row(f"--threshold={score + 1e-3}")["verdict"] == "normal"
    at_half = row("--false_positive_rate=0.5")
    assert (
        at_half["threshold"] == run_folder.choose_threshold(run_dir, false_positive_rate=0.5).value
    )
    assert at_half["score"] == score


def test_overlays_have_the_images_sizes_and_lie_where_the_rows_say(
    localized, images, tmp_path, capsys
):
    run_dir, _, _ = localized
    output = images / "out"  # inside what is searched: its pictures are not scored the next time
    for _ in range(2):
        done = main(
            capsys, f"--run={run_dir}", f"--images={images}", f"--output={output}", "--maps"
        )
        assert_user_error(done, "1 of 7 images")
    found = rows(output)
    assert found[-1]["map"] is None
    for row in found[:-1]:
        with Image.open(row["map"]) as overlay, Image.open(row["path"]) as image:
            assert overlay.format == "PNG"
            assert overlay.size == image.size
    assert pathlib.Path(found[1]["map"]) == output / "maps" / "1.jpg.png"
    assert pathlib.Path(found[4]["map"]) == output / "maps" / "b" / "4.png"
    assert len(list((output / "maps").rglob("*.png"))) == 6


def test_a_run_without_maps_of_its_own_gets_gradcams(finished, images, tmp_path, capsys):
    run_dir, _, _ = finished
    image, output = images / "0.png", tmp_path / "out"
    done = main(capsys, f"--run={run_dir}", f"--images={image}", f"--output={output}", "--maps")
    assert done.returncode == 0, done.stderr
    (row,) = rows(output)
    detector = Detector.load(run_dir)
    found = detector.evaluate([str(image)], maps=True)
    values = RunModel(run_dir, maps=True).scale(found.maps.read([0])[0], row["score"])
    expected = overlay(predict_read(image), values)
    np.testing.assert_array_equal(np.asarray(Image.open(row["map"])), expected)


def test_maps_and_their_areas_are_written_for_who_goes_on_with_them(
    localized, images, tmp_path, capsys
):
    run_dir, _, _ = localized
    (images / "b" / "broken.png").unlink()
    # Something that no normal image has, in a corner of one that is not square.
    odd = np.zeros([60, 90, 3], np.uint8)
    odd[:20, 60:] = 255
    path, output = write_image(images / "odd.png", odd), tmp_path / "out"
    run_dir = shutil.copytree(run_dir, tmp_path / "run")
    results = run_folder.read_results(run_dir)
    if results["pixel_threshold"] is not None:  # This network has learnt nothing.
        maps = Detector.load(run_dir).evaluate([odd], maps=True).maps.read([0])
        results["pixel_threshold"] = float(np.median(maps))
        (run_dir / "results.json").write_text(json.dumps(results))
    done = main(capsys, f"--run={run_dir}", f"--images={images}", f"--output={output}", "--maps")
    assert done.returncode == 0, done.stderr
    detector = Detector.load(run_dir)
    for row in rows(output):
        raw = np.load(row["map"].removesuffix(".png") + ".npy")
        expected = detector.evaluate([predict_read(row["path"])], maps=True).maps.read([0])[0]
        np.testing.assert_allclose(raw, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    if detector.config.maps != "features":
        assert not (output / "areas.csv").exists()
        return
    threshold = run_folder.read_results(run_dir)["pixel_threshold"]
    with open(output / "areas.csv", encoding="utf-8", newline="") as file:
        areas = [row for row in csv.DictReader(file) if row["path"] == str(path)]
    raw = np.load(output / "maps" / "odd.npy")
    pixels = sum(float(area["pixels"]) for area in areas)
    assert pixels == pytest.approx((raw > threshold).sum() / raw.size * 60 * 90)
    assert float(areas[0]["peak"]) == raw.max()
    for area in areas:
        left, top, width, height = (
            float(area[name]) for name in ("left", "top", "width", "height")
        )
        assert 0 <= left <= left + width <= 90
        assert 0 <= top <= top + height <= 60
        assert threshold < float(area["mean"]) <= float(area["peak"])


def test_names_of_overlays_do_not_meet(tmp_path):
    sources = [tmp_path / "a", tmp_path / "b" / "x.png", tmp_path / "b" / "x.jpg"]
    for path in (tmp_path / "a" / "x.png", *sources[1:]):
        write_image(path, pattern(RNG, 8))
    root = common_root(sources)
    assert root == tmp_path
    names = [map_name(p, root) for p in (tmp_path / "a" / "x.png", *sources[1:])]
    assert [n.as_posix() for n in names] == ["a/x.png", "b/x.png", "b/x.jpg.png"]
    names = [
        "y",
        "y.png",
        "y.PNG",
        "y.jpg",
        "y.jpg.png",
        "y.png.png",
        "y.image.png",
        "y.txt",
        "y.image",
    ]
    names += ["y.image.image.png", "y.image.png.png"]
    drawn = [map_name(tmp_path / name, root).as_posix() for name in names]
    assert len(set(drawn)) == len(names)
    assert all(name.endswith(".png") for name in drawn)


def test_mistakes_are_one_line_and_leave_nothing(finished, images, tmp_path, capsys):
    run_dir, _, _ = finished
    output = tmp_path / "out"
    usual = {"run": run_dir, "images": images, "output": output}
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for change, message in (
        ({"run": tmp_path}, "has the run finished"),
        ({"images": tmp_path / "nowhere"}, "there is no such file or folder"),
        ({"images": tmp_path / "empty"}, "no images there"),
        ({"images": ""}, "there is no such file or folder"),
        ({"images": "x" * 300}, "there is no such file or folder"),
        ({"output": os.fsdecode(b"\xff")}, "must name a folder, in UTF-8"),
        ({"run": tmp_path / "file"}, "has the run finished"),
        ({"output": ""}, "must name a folder"),
        ({"threshold": "x"}, "threshold"),
        ({"threshold": 1, "false_positive_rate": 0.1}, "leave one of them out"),
        ({"false_positive_rate": 2}, "must be above 0"),
        ({"batch_size": 0}, "--batch_size=0"),
        ({"output": tmp_path / "file" / "x"}, "--output"),
        ({"colour": "red"}, "--colour"),
    ):
        arguments = [f"--{name}={value}" for name, value in (usual | change).items()]
        assert_user_error(main(capsys, *arguments), message)
        assert not output.exists()


def test_what_was_there_stays_if_it_does_not_end_well(
    finished, images, tmp_path, monkeypatch, capsys
):
    run_dir, _, _ = finished
    output = tmp_path / "out"
    output.mkdir()
    (output / "predictions.csv").write_text("earlier")

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Judge, "_draw", full)
    done = main(capsys, f"--run={run_dir}", f"--images={images}", f"--output={output}", "--maps")
    assert_user_error(done, "--output", "No space left on device")
    assert {p.name: p.read_text() for p in output.iterdir()} == {"predictions.csv": "earlier"}


def test_several_sources_and_where_overlays_go(finished, images, tmp_path, capsys):
    run_dir, _, _ = finished
    output = tmp_path / "out"
    arguments = [f"--run={run_dir}", f"--output={output}", "--maps"]
    more = [f"--images={images / '1.jpg'}", "--images", images / "0.png", images / "3.bmp"]
    assert main(capsys, *arguments, *more).returncode == 0
    names = [pathlib.Path(row["path"]).name for row in rows(output)]
    assert names == ["1.jpg", "0.png", "3.bmp"]
    for source in (output / "maps", output / "maps" / "0.png"):
        done = main(capsys, *arguments, f"--images={source}")
        assert_user_error(done, f"--images={source}: is where overlays are written to")
    # The folder that is written to holds images too: they are scored, their overlays are not.
    write_image(output / "x.png", pattern(RNG))
    for _ in range(2):
        assert main(capsys, *arguments, f"--images={output}").returncode == 0
        assert [row["path"] for row in rows(output)] == [str(output / "x.png")]


def test_each_image_is_opened_and_decoded_once(finished, images, tmp_path, capsys, monkeypatch):
    from cutpaste_tf.data import decode

    run_dir, _, _ = finished
    opened, decoded = [], []
    contents, levels = decode.contents, decode._levels
    monkeypatch.setattr(decode, "contents", lambda p: opened.append(p) or contents(p))
    monkeypatch.setattr(decode, "_levels", lambda *a: decoded.append(a) or levels(*a))
    arguments = [f"--run={run_dir}", f"--output={tmp_path / 'out'}", "--maps"]
    assert_user_error(main(capsys, *arguments, "--images", images), "1 of 7 images have an error")
    assert sorted(opened) == sorted(filter(pathlib.Path.is_file, images.rglob("*")))
    assert len(decoded) == 7
    assert [row["map"] is None for row in rows(tmp_path / "out")] == [*[False] * 6, True]


def test_an_image_whose_features_are_not_finite_does_not_end_the_rest(
    finished, images, tmp_path, capsys, monkeypatch
):
    run_dir, _, _ = finished
    embed = Embedder.__call__

    def overflow(self, prepared):
        features = embed(self, prepared)
        dark = prepared.stored.numpy().mean(axis=(1, 2, 3)) < 1
        features["pool"][dark] = np.inf
        return features

    monkeypatch.setattr(Embedder, "__call__", overflow)
    write_image(images / "2a.png", np.zeros([30, 30, 3], np.uint8))
    (images / "b" / "broken.png").unlink()
    done = main(capsys, f"--run={run_dir}", f"--images={images}", f"--output={tmp_path / 'out'}")
    assert_user_error(done, "1 of 7 images", "2a.png", "not finite")
    found = rows(tmp_path / "out")
    assert [row["score"] is None for row in found] == [False] * 3 + [True] + [False] * 3


def test_overlays_of_an_earlier_prediction_are_not_scored(finished, images, capsys):
    (images / "b" / "broken.png").unlink()
    command = (f"--run={finished[0]}", f"--images={images}", "--maps")
    for output in (images / "first", images / "second"):
        done = main(capsys, *command, f"--output={output}")
        assert done.returncode == 0, done.stderr
        assert len(rows(output)) == 6


def test_a_name_that_is_not_utf8_is_a_row_with_an_error(finished, images, tmp_path, capsys):
    odd = os.fsdecode(os.fsencode(images) + b"/\xff,\n.png")
    os.rename(images / "0.png", odd)
    arguments = [f"--run={finished[0]}", f"--output={tmp_path / 'out'}", "--maps"]
    done = main(capsys, *arguments, "--images", odd, images / "1.jpg")
    assert_user_error(done, "1 of 2 images", "its name is not UTF-8; rename it")
    found = rows(tmp_path / "out")
    assert found[0]["path"] == f"{images}/\\udcff,\n.png"
    assert [row["map"] is None for row in found] == [True, False]


def test_help_answers_at_once_and_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cutpaste_tf.predict", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "--false_positive_rate" in done.stdout
    assert "tensorflow" not in done.stderr
