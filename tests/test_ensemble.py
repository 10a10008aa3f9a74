"""Ensembles of anomaly scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cutpaste_tf import ensemble


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
