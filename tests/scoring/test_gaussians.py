"""Gaussians by location against scikit-learn's, one at a time."""

import numpy as np
import pytest
import sklearn.covariance

from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import density
from cutpaste_tf.scoring import gaussians as module
from cutpaste_tf.scoring.gaussians import GaussianStatistics, MapGaussians


@pytest.mark.parametrize(("count", "dims"), [(40, 6), (7, 12), (300, 3)])
def test_statistics_of_locations_give_scikit_learns_ledoit_wolf(count, dims, monkeypatch):
    monkeypatch.setattr(module, "_FIT_MEMORY", 2 * 8 * dims * dims)  # two locations at a time
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
        np.testing.assert_allclose(whitener.T @ whitener, precision, rtol=1e-5, atol=atol)
        expected = np.sqrt(estimate.mahalanobis(test[:, location]))
        np.testing.assert_allclose(found.score(test)[:, location], expected, rtol=1e-5)
        level = np.sqrt(estimate.mahalanobis(features[:, location].astype(np.float64)).mean())
        np.testing.assert_allclose(found.level[location], level, rtol=1e-5)
    # Some of the locations.
    np.testing.assert_allclose(found.score(test[:, 2:4], 2), found.score(test)[:, 2:4])
    assert found.whitener.dtype == np.float32  # half the memory; it is the largest thing there is


def test_one_gaussian_for_all_locations():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8))
    statistics = GaussianStatistics(1, 8)
    statistics.update(features[:, None])
    scores = statistics.fit().score(features.reshape(10, 5, 8))
    expected = density.GaussianDensity().fit(features).score(features)
    np.testing.assert_allclose(scores.ravel(), expected, rtol=1e-6)


def test_a_location_that_never_changes_has_finite_scores():
    features = np.random.default_rng(0).normal(size=(20, 2, 3))
    features[:, 1] = 4.0
    statistics = GaussianStatistics(2, 3)
    statistics.update(features)
    scores = statistics.fit().score(features)
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
        assert (gaussians.score(np.full([1, 2, 3], 9.0)) > 10).all()


def of_maps(locations, count=30, seed=0):
    """Gaussians of maps, [K, h, w] = [2, 3, 4] with vectors of 5; and the normal ones."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 2, 3, 4, 5)) @ rng.normal(size=(5, 5))
    vectors += rng.normal(size=(2, 3, 4, 5))
    if locations == "shared":
        flat = vectors.transpose(0, 2, 3, 1, 4).reshape(-1, 2, 5)
    else:
        flat = vectors.reshape(count, -1, 5)
    statistics = GaussianStatistics(flat.shape[1], 5)
    statistics.update(flat)
    usual = np.array([[1.0, 2.0], [3.0, 4.0]])
    return MapGaussians(statistics.fit(), (2, 3, 4), usual), vectors


@pytest.mark.parametrize("locations", ["shared", "separate"])
def test_maps_are_scored_place_by_place(locations, tmp_path):
    gaussians, vectors = of_maps(locations)
    tested = np.random.default_rng(1).normal(size=(6, 2, 3, 4, 5))
    found = gaussians.score(tested)
    assert (found.shape, found.dtype) == ((6, 3, 4), np.float32)
    for number, row, column in ((0, 0, 0), (1, 2, 3), (5, 1, 1)):
        squared = 0.0
        for k in range(2):
            normals = vectors[:, k]
            normals = normals if locations == "shared" else normals[:, row, column]
            fitted = sklearn.covariance.LedoitWolf().fit(normals.reshape(-1, 5))
            squared += fitted.mahalanobis(tested[None, number, k, row, column])[0]
        assert found[number, row, column] == pytest.approx(np.sqrt(squared), rel=1e-3)
    # What is usual is the root mean square of what it was fitted to.
    normals = gaussians.score(vectors)
    assert gaussians.level == pytest.approx(np.sqrt(np.mean(normals**2)), rel=0.01)

    density.save(gaussians, tmp_path / "density.npz")
    loaded = density.load(tmp_path / "density.npz", MapGaussians)
    assert loaded.grid == (2, 3, 4)
    np.testing.assert_array_equal(loaded.score(tested), found)
    np.testing.assert_array_equal(loaded.usual, gaussians.usual)


def test_two_scores_are_standardised_and_averaged():
    gaussians, _ = of_maps("shared")
    found = gaussians.combine(np.array([1.0, 5.0]), np.array([3.0, 11.0]))
    np.testing.assert_allclose(found, [0.0, (2.0 + 2.0) / 2])
