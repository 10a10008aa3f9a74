"""Taking normal images into a finished run, and out of it, as a user meets it."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small
from conftest import (
    TINY,
    assert_user_error,
    make_mvtec,
    pattern,
    read_scores,
    run_in_this_process,
    slow_but,
    write_image,
)
from PIL import Image

from cutpaste_tf import main as mains
from cutpaste_tf import refit, run_folder
from cutpaste_tf.app.__main__ import finished_runs
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.config import Config
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.run import pictures
from cutpaste_tf.scoring.detector import Detector


@pytest.fixture
def new(tmp_path):
    """Six normal images, as the training images are."""
    rng = np.random.default_rng(7)
    for number in range(6):
        write_image(tmp_path / "new" / f"{number}.png", pattern(rng))
    return tmp_path / "new"


def run(capsys, *arguments):
    capsys.readouterr()
    status = refit.main(["refit", *map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


def done(capsys, *arguments):
    """What a refit that succeeds has printed."""
    finished = run(capsys, *arguments)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


def normal_scores(run_dir):
    with open(run_dir / "normal_scores.csv", encoding="utf-8", newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


def assert_same_files(output, expected):
    """Asserts that two runs have the same densities and scores, images' names aside."""
    with np.load(output / "density.npz") as found, np.load(expected / "density.npz") as wanted:
        assert found.files == wanted.files
        for name in wanted.files:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for file in ("scores.csv", "normal_scores.csv"):
        scores = []
        for run_dir in (output, expected):
            with open(run_dir / file, encoding="utf-8", newline="") as opened:
                scores.append([float(row["score"]) for row in csv.DictReader(opened)])
        assert scores[0] == scores[1]


