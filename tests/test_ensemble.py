"""Ensembles of runs' anomaly scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cutpaste_tf import ensemble
from cutpaste_tf.errors import UserError


def test_standardised_by_the_normal_scores_alone():
    normal = np.array([1.0, 2.0, 4.0, 7.0])
    found = ensemble.standardize(np.array([3.5, 9.0]), normal)
    np.testing.assert_allclose(found, stats.zmap([3.5, 9.0], normal, ddof=1))


@settings(deadline=None, derandomize=True)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_an_ensemble_does_not_depend_on_the_runs_scales(scale, shift):
    rng = np.random.default_rng(0)
    scores, normal = rng.normal(size=(3, 20)), rng.normal(size=(3, 10))
    expected = ensemble.average(list(scores), list(normal))
    moved = ensemble.average(
        [scores[0] * scale + shift, *scores[1:]], [normal[0] * scale + shift, *normal[1:]]
    )
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)


def test_equal_normal_scores_do_not_divide_by_zero():
    found = ensemble.standardize(np.array([2.0, 3.0]), np.full(5, 2.0))
    assert np.isfinite(found).all()
    assert found[0] == 0 < found[1]


def test_too_few_normal_scores_are_refused():
    with pytest.raises(ValueError, match="two"):
        ensemble.standardize(np.array([1.0]), np.array([1.0]))


def write(folder, scores, normal, names=("a.png", "b.png", "c.png"), labels=(0, 1, 1)):
    folder.mkdir()
    rows = [f"{n},{y},x,{s}" for n, y, s in zip(names, labels, scores, strict=True)]
    (folder / "scores.csv").write_text("\n".join(["path,label,defect_type,score", *rows]) + "\n")
    rows = [f"{i}.png,{s}" for i, s in enumerate(normal)]
    (folder / "normal_scores.csv").write_text("\n".join(["path,score", *rows]) + "\n")
    return folder


def test_runs_are_read_and_averaged(tmp_path):
    one = write(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    two = write(tmp_path / "two", [10.0, 30.0, 20.0], [0.0, 20.0])
    labels, scores = ensemble.of_runs([one, two])
    assert labels.tolist() == [0, 1, 1]
    deviation = np.sqrt(2.0)
    np.testing.assert_allclose(scores, np.array([0.0, 1.5, 1.5]) / deviation)


def test_a_run_without_normal_scores_has_no_ensemble(tmp_path):
    one = write(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    two = write(tmp_path / "two", [1.0, 2.0, 3.0], [0.0, 2.0])
    (two / "normal_scores.csv").unlink()
    assert ensemble.of_runs([one, two]) is None
    (two / "normal_scores.csv").write_text("path,score\na.png,1.0\n")
    assert ensemble.of_runs([one, two]) is None


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
    run = write(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    (run / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        ensemble.of_runs([run])
    assert str(run / name) in str(error.value)


def test_runs_tested_on_other_images_are_refused(tmp_path):
    one = write(tmp_path / "one", [1.0, 2.0, 3.0], [0.0, 2.0])
    two = write(tmp_path / "two", [1.0, 2.0, 3.0], [0.0, 2.0], names=("a.png", "b.png", "d.png"))
    with pytest.raises(UserError, match="other images"):
        ensemble.of_runs([one, two])
