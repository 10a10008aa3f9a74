"""Taking normal images into a finished run, and out of it, as a user meets it."""

import csv
import functools
import os
import shutil

import numpy as np
import pytest
import small
from conftest import (
    QUICK,
    TINY,
    assert_user_error,
    call,
    make_mvtec,
    pattern,
    read_scores,
    run_in_this_process,
    slow_but,
    write_image,
)
from PIL import Image

from cutpaste_tf import main as mains
from cutpaste_tf import refit as refits
from cutpaste_tf import run_folder
from cutpaste_tf.app.__main__ import finished_runs
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.run import pictures
from cutpaste_tf.scoring.detector import Detector

GOOD = [f"train/good/{number:03d}.png" for number in range(8)]
# Of the runs with anomaly maps one by default.
by_default = pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)


@pytest.fixture
def new(tmp_path):
    """Six normal images, as the training images are."""
    rng = np.random.default_rng(7)
    for number in range(6):
        write_image(tmp_path / "new" / f"{number}.png", pattern(rng))
    return tmp_path / "new"


@pytest.fixture
def refit(capsys):
    """Runs the command line of `refit` in this process; see `call`."""
    return functools.partial(call, capsys, refits.main)


@pytest.fixture
def refitted(refit, tmp_path):
    """Refits a run into another folder; returns that, and what was printed."""

    def refitted(run_dir, *arguments, output="out", **flags):
        done = refit(*arguments, run=run_dir, output=tmp_path / output, **flags)
        assert (done.returncode, done.stderr) == (0, "")
        return tmp_path / output, done.stdout

    return refitted