KINDS = {
    "patches": (
        *("--patch_size=32", "--dense_stride=16", "--image_size=64"),
        "--location_density=separate",
    ),
    "tiles": ("--tiles=1x2", "--resize=pad", "--maps=features", "--image_score=both"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_run_on_these_images(kind, new, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "draw_figures", small.draw_figures)
    if kind == "tiles":

        def build_backbone(settings, *, initial_weights=True):
            return small.staged_backbone(settings.size)

        monkeypatch.setattr(backbones, "build_backbone", build_backbone)
    # Untrained networks of one seed have the same weights.
    flags = [*TINY[:-1], "--steps=0", *KINDS[kind]]
    make_mvtec(tmp_path / "data")
    run_dir, folder, _ = run_in_this_process(tmp_path, *flags)
    drop = [f"--drop=train/good/{number:03d}.png" for number in (0, 5)]
    output = tmp_path / "refitted"
    done(capsys, f"--run={run_dir}", f"--add={new}", *drop, f"--output={output}")

    other = shutil.copytree(folder, tmp_path / "other" / "data" / "part")
    for number in (0, 5):
        (other / "train" / "good" / f"{number:03d}.png").unlink()
    for path in new.iterdir():
        shutil.copyfile(path, other / "train" / "good" / f"new_{path.name}")
    expected, _, _ = run_in_this_process(tmp_path / "other", *flags)
    assert_same_files(output, expected)
    found, wanted = (run_folder.read_results(one) for one in (output, expected))
    differ = {name for name in wanted if found.get(name) != wanted[name]}
    assert differ <= {"sha256", "train_seconds", "images_per_second"}
    assert found.keys() - wanted.keys() == {"refit"}


@pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)
def test_the_network_and_the_test_images_stay(localized, new, tmp_path, capsys):
    run_dir, folder, _ = localized
    output = tmp_path / "refitted"
    printed = done(capsys, f"--run={run_dir}", f"--add={new}", f"--output={output}")
    results = run_folder.read_results(output)
    before = run_folder.read_results(run_dir)
    assert "8 normal images, 6 added, 0 dropped: 14 now" in printed
    auroc = f"{100 * results['image_auroc']:.1f} (before {100 * before['image_auroc']:.1f})"
    assert f"image AUROC {auroc}" in printed
    assert f"threshold {results['threshold']:.4g} (before {before['threshold']:.4g})" in printed
    assert (results["num_train"], results["num_test"], results["num_normal_scores"]) == (14, 8, 14)
    assert results["train_seconds"] == before["train_seconds"]
    record = results["refit"]
    assert record["from"] == str(run_dir)
    sums = {name: sum for name, sum in before["sha256"].items() if name != "settings"}
    assert record["from_sha256"] == sums
    assert (record["added"], record["dropped"]) == (6, 0)
    # The output is a run as any other.
    files = [str(folder / name) for name in (row["path"] for row in read_scores(output))]
    expected = [float(row["score"]) for row in read_scores(output)]
    np.testing.assert_allclose(Detector.load(output).score(files), expected, rtol=1e-5)
    assert len(normal_scores(output)) == 14
    assert finished_runs(str(tmp_path)) == {"refitted": output}
    assert run_folder.choose_threshold(output).value == results["threshold"]
    assert {p.name for p in output.iterdir()} <= {p.name for p in run_dir.iterdir()}
    assert not list(tmp_path.glob(".refit*"))


@pytest.mark.parametrize(
    "localized", slow_but(["patch", "gradcam", "features"], "features"), indirect=True
)
def test_what_is_added_and_dropped_again_was_never_there(localized, new, tmp_path, capsys):
    run_dir, folder, _ = localized
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    done(capsys, f"--run={run_dir}", f"--add={new}", f"--output={one}")
    names = tmp_path / "names.txt"  # as Windows' Notepad writes it
    names.write_bytes("\r\n".join(str(path) for path in new.iterdir()).encode("utf-8-sig"))
    done(capsys, f"--run={one}", f"--drop={names}", f"--output={two}")
    assert_same_files(two, run_dir)
    assert run_folder.read_results(two)["refit"]["dropped"] == 6
    # An image of the training, by its name and by its path.
    for drop in ("train/good/003.png", folder / "train" / "good" / "003.png"):
        done(capsys, f"--run={two}", f"--drop={drop}", f"--output={three}")
        assert normal_scores(three).keys() == normal_scores(two).keys() - {"train/good/003.png"}
        shutil.rmtree(three)


def test_images_in_another_light_are_above_the_threshold_until_they_are_added(
    localized, tmp_path, capsys
):
    run_dir, _, _ = localized
    rng = np.random.default_rng(3)
    for number in range(12):
        write_image(tmp_path / "new" / f"{number}.png", pattern(rng) // 16 + 240)
    printed = done(
        capsys, f"--run={run_dir}", f"--add={tmp_path / 'new'}", f"--output={tmp_path / 'out'}"
    )
    above = run_folder.read_results(tmp_path / "out")["refit"]["added_above_threshold"]
    # The patches of these training images are of any brightness; no whole image is.
    assert above["before"] == (0.0 if Config.load(run_dir).patch_size else 1.0)
    assert above["after"] <= 0.1
    assert f"(before {100 * above['before']:.0f}%)" in printed


def test_the_page_shows_the_images_of_now(finished, new, tmp_path, capsys):
    run_dir, _, _ = finished
    done(
        capsys,
        *(f"--run={run_dir}", f"--add={new}", "--drop=train/good/000.png"),
        f"--output={tmp_path / 'out'}",
    )
    inspector = Inspector({"run": tmp_path / "out"})
    found = inspector.neighbours(inspector.inspect("run", str(new / "3.png")))
    assert found[0][1] == str(new / "3.png")
    assert found[0][2] == pytest.approx(0.0, abs=1e-2)


def test_images_that_are_gone_or_changed_are_named(finished, new, tmp_path, capsys):
    run_dir, folder, _ = finished
    moved = shutil.copytree(folder.parent, tmp_path / "moved")
    one, two = tmp_path / "one", tmp_path / "two"
    add = (f"--run={run_dir}", f"--add={new}", f"--output={one}", f"--data_dir={moved}")
    done(capsys, *add)
    shutil.rmtree(one)
    gone = moved / "part" / "train" / "good" / "003.png"
    gone.unlink()
    assert_user_error(run(capsys, *add), "003.png: is no longer there")
    shutil.copyfile(new / "0.png", gone)
    assert_user_error(run(capsys, *add), "003.png has changed")
    shutil.copyfile(folder / "train" / "good" / "003.png", gone)
    done(capsys, *add)
    drop = (f"--run={one}", "--drop=train/good/003.png", f"--output={two}")
    (new / "0.png").unlink()
    assert_user_error(run(capsys, *drop), new / "0.png", "no longer")
    # What is dropped may be gone, and what the data set has besides is none of the run's.
    gone.unlink()
    shutil.copyfile(new / "1.png", gone.with_name("999.png"))
    shutil.copyfile(new / "1.png", moved / "part" / "test" / "good" / "999.png")
    done(capsys, *drop, f"--drop={new / '0.png'}")
    results = run_folder.read_results(two)
    assert (results["num_train"], results["num_test"]) == (12, 8)


def test_main_leaves_a_refitted_run_as_it_is(finished, new, tmp_path, capsys):
    run_dir, folder, _ = finished
    output = tmp_path / "runs" / "part" / "seed_0"
    done(capsys, f"--run={run_dir}", f"--add={new}", f"--output={output}")
    flags = json.loads((run_dir / "config.json").read_text())
    given = ["--dataset=folder", f"--data_dir={folder.parent}", f"--workdir={tmp_path / 'runs'}"]
    for name in ("image_size", "width", "head_dims", "batch_size", "steps", "task"):
        value = flags[name]
        given.append(f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    assert mains.main(["main", *given]) == 0
    assert "finished already, skipped" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert mains.main(["main", *given, "--density=gde,kde"]) == 2
    assert "was made by refit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (output / "results.json").unlink()
    assert mains.main(["main", *given]) == 2


def test_mistakes_are_one_line_and_write_nothing(finished, new, tmp_path, capsys):
    run_dir, _, _ = finished
    run_flag, output = f"--run={run_dir}", tmp_path / "out"
    unfinished = shutil.copytree(run_dir, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "broken" / "a.png", np.zeros([8, 8, 3], np.uint8))
    (tmp_path / "broken" / "b.png").write_bytes(b"nothing")
    good = [f"train/good/{number:03d}.png" for number in range(8)]
    add, out = f"--add={new}", f"--output={output}"
    for arguments, parts in (
        ((f"--run={tmp_path / 'none'}", add, out), ["config.json", "a run's folder"]),
        ((f"--run={unfinished}", add, out), ["has the run finished?"]),
        ((run_flag, out), ["nothing to add or drop"]),
        ((run_flag, add), ["--output"]),
        ((run_flag, add, f"--output={run_dir}"), ["is there already"]),
        ((run_flag, add, f"--output={tmp_path / 'there'}"), ["is there already"]),
        ((run_flag, f"--add={tmp_path / 'no'}", out), ["no such file or folder"]),
        ((run_flag, f"--add={tmp_path / 'empty'}", out), ["no images there"]),
        ((run_flag, f"--add={tmp_path / 'broken'}", out), [tmp_path / "broken" / "b.png"]),
        ((run_flag, "--drop=train/good/999.png", out), ["train/good/999.png", "none of the run's"]),
        ((run_flag, f"--drop={tmp_path / 'no.txt'}", out), ["no.txt", "cannot be read"]),
        ((run_flag, "--drop", *good[:5], out), ["normal training images: 3", "at least 4"]),
        ((run_flag, "--drop", *good, out), ["normal training images: 0"]),
    ):
        assert_user_error(run(capsys, *arguments), *parts)
        assert not output.exists()
    done(capsys, run_flag, add, out)
    again = run(capsys, f"--run={output}", add, f"--output={tmp_path / 'again'}")
    assert_user_error(again, "has", new / "0.png", "already")
    (new / "0.png").rename(new / os.fsdecode(b"caf\xe9.png"))
    refused = run(capsys, run_flag, add, f"--output={tmp_path / 'again'}")
    assert_user_error(refused, r"caf\udce9.png", "not UTF-8")


def test_test_images_are_not_added_and_copies_add_nothing(finished, new, tmp_path, capsys):
    run_dir, folder, _ = finished
    output = tmp_path / "out"
    # By their content, whatever their names and formats.
    for name, test in (("6.bmp", "test/good/001.png"), ("7.tiff", "test/hole/002.png")):
        Image.open(folder / test).save(new / name)
        refused = run(capsys, f"--run={run_dir}", f"--add={new}", f"--output={output}")
        assert_user_error(refused, f"--add: {new / name} is the run's test image {test}; leave it")
        assert not output.exists()
        (new / name).unlink()
    for path in new.iterdir():
        path.unlink()
    Image.open(folder / "train" / "good" / "003.png").save(new / "again.bmp")
    added = run(capsys, f"--run={run_dir}", f"--add={new}", f"--output={output}")
    assert added.returncode == 0
    assert f"{new / 'again.bmp'} of train/good/003.png; each image counts once" in added.stderr
    assert_same_files(output, run_dir)


def test_help_and_mistakes_do_not_import_tensorflow(tmp_path):
    code = (
        "import sys; from cutpaste_tf import refit\n"
        "try: refit.main(['refit', '--help'])\n"
        "except SystemExit: pass\n"
        f"refit.main(['refit', '--run={tmp_path}', '--add=x', '--output=y'])\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "--drop" in found.stdout
