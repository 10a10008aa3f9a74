"""A finished run's folder: thresholds, ensembles and checksums read from it."""

import json

import numpy as np
import pytest
from conftest import copy_run

from cutpaste_tf import threshold
from cutpaste_tf.artifacts import choose_threshold, ensemble_scores
from cutpaste_tf.config import Config
from cutpaste_tf.detector import Detector
from cutpaste_tf.files import UserError


def make_run(folder, **results):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    rows = [f"{i}.png,{i}.0" for i in range(1, 101)]
    (folder / "normal_scores.csv").write_text("\n".join(["path,score", *rows]) + "\n")
    return folder


def test_a_runs_own_and_another(tmp_path):
    run = make_run(tmp_path, threshold=7.5, false_positive_rate=0.02, num_normal_scores=9)
    assert choose_threshold(run) == threshold.Threshold(7.5, 0.02, 9)
    assert choose_threshold(run, threshold=3) == threshold.Threshold(3.0)
    at_rate = choose_threshold(run, false_positive_rate=0.05)
    assert at_rate == threshold.Threshold(96.0, 0.05, 100)
    assert "given" in str(choose_threshold(run, threshold=3))
    assert "0.05" in str(choose_threshold(run, false_positive_rate=0.05))
    assert "vouch for 0.0099 at best" in str(choose_threshold(run, false_positive_rate=0.001))


def test_an_older_runs_is_from_its_normal_scores(tmp_path):
    assert choose_threshold(make_run(tmp_path)) == threshold.Threshold(100.0, 0.01, 100)


def test_mistakes_about_thresholds_are_named(tmp_path):
    run = make_run(tmp_path / "run", threshold="high", false_positive_rate=0.1, num_normal_scores=3)
    for options, message in (
        ({"threshold": 1.0, "false_positive_rate": 0.1}, "leave one of them out"),
        ({"threshold": float("nan")}, "--threshold=nan"),
        ({"false_positive_rate": 0.0}, "--false_positive_rate=0: must be above 0"),
        ({"false_positive_rate": 1.5}, "--false_positive_rate=1.5"),
        ({}, "holds a threshold that is no number"),
    ):
        with pytest.raises(UserError, match=message):
            choose_threshold(run, **options)
    (run / "normal_scores.csv").write_text("path,score\n")
    with pytest.raises(UserError, match="has no scores of normal images"):
        choose_threshold(run, false_positive_rate=0.1)
    with pytest.raises(UserError, match="has the run finished"):
        choose_threshold(tmp_path / "none")
    for text in ("[", "[" * 200_000):
        (run / "results.json").write_text(text)
        with pytest.raises(UserError, match="not readable"):
            choose_threshold(run)
    for value in (10**400, "1e999", -1):
        make_run(run, threshold=1.0, false_positive_rate=value, num_normal_scores=3)
        with pytest.raises(UserError, match="holds a threshold that is"):
            choose_threshold(run)
    with pytest.raises(UserError, match="has the run finished"):
        choose_threshold(run / "results.json")


def write_run(
    folder, scores, normal, names=("a.png", "b.png", "c.png"), labels=(0, 1, 1), **settings
):
    folder.mkdir()
    config = Config(dataset="textures", category="brick", **settings)
    (folder / "config.json").write_text(config.to_json())
    rows = [f"{n},{y},x,{s}" for n, y, s in zip(names, labels, scores, strict=True)]
    (folder / "scores.csv").write_text("\n".join(["path,label,defect_type,score", *rows]) + "\n")
    rows = [f"{i}.png,{s}" for i, s in enumerate(normal)]
    (folder / "normal_scores.csv").write_text("\n".join(["path,score", *rows]) + "\n")
    return folder


def test_runs_are_read_and_averaged(tmp_path):
    """Of a kernel density the scores themselves, of a Gaussian half the squared distances."""
    one = write_run(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0], density="kde")
    two = write_run(tmp_path / "two", [2.0, 6.0, 4.0], [0.0, 4.0])
    labels, scores = ensemble_scores([one, two])
    assert labels.tolist() == [0, 1, 1]
    first = np.array([0.0, 1.0, 2.0]) / np.sqrt(2.0)
    second = (np.array([2.0, 18.0, 8.0]) - 4.0) / np.std([0.0, 8.0], ddof=1)
    np.testing.assert_allclose(scores, (first + second) / 2)


def test_scores_of_features_and_maps_are_averaged_as_they_are(tmp_path):
    flags = {"maps": "features", "image_score": "both"}
    run = write_run(tmp_path / "one", [-3.0, -1.0, 2.0], [-1.0, 1.0], **flags)
    _, scores = ensemble_scores([run])
    np.testing.assert_allclose(scores, np.array([-3.0, -1.0, 2.0]) / np.sqrt(2.0))


def test_a_run_without_normal_scores_has_no_ensemble(tmp_path):
    one = write_run(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    two = write_run(tmp_path / "two", [1.0, 2.0, 3.0], [0.0, 2.0])
    (two / "normal_scores.csv").unlink()
    assert ensemble_scores([one, two]) is None
    (two / "normal_scores.csv").write_text("path,score\na.png,1.0\n")
    assert ensemble_scores([one, two]) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scores.csv", "path,label\na.png,0\n", "columns path, label, score"),
        ("scores.csv", "path,label,defect_type,score\na.png,0,x,much\n", "no number"),
        ("scores.csv", "path,label,defect_type,score\na.png,x,x,1\n", "label that is no number"),
        ("normal_scores.csv", "path,score\na,1\nb,nan\n", "not finite"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    run = write_run(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    (run / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        ensemble_scores([run])
    assert str(run / name) in str(error.value)


def test_runs_tested_on_other_images_are_refused(tmp_path):
    one = write_run(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    names = ("a.png", "b.png", "d.png")
    two = write_run(tmp_path / "two", [1.0, 2.0, 3.0], [0.0, 2.0], names=names)
    with pytest.raises(UserError, match="other images"):
        ensemble_scores([one, two])


def test_sums_that_no_run_writes_are_refused(finished, tmp_path):
    run_dir = copy_run(finished[0], tmp_path / "run")
    results = json.loads((run_dir / "results.json").read_text())
    for sums in (results["sha256"] | {"../../secret": "0"}, ["density.npz"], None):
        (run_dir / "results.json").write_text(json.dumps(results | {"sha256": sums}))
        with pytest.raises(UserError, match=r"results\.json"):
            Detector.load(run_dir)
    del results["sha256"]  # a run of today has them
    (run_dir / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"results\.json: not readable"):
        Detector.load(run_dir)
