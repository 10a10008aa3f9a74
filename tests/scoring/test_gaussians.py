"""Gaussians by location against scikit-learn's, one at a time."""

import numpy as np
import pytest
import sklearn.covariance

from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import gaussians as module
from cutpaste_tf.scoring import layers
from cutpaste_tf.scoring.gaussians import GaussianStatistics


def distances(gaussians, features):
    """Mahalanobis distances, [N, L], of features, [N, L, D]."""
    whiten = layers.whiten(gaussians.mean, gaussians.whitener)
    return np.asarray(layers.length(whiten(features[:, :, None])))[:, :, 0]


@pytest.mark.parametrize(("count", "dims"), [(40, 6), (7, 12), (300, 3)])
def test_statistics_of_locations_give_scikit_learns_ledoit_wolf(count, dims, monkeypatch):
    monkeypatch.setattr(module, "_FIT_MEMORY", 2 * 8 * dims * dims)  # two locations at a time
    monkeypatch.setattr(layers, "_LAYER_BYTES", 2 * 4 * dims * dims)
    rng = np.random.default_rng(count)
    # Large means, as pooled features have; each location with its own.
    features = rng.normal(size=(count, 5, dims)) * rng.random((5, dims)) + 20 * rng.random((5, 1))
    features = features.astype(np.float32)
    statistics = GaussianStatistics(5, dims)
    for part in np.array_split(features, 3):
        statistics.update(part)
    found = statistics.fit()
    test = rng.normal(size=(9, 5, dims)) + 10
    for location in range(5):
        estimate = sklearn.covariance.LedoitWolf().fit(features[:, location].astype(np.float64))
        whitener = found.whitener[location]
        np.testing.assert_allclose(found.mean[location], estimate.location_, rtol=1e-9)
        precision = estimate.precision_
        atol = 1e-5 * np.abs(precision).max()
        np.testing.assert_allclose(whitener @ whitener.T, precision, rtol=1e-5, atol=atol)
        expected = np.sqrt(estimate.mahalanobis(test[:, location]))
        np.testing.assert_allclose(distances(found, test)[:, location], expected, rtol=1e-5)
        level = np.sqrt(estimate.mahalanobis(features[:, location].astype(np.float64)).mean())
        np.testing.assert_allclose(found.level[location], level, rtol=1e-5)
    assert found.whitener.dtype == np.float32  # half the memory; it is the largest thing there is


def test_a_location_that_never_changes_has_finite_scores():
    features = np.random.default_rng(0).normal(size=(20, 2, 3))
    features[:, 1] = 4.0
    statistics = GaussianStatistics(2, 3)
    statistics.update(features)
    scores = distances(statistics.fit(), features)
    assert np.isfinite(scores).all()
    assert (scores[:, 1] == 0).all()


def test_statistics_refuse_what_is_not_a_number():
    statistics = GaussianStatistics(1, 2)
    with pytest.raises(UserError, match="not finite; did the training diverge"):
        statistics.update(np.array([[[np.nan, 0.0]]]))
    with pytest.raises(ValueError, match="no features"):
        statistics.fit()


def test_statistics_tell_whether_anything_varies():
    for spread, vary in ((0.0, False), (1e-7, False), (1e-4, True)):
        statistics = GaussianStatistics(2, 3)
        noise = np.random.default_rng(0).normal(size=(9, 2, 3))
        noise[:, 0] = 0  # A location alone may always be the same.
        statistics.update(np.arange(1.0, 7.0).reshape(2, 3) * (1 + spread * noise))
        assert statistics.vary == vary
        gaussians = statistics.fit()
        assert np.isfinite(gaussians.whitener).all()
        assert (distances(gaussians, np.full([1, 2, 3], 9.0)) > 10).all()
