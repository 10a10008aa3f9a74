"""Taking normal images into a finished run, and out of it, as a user meets it."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import assert_user_error, copy_run, make_mvtec, pattern, write_image

from cutpaste_tf import artifacts, data, refit
from cutpaste_tf import main as mains
from cutpaste_tf.app.__main__ import finished_runs
from cutpaste_tf.app.inspector import Inspector
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.normals import Normals
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal
from cutpaste_tf.detector import Detector, Evaluator
from cutpaste_tf.localize import patch
from cutpaste_tf.models import backbone as backbones


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


def arrays_of(run_dir):
    detector = Detector.load(run_dir)
    found = dict(detector.density.arrays())
    if detector.map_density is not None:
        found |= {f"map_{name}": x for name, x in detector.map_density.arrays().items()}
    return found


def assert_alike(found, expected, rtol=2e-3):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=rtol, atol=rtol * scale, err_msg=name)


def test_it_is_as_if_fitted_to_all_images_from_the_start(localized, new, tmp_path, capsys):
    run_dir, _, _ = localized
    output = tmp_path / "refitted"
    printed = done(capsys, f"--run={run_dir}", f"--add={new}", f"--output={output}")
    results = artifacts.read_results(output)
    before = artifacts.read_results(run_dir)
    assert "8 normal images, 6 added, 0 dropped: 14 now" in printed
    auroc = f"{100 * results['image_auroc']:.1f} (before {100 * before['image_auroc']:.1f})"
    assert f"image AUROC {auroc}" in printed
    assert f"threshold {results['threshold']:.4g} (before {before['threshold']:.4g})" in printed
    assert (results["num_train"], results["num_test"], results["num_normal_scores"]) == (14, 8, 14)
    assert results["train_seconds"] == before["train_seconds"]
    told = results["refit"]
    assert told["from"] == str(run_dir)
    assert told["from_sha256"] == {n: x for n, x in before["sha256"].items() if n != "settings"}
    assert (told["added"], told["dropped"], told["names_dropped"]) == (6, 0, [])

    detector, config = Detector.load(run_dir), Config.load(run_dir)
    train = data.load(config).train
    files = [*train.images, *(str(path) for path in sorted(new.iterdir()))]
    images = pipeline.prepare(normal(files, files), detector.preparation)
    none = pipeline.prepare(normal([], []), detector.preparation)
    evaluator = Evaluator(config, detector.backbone)
    expected = evaluator(images, none)["pool"]
    found = Detector.load(output)
    assert_alike(found.density.arrays(), expected.density.arrays())
    if config.maps == "features":
        arrays = found.map_density.arrays()
        usual = arrays.pop("usual")
        assert_alike(
            arrays, {n: x for n, x in expected.map_density.arrays().items() if n in arrays}
        )
        np.testing.assert_allclose(usual[0], expected.map_density.usual[0], rtol=1e-6)
    if config.maps == "gradcam":
        scores = normal_scores(output)
        names = [*train.names, *files[8:]]
        expected = evaluator.normal_scores(images, expected)
        np.testing.assert_allclose([scores[name] for name in names], expected, rtol=1e-6)
    # A run as any other.
    assert finished_runs(str(tmp_path)) == {"refitted": output}
    assert artifacts.choose_threshold(output).value == results["threshold"]
    test = data.load(config).test
    with open(output / "scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(test.names)
    np.testing.assert_allclose(
        found.score(list(test.images)), [float(row["score"]) for row in rows], rtol=1e-5
    )
    assert {p.name for p in output.iterdir()} <= {p.name for p in run_dir.iterdir()}
    assert not list(tmp_path.glob(".refit*"))


def test_what_is_added_and_dropped_again_was_never_there(localized, new, tmp_path, capsys):
    run_dir, folder, _ = localized
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    done(capsys, f"--run={run_dir}", f"--add={new}", f"--output={one}")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(str(path) for path in new.iterdir()) + "\n")
    done(capsys, f"--run={one}", f"--drop={names}", f"--output={two}")
    assert_alike(arrays_of(two), arrays_of(run_dir), 1e-3)
    found, expected = normal_scores(two), normal_scores(run_dir)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert artifacts.read_results(two)["refit"]["dropped"] == 6
    assert len(artifacts.read_results(two)["refit"]["names_dropped"]) == 6
    # An image of the training, by its name and by a copy of its file.
    copy = shutil.copyfile(folder / "train" / "good" / "003.png", tmp_path / "copy.png")
    for drop in ("train/good/003.png", copy):
        done(capsys, f"--run={two}", f"--drop={drop}", f"--output={three}")
        assert normal_scores(three).keys() == expected.keys() - {"train/good/003.png"}
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
    above = artifacts.read_results(tmp_path / "out")["refit"]["added_above_threshold"]
    # The patches of these training images are of any brightness; no whole image is.
    assert above["before"] == (0.0 if Config.load(run_dir).patch_size else 1.0)
    assert above["after"] <= 0.1
    assert f"(before {100 * above['before']:.0f}%)" in printed


def test_the_worst_normal_images_are_on_top(finished, new, tmp_path, capsys):
    run_dir, _, _ = finished
    done(capsys, f"--run={run_dir}", "--add", new, f"--output={tmp_path / 'out'}")
    for folder in (run_dir, tmp_path / "out"):
        scores = list(normal_scores(folder).values())
        assert scores == sorted(scores, reverse=True)
        names = Normals.load(folder / "embeddings.npz").names.tolist()
        assert sorted(names) == sorted(normal_scores(folder))


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


def test_test_images_that_are_gone_are_not_measured(tmp_path, finished, new, capsys):
    run_dir, _, _ = finished
    moved = copy_run(run_dir, tmp_path / "run")
    settings = json.loads((moved / "config.json").read_text())
    make_mvtec(tmp_path / "data", train=8, good=3)
    for place, why in (("gone", "no such folder"), (tmp_path / "data", "no longer those")):
        (moved / "config.json").write_text(json.dumps(settings | {"data_dir": str(place)}))
        printed = done(capsys, f"--run={moved}", f"--add={new}", f"--output={tmp_path / 'out'}")
        assert "image AUROC not measured: " in printed
        results = artifacts.read_results(tmp_path / "out")
        assert (results["image_auroc"], results["num_test"]) == (None, 0)
        assert why in results["refit"]["note"]
        assert results["threshold"] is not None
        Detector.load(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")


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
    unfinished = copy_run(run_dir, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    older = copy_run(run_dir, tmp_path / "older")
    told = json.loads((older / "results.json").read_text())
    del told["refit_sha256"]
    (older / "results.json").write_text(json.dumps(told))
    altered = copy_run(run_dir, tmp_path / "altered")
    (altered / "embeddings.npz").write_bytes(b"nothing")
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "broken" / "a.png", np.zeros([8, 8, 3], np.uint8))
    (tmp_path / "broken" / "b.png").write_bytes(b"nothing")
    good = [f"train/good/{number:03d}.png" for number in range(8)]
    add, out = f"--add={new}", f"--output={output}"
    for arguments, parts in (
        ((f"--run={tmp_path / 'none'}", add, out), ["config.json", "a run's folder"]),
        ((f"--run={unfinished}", add, out), ["has the run finished?"]),
        ((f"--run={older}", add, out), [older, "older version"]),
        ((f"--run={altered}", add, out), ["embeddings.npz", "damaged or altered"]),
        ((run_flag, out), ["nothing to add or drop"]),
        ((run_flag, add), ["--output"]),
        ((run_flag, add, f"--output={run_dir}"), ["is the run itself"]),
        ((run_flag, add, f"--output={tmp_path / 'there'}"), ["is there already"]),
        ((run_flag, f"--add={tmp_path / 'no'}", out), ["no such file or folder"]),
        ((run_flag, f"--add={tmp_path / 'empty'}", out), ["no images there"]),
        ((run_flag, f"--add={tmp_path / 'broken'}", out), [tmp_path / "broken" / "b.png"]),
        ((run_flag, "--drop=train/good/999.png", out), ["train/good/999.png", "none of the run's"]),
        ((run_flag, f"--drop={tmp_path / 'no.txt'}", out), ["no.txt", "cannot be read"]),
        ((run_flag, "--drop", *good[:5], out), ["normal training images: 3", "at least 4"]),
        ((run_flag, "--drop", *good, out), ["leaves none"]),
    ):
        assert_user_error(run(capsys, *arguments), *parts)
        assert not output.exists()
    done(capsys, run_flag, add, out)
    again = run(capsys, f"--run={output}", add, f"--output={tmp_path / 'again'}")
    assert_user_error(again, "has", new / "0.png", "already")


def test_maps_forget_an_image_by_its_file_alone(localized, new, tmp_path, capsys):
    run_dir, _, _ = localized
    if Config.load(run_dir).maps == "gradcam":
        pytest.skip("has no statistics")
    one, two = tmp_path / "one", tmp_path / "two"
    done(capsys, f"--run={run_dir}", f"--add={new}", f"--output={one}")
    drop = (f"--run={one}", f"--drop={new / '0.png'}", f"--output={two}")
    kept = shutil.copyfile(new / "0.png", tmp_path / "kept.png")
    (new / "0.png").unlink()
    assert_user_error(run(capsys, *drop), new / "0.png", "no such file now")
    shutil.copyfile(new / "1.png", new / "0.png")
    assert_user_error(run(capsys, *drop), new / "0.png", "has changed")
    done(capsys, drop[0], f"--drop={kept}", drop[2])
    assert artifacts.read_results(two)["num_train"] == 13


def test_separate_densities_of_patches_are_not_kept(finished, new, tmp_path, capsys):
    run_dir = copy_run(finished[0], tmp_path / "run")
    settings = json.loads((run_dir / "config.json").read_text())
    patches = {"patch_size": 32, "maps": "patches", "location_density": "separate"}
    (run_dir / "config.json").write_text(json.dumps(settings | patches))
    refused = run(capsys, f"--run={run_dir}", f"--add={new}", f"--output={tmp_path / 'out'}")
    assert_user_error(refused, run_dir, "gigabytes")


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


SHAPES = {
    "tiles": {"tiles": (1, 2), "maps": "features", "image_score": "both"},
    "apart": {
        **{"tiles": (1, 2), "tile_density": "separate", "maps": "features"},
        **{"map_levels": "conv4", "image_score": "both"},
    },
    "region": {"maps": "features", "location_density": "shared", "roi": "x", "image_score": "map"},
    "padded": {"tiles": (2, 2), "resize": "pad"},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_tiles_and_regions_have_their_part(kind):
    settings = {"dataset": "folder", "data_dir": "x", "category": "part", "steps": 0}
    config = Config(**settings, width=0.0625, image_size=32, **SHAPES[kind])
    roi = np.pad(np.ones([2, 3], bool), 1) if config.roi != "none" else None
    preparation = Preparation.of(config, roi)
    rng = np.random.default_rng(0)
    arrays = [pattern(rng, 40 + 8 * (number % 3)) for number in range(24)]
    split = normal([str(number) for number in range(24)], arrays)
    images = pipeline.prepare(split, preparation)
    backbone = backbones.build_backbone(config)
    evaluator = Evaluator(config, backbone)
    first, further, none = (images.subset(part) for part in (range(14), range(14, 24), []))
    whole, old = (evaluator(part, none)["pool"] for part in (images, first))
    known = Normals.of(split.subset(range(14)), first.seen)
    largest = np.zeros([0])
    if old.normal_maps is not None:
        largest = patch.image_scores(old.normal_maps.small)
    known = known.having(old.normal_features, largest, old.normal_peaks)
    new = Normals.of(split.subset(range(14, 24)), further.seen)
    detector = Detector(config, backbone, old.density, old.map_density, roi)
    made = detector.refit(known, old.statistics, new, further, none)
    assert made.normals.names.tolist() == list(split.names)
    assert_alike(detector.density.arrays(), whole.density.arrays(), 1e-4)
    if config.maps == "none":
        np.testing.assert_allclose(made.scores, evaluator.normal_scores(images, whole), rtol=1e-6)
        return
    found, expected = (one.arrays() for one in (detector.map_density, whole.map_density))
    found.pop("usual"), expected.pop("usual")
    assert_alike(found, expected)
    assert made.scores.shape == (24,)
    assert made.normals.peaks.shape == (24, 1)