def normal_scores(run_dir):
    with open(run_dir / "normal_scores.csv", encoding="utf-8", newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


def scores(run_dir):
    return [float(row["score"]) for row in read_scores(run_dir)]


def assert_same_files(output, expected):
    """Asserts that two runs have the same densities and scores, images' names aside."""
    with np.load(output / "density.npz") as found, np.load(expected / "density.npz") as wanted:
        assert found.files == wanted.files
        for name in wanted.files:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert scores(output) == scores(expected)
    assert list(normal_scores(output).values()) == list(normal_scores(expected).values())


KINDS = {
    "patches": (
        *("--patch_size=32", "--dense_stride=16", "--image_size=64"),
        "--location_density=separate",
    ),
    "tiles": ("--tiles=1x2", "--resize=pad", "--maps=features", "--image_score=map"),
}


@pytest.mark.parametrize("kind", slow_but(list(KINDS)))
def test_it_is_a_run_on_these_images(kind, new, tmp_path, refitted, monkeypatch):
    monkeypatch.setattr(pictures, "draw_figures", small.draw_figures)
    if kind == "tiles":

        def build_backbone(settings, *, initial_weights=True):
            return small.staged_backbone(settings.size)

        monkeypatch.setattr(backbones, "build_backbone", build_backbone)
    # Untrained networks of one seed have the same weights.
    flags = [*TINY[:-1], "--steps=0", *KINDS[kind]]
    make_mvtec(tmp_path / "data")
    run_dir, folder, _ = run_in_this_process(tmp_path, *flags)
    output, _ = refitted(run_dir, "--drop", GOOD[0], GOOD[5], add=new)

    other = shutil.copytree(folder, tmp_path / "other" / "data" / "part")
    for name in (GOOD[0], GOOD[5]):
        (other / name).unlink()
    for path in new.iterdir():
        shutil.copyfile(path, other / "train" / "good" / f"new_{path.name}")
    expected, _, _ = run_in_this_process(tmp_path / "other", *flags)
    assert_same_files(output, expected)
    found, wanted = (run_folder.read_results(one) for one in (output, expected))
    differ = {name for name in wanted if found.get(name) != wanted[name]}
    # An image that was added is named by its path, which odd_images may hold.
    assert differ <= {"sha256", "train_seconds", "images_per_second", "odd_images"}
    assert found.keys() - wanted.keys() == {"refit"}


@by_default
def test_the_network_and_the_test_images_stay(localized, new, tmp_path, refitted):
    run_dir, folder, _ = localized
    output, printed = refitted(run_dir, add=new)
    results, before = run_folder.read_results(output), run_folder.read_results(run_dir)
    assert "8 normal images, 6 added, 0 dropped: 14 now" in printed
    auroc = f"{100 * results['image_auroc']:.1f} (before {100 * before['image_auroc']:.1f})"
    assert f"image AUROC {auroc}" in printed
    assert f"threshold {results['threshold']:.4g} (before {before['threshold']:.4g})" in printed
    assert "thresholds by the scores of 14 normal training images" in printed
    assert (output / "figures" / "normal_images.png").is_file()
    assert (results["num_train"], results["num_test"], results["num_normal_scores"]) == (14, 8, 14)
    assert results["train_seconds"] == before["train_seconds"]
    record = results["refit"]
    assert record["from"] == str(run_dir)
    assert record["from_sha256"].items() == before["sha256"].items() - {
        ("settings", before["sha256"]["settings"])
    }
    assert (record["added"], record["dropped"]) == (6, 0)
    # The output is a run as any other.
    files = [str(folder / row["path"]) for row in read_scores(output)]
    np.testing.assert_allclose(Detector.load(output).score(files), scores(output), rtol=1e-5)
    assert len(normal_scores(output)) == 14
    assert finished_runs(str(tmp_path)) == {"out": output}
    assert run_folder.choose_threshold(output).value == results["threshold"]
    assert {p.name for p in output.iterdir()} <= {p.name for p in run_dir.iterdir()}
    assert not list(tmp_path.glob(".refit*"))
    neighbours = Inspector({"run": output})
    found = neighbours.neighbours(neighbours.inspect("run", str(new / "3.png")))
    assert found[0][1] == str(new / "3.png")
    assert found[0][2] == pytest.approx(0.0, abs=1e-2)


@by_default
def test_what_is_added_and_dropped_again_was_never_there(localized, new, tmp_path, refitted):
    run_dir, folder, _ = localized
    one, _ = refitted(run_dir, add=new)
    names = tmp_path / "names.txt"  # as Windows' Notepad writes it
    names.write_bytes("\r\n".join(str(path) for path in new.iterdir()).encode("utf-8-sig"))
    two, _ = refitted(one, drop=names, output="two")
    assert_same_files(two, run_dir)
    assert run_folder.read_results(two)["refit"]["dropped"] == 6
    # An image of the training, by its name and by its path.
    for drop in (GOOD[3], folder / GOOD[3]):
        three, _ = refitted(two, drop=drop, output="three")
        assert normal_scores(three).keys() == normal_scores(two).keys() - {GOOD[3]}
        shutil.rmtree(three)


def test_images_that_are_gone_or_changed_are_named(finished, new, tmp_path, refit, refitted):
    run_dir, folder, _ = finished
    moved = shutil.copytree(folder.parent, tmp_path / "moved")
    add = {"run": run_dir, "add": new, "data_dir": moved, "output": tmp_path / "out"}
    gone = moved / "part" / GOOD[3]
    gone.unlink()
    assert_user_error(refit(**add), "003.png: does not exist")
    shutil.copyfile(new / "0.png", gone)
    assert_user_error(refit(**add), "003.png has changed")
    shutil.copyfile(folder / GOOD[3], gone)
    one, _ = refitted(run_dir, add=new, data_dir=moved)
    (new / "0.png").unlink()
    refused = refit(run=one, drop=GOOD[3], output=tmp_path / "two")
    assert_user_error(refused, new / "0.png", "does not exist")
    # What is dropped may be gone, and what the data set has besides is none of the run's.
    gone.unlink()
    shutil.copyfile(new / "1.png", gone.with_name("999.png"))
    shutil.copyfile(new / "1.png", moved / "part" / "test" / "good" / "999.png")
    two, _ = refitted(one, "--drop", GOOD[3], new / "0.png", output="two")
    results = run_folder.read_results(two)
    assert (results["num_train"], results["num_test"]) == (12, 8)


def test_main_leaves_a_refitted_run_as_it_is(finished, new, tmp_path, capsys, refitted):
    run_dir, folder, _ = finished
    output, _ = refitted(run_dir, add=new, output="runs/part/seed_0")
    train = functools.partial(
        call, capsys, mains.main, *QUICK, dataset="folder", data_dir=folder.parent
    )
    skipped = train(workdir=tmp_path / "runs")
    assert (skipped.returncode, "finished already, skipped" in skipped.stdout) == (0, True)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    more = train(workdir=tmp_path / "runs", density="gde,kde")
    assert_user_error(more, "was made by refit")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (output / "results.json").unlink()
    assert_user_error(train(workdir=tmp_path / "runs"), "began with other images")


def test_mistakes_are_one_line_and_write_nothing(finished, new, tmp_path, refit, refitted):
    run_dir, _, _ = finished
    unfinished = shutil.copytree(run_dir, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "broken" / "a.png", np.zeros([8, 8, 3], np.uint8))
    (tmp_path / "broken" / "b.png").write_bytes(b"nothing")
    flags = {"run": run_dir, "output": tmp_path / "out"}
    add = flags | {"add": new}
    assert_user_error(refit(run=run_dir, add=new), "--output")
    for arguments, given, parts in (
        ((), add | {"run": tmp_path / "none"}, ["config.json", "a run's folder"]),
        ((), add | {"run": unfinished}, ["has the run finished?"]),
        ((), flags, ["no images to add or drop"]),
        ((), add | {"output": run_dir}, ["exists already"]),
        ((), add | {"output": tmp_path / "there"}, ["exists already"]),
        ((), add | {"add": tmp_path / "no"}, ["no such file or folder"]),
        ((), add | {"add": tmp_path / "empty"}, ["no images there"]),
        ((), add | {"add": tmp_path / "broken"}, [tmp_path / "broken" / "b.png"]),
        ((), flags | {"drop": "999.png"}, ["999.png", "no image of the run"]),
        ((), flags | {"drop": tmp_path / "no.txt"}, ["no.txt", "cannot be read"]),
        (("--drop", *GOOD[:5]), flags, ["normal training images: 3", "at least 4"]),
        (("--drop", *GOOD), flags, ["normal training images: 0"]),
    ):
        assert_user_error(refit(*arguments, **given), *parts)
        assert not (tmp_path / "out").exists()
    output, _ = refitted(run_dir, add=new)
    again = refit(run=output, add=new, output=tmp_path / "again")
    assert_user_error(again, "has", new / "0.png", "already")
    (new / "0.png").rename(new / os.fsdecode(b"caf\xe9.png"))
    refused = refit(run=run_dir, add=new, output=tmp_path / "again")
    assert_user_error(refused, r"caf\udce9.png", "not UTF-8")


def test_test_images_are_not_added_and_copies_add_nothing(finished, new, tmp_path, refit):
    run_dir, folder, _ = finished
    flags = {"run": run_dir, "add": new, "output": tmp_path / "out"}
    # By their content, whatever their names and formats.
    for name, test in (("6.bmp", "test/good/001.png"), ("7.tiff", "test/hole/002.png")):
        Image.open(folder / test).save(new / name)
        message = f"--add: {new / name} is the run's test image {test}; leave it"
        assert_user_error(refit(**flags), message)
        assert not (tmp_path / "out").exists()
        (new / name).unlink()
    for path in new.iterdir():
        path.unlink()
    Image.open(folder / GOOD[3]).save(new / "again.bmp")
    done = refit(**flags)
    assert done.returncode == 0
    assert f"{new / 'again.bmp'} of {GOOD[3]}; each image counts once" in done.stderr
    assert_same_files(tmp_path / "out", run_dir)
