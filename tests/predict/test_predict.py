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
from mean import read_rows, write_images
from PIL import Image

from cutpaste_tf import run_folder
from cutpaste_tf.data import decode
from cutpaste_tf.draw.overlay import overlay
from cutpaste_tf.predict import rows
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.scoring.detector import Detector

pytestmark = pytest.mark.usefixtures("load_once")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "new")


def test_every_image_is_a_row_and_a_broken_one_says_so(finished, images, tmp_path, predict):
    run_dir, _, _ = finished
    output = tmp_path / "out"
    done = predict("--images", images, run=run_dir, output=output)
    assert_user_error(done, "1 of 7 images", images / "b" / "broken.png", "not an image")
    *scored, broken = read_rows(output)
    names = ["0.png", "1.jpg", "2.tif", "3.bmp", "b/4.png", "b/5.webp"]
    assert [row["path"] for row in scored] == [str(images / name) for name in names]
    arrays = [decode.read(row["path"]) for row in scored]
    scores = [row["score"] for row in scored]
    np.testing.assert_allclose(scores, Detector.load(run_dir).score(arrays), rtol=1e-6)
    value = json.loads((run_dir / "results.json").read_text())["threshold"]
    assert {row["threshold"] for row in (*scored, broken)} == {value}
    for row in scored:
        assert row["verdict"] == ("anomalous" if row["score"] > value else "normal")
        assert row["error"] is None
    median = np.median(run_folder.read_normal_scores(run_dir))
    relative = [row["relative_score"] for row in scored]
    np.testing.assert_allclose(relative, (np.array(scores) - median) / (value - median), rtol=1e-9)
    assert broken["score"] is broken["relative_score"] is broken["verdict"] is None
    assert "not an image" in broken["error"]
    assert "images a second" in done.stdout
    names = ["_lock", "predictions.csv", "predictions.jsonl"]
    assert sorted(p.name for p in output.iterdir()) == names
    # The size of a batch changes no score, and where nothing is wrong stderr is empty.
    pathlib.Path(broken["path"]).unlink()
    for size in (1, 4):
        done = predict(run=run_dir, images=images, output=output, batch_size=size)
        assert (done.returncode, done.stderr) == (0, "")
        again = [row["score"] for row in read_rows(output)]
        np.testing.assert_allclose(again, scores, rtol=1e-5)


def test_thresholds_change_without_training(finished, images, tmp_path, predict):
    run_dir, _, _ = finished

    def row(**options):
        done = predict(run=run_dir, images=images / "0.png", output=tmp_path / "o", **options)
        assert done.returncode == 0, done.stderr
        return read_rows(tmp_path / "o")[0]

    score = row()["score"]
    assert row(threshold=score - 1e-3)["verdict"] == "anomalous"
    assert row(threshold=score + 1e-3)["verdict"] == "normal"
    at_half = row(false_positive_rate=0.5)
    expected = run_folder.choose_threshold(run_dir, false_positive_rate=0.5)
    assert (at_half["threshold"], at_half["score"]) == (expected.value, score)


def test_a_run_without_maps_of_its_own_gets_gradcams(
    finished, images, tmp_path, predict, monkeypatch
):
    run_dir, _, _ = finished
    opened, decoded = [], []
    contents, levels = decode.contents, decode._levels
    monkeypatch.setattr(decode, "contents", lambda p: opened.append(p) or contents(p))
    monkeypatch.setattr(decode, "_levels", lambda *a: decoded.append(a) or levels(*a))
    done = predict("--maps", run=run_dir, images=images, output=tmp_path / "out")
    assert_user_error(done, "1 of 7 images have an error")
    # Each image is opened and decoded once.
    assert sorted(opened) == sorted(filter(pathlib.Path.is_file, images.rglob("*")))
    assert len(decoded) == 7
    *mapped, broken = read_rows(tmp_path / "out")
    assert broken["map"] is None
    detector = Detector.load(run_dir)
    maps = detector.evaluate([row["path"] for row in mapped], maps=True).maps
    scale = RunModel(run_dir, maps=True).scale
    for index, row in enumerate(mapped):
        values = scale(maps.read([index])[0], row["score"])
        expected = overlay(decode.read(row["path"]), values)
        np.testing.assert_array_equal(np.asarray(Image.open(row["map"])), expected)


