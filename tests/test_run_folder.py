"""A run's folder: its state, its images, its tables, its checksums."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import QUICK, ROOT, make_mvtec, pattern, read_scores, write_image

from cutpaste_tf import cli, data, main, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data.split import Category, Split, normal_split
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold


@pytest.fixture
def config(mvtec, tmp_path):
    """The settings of a run that is not begun."""
    return Config(
        dataset="folder", data_dir=str(mvtec), category="part", workdir=str(tmp_path / "runs")
    )


@pytest.fixture
def begun(config):
    """The settings of a run whose training has begun."""
    run_folder.begin(config, data.load(config))
    (config.run_dir / "checkpoints").mkdir()
    return config


def add_image(root, part="train/good"):
    write_image(root / "part" / part / "new.png", pattern(np.random.default_rng(9)))


# State and settings.


def test_a_run_is_new_and_then_interrupted_and_its_data_dir_absolute(config, mvtec, monkeypatch):
    monkeypatch.chdir(mvtec.parent)
    relative = dataclasses.replace(config, data_dir=mvtec.name)
    assert run_folder.state(relative) == "new"
    run_folder.begin(relative, data.load(relative))
    assert run_folder.state(relative) == "interrupted"
    assert Config.load(relative.run_dir).data_dir == str(mvtec)
    other = dataclasses.replace(config, image_size=(32, 48))
    with pytest.raises(
        UserError, match="holds a run with --image_size=256, not --image_size=32x48; name"
    ):
        run_folder.state(other)


HOLDER = """
import sys
from cutpaste_tf import run_folder
from cutpaste_tf.config import Config
with run_folder.locked(Config.from_json(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_belongs_to_one_command_at_a_time_and_to_its_images(
    small_backbone, quick_views, mvtec, tmp_path, capsys
):
    base = ["main", "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path}", *QUICK]
    first, second = cli.parse_runs([*base[1:], "--seed=0,1"])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, first.to_json()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    for seeds in ("0", "1,0"):
        assert main.main([*base, f"--seed={seeds}"]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(
            f"error: {first.run_dir}: another command works on this run; wait "
        )
        assert printed.count("\n") == 1
        assert not (second.run_dir / "config.json").exists()  # nor is the other begun
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main.main([*base, "--seed=0"]) == 0
    results = first.run_dir / "results.json"
    before = results.read_text()
    add_image(mvtec, "test/hole")
    assert main.main(base) == 0
    assert results.read_text() == before
    results.unlink()
    assert main.main(base) == 2
    assert "test/hole/new.png is new; restore" in capsys.readouterr().err


# Images.


def test_images_that_are_new_gone_or_changed_are_named(begun, mvtec, tmp_path):
    run_folder.check_images(begun, data.load(begun))
    moved = dataclasses.replace(begun, data_dir=str(make_mvtec(tmp_path / "elsewhere")))
    run_folder.check_images(moved, data.load(moved))  # Their content is the same.
    run_folder.write_results(begun.run_dir, {})
    good, masks = mvtec / "part/train/good", mvtec / "part/ground_truth/hole"
    shutil.copy(masks / "000_mask.png", tmp_path / "mask.png")
    for change, problem in (
        (lambda: add_image(mvtec), "train/good/new.png is new"),
        ((good / "new.png").unlink, None),
        (lambda: os.utime(good / "000.png"), None),
        (
            lambda: shutil.copy(masks / "001_mask.png", masks / "000_mask.png"),
            "the mask of test/hole/000.png has changed",
        ),
        (lambda: shutil.copy(tmp_path / "mask.png", masks / "000_mask.png"), None),
        (
            lambda: shutil.copy(good / "001.png", good / "000.png"),
            "train/good/000.png has changed",
        ),
        ((good / "000.png").unlink, "train/good/000.png is gone"),
    ):
        change()
        if problem is None:
            run_folder.check_images(begun, data.load(begun))
            continue
        with pytest.raises(UserError) as error:
            run_folder.check_images(begun, data.load(begun))
        problem = f"{begun.run_dir}: began with other images: {problem}"
        assert str(error.value) == f"{problem}; restore the old images, or name another --workdir"


def test_what_was_refused_before_its_training_is_begun_again(config, mvtec):
    run_folder.begin(config, data.load(config))
    add_image(mvtec)
    run_folder.check_images(config, data.load(config))
    run_folder.begin(config, data.load(config))
    assert len(json.loads((config.run_dir / "images.json").read_text())["train"]) == 9


def test_arrays_are_known_by_values_shapes_and_masks(config):
    zeros, mask = np.zeros([2, 3], np.uint8), np.ones([2, 3], bool)

    def category(arrays, masks):
        names = [str(i) for i in range(len(arrays))]
        return Category(normal_split(names, arrays), Split(names, arrays, ["good", "x"], masks))

    run_folder.write_settings(config.run_dir, config, category([zeros, zeros], [None, mask]))
    (config.run_dir / "checkpoints").mkdir()
    same = category([zeros.copy(), np.zeros([3, 2], np.uint8).T], [None, mask])
    run_folder.check_images(config, same)
    for other in (
        category([zeros, zeros + 1], [None, mask]),
        category([zeros, zeros.reshape(3, 2)], [None, mask]),
        category([zeros, zeros], [None, ~mask]),
        category([zeros, zeros], [None, None]),
    ):
        with pytest.raises(UserError, match="began with other images"):
            run_folder.check_images(config, other)


def test_a_runs_images_are_found_again(begun, mvtec, tmp_path):
    added = str(write_image(tmp_path / "new.png", pattern(np.random.default_rng(9))))
    category = data.load(begun)
    train = normal_split([*category.train.names[1:], added], [*category.train.images[1:], added])
    refitted = tmp_path / "refitted"
    run_folder.write_settings(refitted, begun, Category(train, category.test))
    found = run_folder.load_images(begun, refitted)
    assert (found.train.names, found.train.images) == (train.names, train.images)
    assert found.test.names == category.test.names
    os.remove(added)
    with pytest.raises(UserError, match="new.png: does not exist"):
        run_folder.load_images(begun, refitted)


def test_a_folders_images_are_compared_without_tensorflow(begun):
    code = (
        "import sys; from cutpaste_tf import data, run_folder; from cutpaste_tf.config import "
        "Config; config = Config.from_json(sys.argv[1]);"
        "run_folder.check_images(config, data.load(config));"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, begun.to_json()], cwd=ROOT, check=True)


# Tables, thresholds, ensembles.


def test_scores_are_written_to_the_last_bit_and_the_worst_normal_images_on_top(tmp_path):
    split = normal_split(["a"], [np.zeros([4, 4], np.uint8)])
    score = np.nextafter(1.5, 2)
    run_folder.write_scores(tmp_path, split, np.array([score]))
    (row,) = read_scores(tmp_path)
    assert float(row.pop("score")) == score
    assert row == {"path": "a", "label": "0", "defect_type": "good"}
    run_folder.write_normal_scores(tmp_path, ["a", "b", "c", "d"], np.array([1.0, 3.0, 0.5, 3.0]))
    lines = (tmp_path / "normal_scores.csv").read_text().splitlines()
    assert lines == ["path,score", "b,3.0", "d,3.0", "a,1.0", "c,0.5"]
    run_folder.write_normal_scores(tmp_path, ["a"], np.zeros([0]))
    assert len(run_folder.read_normal_scores(tmp_path)) == 0


def write_run(folder, normal_scores, scores=(1.0, 2.0, 3.0), names="abc", **settings):
    config = Config(dataset="textures", category="brick", **settings)
    split = Split(list(names), [None] * 3, ["good", "x", "x"], [None] * 3)
    run_folder.write_settings(folder, config, Category(normal_split([], []), normal_split([], [])))
    run_folder.write_scores(folder, split, np.array(scores))
    normal_scores = np.array(normal_scores, np.float64)
    run_folder.write_normal_scores(folder, [str(i) for i in normal_scores], normal_scores)
    return folder


def test_a_runs_own_threshold_and_another(tmp_path):
    run = write_run(tmp_path, np.arange(1, 101))
    with pytest.raises(UserError, match="has the run finished"):
        run_folder.choose_threshold(run)
    results = {"threshold": 7.5, "false_positive_rate": 0.02, "num_normal_scores": 100}
    with pytest.raises(ValueError, match="JSON"):
        run_folder.write_results(run, results | {"image_auroc": float("nan")})
    assert not (run / "results.json").exists()  # It is whole or not there.
    run_folder.write_results(run, results)
    assert run_folder.choose_threshold(run) == Threshold(7.5, 0.02, 100, 50.5)
    assert run_folder.choose_threshold(run, threshold=3) == Threshold(3.0, median=50.5)
    at_rate = run_folder.choose_threshold(run, false_positive_rate=0.05)
    assert at_rate == Threshold(96.0, 0.05, 100, 50.5)
    for text in ("path,score\na,much\n", "path,score\na,nan\n", "path\na\n", "x,score\na,1\n"):
        (run / "normal_scores.csv").write_text(text)
        with pytest.raises(UserError, match="normal_scores.csv: damaged"):
            run_folder.choose_threshold(run, false_positive_rate=0.05)
    for text in (
        *("[]", "{", "[" * 10**5, "{}", '{"threshold": "high"}', '{"threshold": NaN}'),
        *('{"threshold": 1e999}', '{"threshold": 1' + 400 * "0" + "}", '{"threshold": true}'),
    ):
        (run / "results.json").write_text(text)
        with pytest.raises(UserError, match="results.json: damaged"):
            run_folder.choose_threshold(run)


def test_runs_are_read_and_averaged(tmp_path):
    """Of a kernel density the scores themselves, of a Gaussian half the squared distances."""
    one = write_run(tmp_path / "one", [0.0, 2.0], density="kde")
    two = write_run(tmp_path / "two", [0.0, 4.0], [2.0, 6.0, 4.0])
    labels, scores = run_folder.ensemble_scores([one, two])
    assert labels.tolist() == [0, 1, 1]
    first = np.array([0.0, 1.0, 2.0]) / np.sqrt(2.0)
    second = (np.array([2.0, 18.0, 8.0]) - 4.0) / np.std([0.0, 8.0], ddof=1)
    np.testing.assert_allclose(scores, (first + second) / 2)
    other = write_run(tmp_path / "other", [0.0, 2.0], names="abd")
    with pytest.raises(UserError, match="other images"):
        run_folder.ensemble_scores([one, other])
    few = write_run(tmp_path / "few", [0.0])
    assert run_folder.ensemble_scores([one, few]) is None


@pytest.mark.parametrize("density", ["gde", "gmm", "kde", "kde,gde"])
@pytest.mark.parametrize("image_score", ["pooled", "map"])
def test_an_ensemble_averages_log_densities_or_half_squared_distances(
    tmp_path, image_score, density
):
    """A map's score is a distance whatever density the pooled features have."""
    flags = {"maps": "features", "image_score": image_score, "density": density}
    run = write_run(tmp_path, [1.0, 3.0], [2.0, 4.0, 6.0], **flags)
    _, scores = run_folder.ensemble_scores([run])
    of_distances = image_score == "map" or density in ("gde", "gmm")
    expected = np.array([-0.5, 5.5, 15.5] if of_distances else [0.0, 2.0, 4.0])
    expected /= np.std([0.5, 4.5] if of_distances else [1.0, 3.0], ddof=1)
    np.testing.assert_allclose(scores, expected)


# Checksums.


def test_files_and_settings_that_were_altered_are_named(finished, tmp_path):
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    assert run_folder.checked(run_dir) == Config.load(run_dir)
    names = set(run_folder.read_results(run_dir)["sha256"])
    assert names == {
        "settings", "checkpoints/backbone.weights.h5", "density.npz", "embeddings.npz",
        "normal_scores.csv",
    }  # fmt: skip
    for name in (*names - {"settings"}, "config.json"):
        path = run_dir / name
        before = path.read_bytes()
        if name == "config.json":
            settings = json.loads(before)
            path.write_text(json.dumps(settings | {"seed": 5}))
        else:
            path.write_bytes(before[:-1])
        with pytest.raises(UserError, match=f"{name}: damaged or altered"):
            run_folder.checked(run_dir)
        path.write_bytes(before)
    (run_dir / "density.npz").unlink()
    with pytest.raises(UserError, match="density.npz: missing"):
        run_folder.checked(run_dir)
    for sums in ({"../../secret": ""}, [], "x"):  # No file is read because of its name there.
        results = run_folder.read_results(run_dir) | {"sha256": sums}
        run_folder.write_results(run_dir, results)
        with pytest.raises(UserError, match=r"(damaged|missing)"):
            run_folder.checked(run_dir)


def test_a_runs_files_are_read_as_an_editor_or_a_spreadsheet_saves_them(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    for name in ("config.json", "results.json", "normal_scores.csv", "scores.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_bytes("\r\n".join(text.splitlines()).encode("utf-8-sig"))
    assert Config.load(folder) == Config.load(finished[0])
    assert run_folder.read_results(folder) == run_folder.read_results(finished[0])
    for one, other in zip(
        (run_folder.read_normal_scores(folder), *run_folder.ensemble_scores([folder])),
        (run_folder.read_normal_scores(finished[0]), *run_folder.ensemble_scores([finished[0]])),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