def test_maps_and_their_areas_are_written(localized, images, tmp_path, predict):
    run_dir, _, _ = localized
    (images / "b" / "broken.png").unlink()
    # Something that no normal image has, in a corner of one that is not square.
    odd = np.zeros([60, 90, 3], np.uint8)
    odd[:20, 60:] = 255
    path = write_image(images / "odd.png", odd)
    run_dir = shutil.copytree(run_dir, tmp_path / "run")
    results = run_folder.read_results(run_dir)
    if results["pixel_threshold"] is not None:  # This network has learnt nothing.
        detector = Detector.load(run_dir)
        peak = detector.evaluate([odd], maps=True).maps.read([0]).max()
        results["pixel_threshold"] = float(detector.level + peak) / 2
        (run_dir / "results.json").write_text(json.dumps(results))
    output = images / "out"  # inside what is searched: its pictures are not scored the next time
    for _ in range(2):
        done = predict("--maps", run=run_dir, images=images, output=output)
        assert done.returncode == 0, done.stderr
    detector = Detector.load(run_dir)
    mapped = read_rows(output)
    names = [pathlib.Path(row["map"]).relative_to(output / "maps").as_posix() for row in mapped]
    assert names[1] == "1.jpg.png"
    assert names[5] == "b/4.png"
    assert len(list((output / "maps").rglob("*.png"))) == 7
    for row in mapped:
        with Image.open(row["map"]) as drawn, Image.open(row["path"]) as image:
            assert (drawn.format, drawn.size) == ("PNG", image.size)
        raw = np.load(row["map"].removesuffix(".png") + ".npy")
        expected = detector.evaluate([decode.read(row["path"])], maps=True).maps.read([0])[0]
        np.testing.assert_allclose(raw, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    if detector.config.maps != "features":
        assert not (output / "areas.csv").exists()
        return
    threshold = run_folder.read_results(run_dir)["pixel_threshold"]
    with open(output / "areas.csv", encoding="utf-8", newline="") as file:
        areas = [row for row in csv.DictReader(file) if row.pop("path") == str(path)]
    areas = [{name: float(value) for name, value in area.items()} for area in areas]
    raw = np.load(output / "maps" / "odd.npy")
    pixels = sum(area["pixels"] for area in areas)
    assert pixels == pytest.approx((raw > threshold).sum() / raw.size * 60 * 90)
    assert areas[0]["peak"] == raw.max()
    for area in areas:
        assert 0 <= area["left"] <= area["left"] + area["width"] <= 90
        assert 0 <= area["top"] <= area["top"] + area["height"] <= 60
        assert threshold < area["mean"] <= area["peak"]


def test_names_of_overlays_do_not_meet(tmp_path):
    sources = [tmp_path / "a", tmp_path / "b" / "x.png", tmp_path / "b" / "x.jpg"]
    (tmp_path / "a").mkdir()
    root = rows.common_root(sources)
    assert root == tmp_path
    names = [rows.map_name(p, root) for p in (tmp_path / "a" / "x.png", *sources[1:])]
    assert [n.as_posix() for n in names] == ["a/x.png", "b/x.png", "b/x.jpg.png"]
    endings = "|.png|.PNG|.jpg|.jpg.png|.png.png|.image.png|.txt|.image|.image.image.png"
    names = [f"y{ending}" for ending in (*endings.split("|"), ".image.png.png")]
    drawn = [rows.map_name(tmp_path / name, root).as_posix() for name in names]
    assert len(set(drawn)) == len(names)
    assert all(name.endswith(".png") for name in drawn)


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        ([], {"run": "."}, "has the run finished"),
        ([], {"images": "empty"}, "no images there"),
        ([], {"images": ""}, "there is no such file or folder"),
        ([], {"images": "x" * 300}, "there is no such file or folder"),
        ([], {"output": "file/x"}, "--output"),
        ([], {"output": "watched"}, "holds the tables of a --watch"),
        ([], {"threshold": "x"}, "threshold"),
        ([], {"threshold": 1, "false_positive_rate": 0.1}, "leave one of them out"),
        ([], {"false_positive_rate": 2}, "must be above 0"),
        ([], {"batch_size": 0}, "--batch_size=0"),
        ([], {"model": "x"}, "not allowed with"),
        (["--watch", "--images=a"], {}, "--watch: needs a single folder"),
        (["--watch"], {"images": "none"}, "--watch: needs a single folder"),
        (["--watch"], {"images": "file"}, "--watch: needs a single folder"),
        (["--watch", "--ray"], {}, "no --ray"),
        (["--watch"], {"output": ".", "images": "maps/deep"}, "which the command writes to"),
        (["--watch"], {"run": "."}, "has the run finished?"),
        (["--ray"], {"run": "."}, "config.json"),
        (["--ray"], {"images": "no"}, "there is no such file or folder"),
        (["--ray"], {"output": "file/x"}, "--output"),
        (["--ray"], {"threshold": "nan"}, "must be a finite number"),
        (["--ray"], {"cpus_per_worker": 0}, "--cpus_per_worker=0"),
        (["--ray"], {"gpus_per_worker": 1.5}, "--gpus_per_worker=1.5"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    finished, images, tmp_path, monkeypatch, predict, arguments, change, message
):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "watched", "maps/deep"):
        pathlib.Path(folder).mkdir(parents=True)
    for name in ("file", "watched/watch.lock"):
        pathlib.Path(name).touch()
    before = sorted(tmp_path.rglob("*"))
    usual = {"run": finished[0], "images": images, "output": "out"}
    assert_user_error(predict(*arguments, **usual | change), message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("fault", [OSError(28, os.strerror(28)), KeyboardInterrupt()])
def test_earlier_tables_stay_until_the_end(finished, images, tmp_path, monkeypatch, predict, fault):
    output = tmp_path / "out"
    output.mkdir()
    (output / "predictions.csv").write_text("earlier")
    (images / "b" / "broken.png").unlink()
    write_map = rows._write_map

    def fail(target, *arguments):
        if target.name == "5.webp.png":
            raise fault
        return write_map(target, *arguments)

    monkeypatch.setattr(rows, "_write_map", fail)
    flags = {"run": finished[0], "images": images, "output": output, "batch_size": 5}
    done = predict("--maps", **flags)
    shutil.rmtree(output / "maps")
    if isinstance(fault, OSError):
        assert_user_error(done, "--output", "No space left on device")
        texts = {"_lock": "", "predictions.csv": "earlier"}
        assert {p.name: p.read_text() for p in output.iterdir()} == texts
    else:  # What is scored stays.
        assert done.returncode == 130
        assert done.stderr == f"interrupted; the scores so far are in {output}\n"
        assert len(read_rows(output)) == 5
        assert not list(output.glob("*.tmp"))


def test_several_sources_and_where_overlays_go(finished, images, tmp_path, predict):
    output = tmp_path / "out"
    usual = {"run": finished[0], "output": output}
    odd = os.fsdecode(os.fsencode(images) + b"/\xff,\n.png")
    os.rename(images / "0.png", odd)
    more = ["--images", odd, images / "3.bmp"]
    done = predict("--maps", *more, images=images / "1.jpg", **usual)
    assert_user_error(done, "1 of 3 images", "its name is not UTF-8; rename it")
    table = read_rows(output)
    paths = [f"{images}/\\udcff,\n.png", str(images / "3.bmp"), str(images / "1.jpg")]
    assert [row["path"] for row in table] == paths
    assert [row["map"] is None for row in table] == [True, False, False]
    for source in (output / "maps", output / "maps" / "3.bmp.png"):
        done = predict("--maps", images=source, **usual)
        assert_user_error(done, f"--images={source}: lies in")
    # The folder that is written to holds images too: they are scored, their overlays are not.
    write_image(output / "x.png", pattern(np.random.default_rng(0)))
    for _ in range(2):
        assert predict("--maps", images=output, **usual).returncode == 0
        assert [row["path"] for row in read_rows(output)] == [str(output / "x.png")]


def test_help_answers_at_once_and_as_a_command():
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
