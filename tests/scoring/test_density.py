"""Densities against independent computations."""

import numpy as np
import pytest
import scipy.stats
import sklearn.covariance
import sklearn.mixture
from hypothesis import given, settings
from hypothesis import strategies as st

from cutpaste_tf import threshold
from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import density, layers
from cutpaste_tf.scoring.gaussians import GaussianStatistics


def features(count=200, dims=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dims)) @ rng.normal(size=(dims, dims)) + rng.normal(size=dims)


@pytest.mark.parametrize("kind", ["gde", "gmm"])
def test_score_is_the_mahalanobis_distance(kind):
    fitted_to, scored = train, test = features(), features(50, seed=1)
    if kind == "gde":
        covariance = sklearn.covariance.ledoit_wolf(train)[0]
    else:
        train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
        covariance = np.cov(train.T, bias=True) + 1e-6 * np.eye(6)
    mean = train.mean(0)
    expected = [np.sqrt((x - mean) @ np.linalg.solve(covariance, x - mean)) for x in test]
    fitted = density.fit(kind, fitted_to)
    np.testing.assert_allclose(fitted.score(scored), expected, rtol=1e-6)
    assert fitted.score(scored[:0]).shape == (0,)


def test_gmm_is_the_companion_codes():
    """Its eval_embed: l2_normalize, GMM(n_components=1, 'full'), minus score_samples."""
    train, test = features(), features(50, seed=1)
    fitted = density.fit("gmm", train)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    mixture = sklearn.mixture.GaussianMixture(
        n_components=1, init_params="kmeans", covariance_type="full"
    ).fit(unit[0])
    constant = -mixture.score_samples(unit[1]) - 0.5 * fitted.score(test) ** 2
    np.testing.assert_allclose(constant, constant[0], rtol=1e-6)


def test_score_orders_as_equation_2_does():
    train, test = features(), features(50, seed=1)
    fitted = density.fit("gde", train)
    mean, whitener = fitted.arrays["mean"], fitted.arrays["whitener"]
    covariance = np.linalg.inv(whitener @ whitener.T)
    log_density = scipy.stats.multivariate_normal(mean, covariance).logpdf(test)
    constant = log_density + 0.5 * fitted.score(test) ** 2
    np.testing.assert_allclose(constant, constant[0], rtol=1e-6)


def test_kernel_density_is_the_sum_of_kernels():
    train, test = features(30), features(10, seed=1)
    fitted = density.fit("kde", train)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    gamma = 10.0 / (6 * unit[0].var())
    squared = ((unit[1][:, None] - unit[0][None]) ** 2).sum(-1)
    density_sum = np.exp(-gamma * squared).mean(1) * (gamma / np.pi) ** 3
    np.testing.assert_allclose(fitted.score(test), -np.log(density_sum), rtol=1e-6)


def test_shrinkage_copes_with_fewer_images_than_features():
    """MVTec AD has 60 to 391 training images against 512 features and more."""
    rng = np.random.default_rng(0)
    train = rng.normal(size=(60, 512)).astype(np.float32)
    fitted = density.fit("gde", train)
    assert fitted.arrays["whitener"].dtype == np.float64
    scores = fitted.score(np.stack([train[0], train[0] + 5.0]))
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


@pytest.mark.parametrize("kind", ["gde", "gmm"])
def test_the_slope_is_the_gradient_of_the_negative_log_density(kind):
    fitted, at, step = density.fit(kind, features()), features(5, seed=1), 1e-5
    found = fitted.layer()(at)["slope"]
    sides = [0.5 * fitted.score(at[:, None] + s * step * np.eye(6)) ** 2 for s in (1, -1)]
    expected = (sides[0] - sides[1]) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["gde", "gmm", "kde"])
def test_a_layer_in_float32_loses_little_and_one_in_float64_nothing(kind):
    fitted, test = density.fit(kind, features()), features(9, seed=1)
    np.testing.assert_array_equal(fitted.layer()(test)["score"], fitted.score(test))
    np.testing.assert_allclose(fitted.layer("float32")(test)["score"], fitted.score(test), 1e-4)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite; did the training diverge"):
        density.fit("gde", np.full([5, 2], np.nan))


def validated(kind, features):
    """Cross-validated scores of images of one tile each."""
    ones = np.ones([len(features), 1], bool)
    return density.cross_validated_scores(kind, features[:, None], ones)[:, 0]


@pytest.mark.parametrize("kind", ["gde", "gmm", "kde"])
def test_cross_validated_scores_are_of_densities_without_the_image(kind):
    features = np.random.default_rng(0).normal(size=(23, 3))
    found = validated(kind, features)
    assert found.shape == (23,)
    # Moving an image far away does not pull its own density along.
    moved = features.copy()
    moved[7] += 1e3
    far = validated(kind, moved)[7]
    own = density.fit(kind, moved).score(moved)[7]
    assert far > own
    # By hand for one image: all others that share no fold with it are the density's.
    others = np.r_[:5, 10:23]
    expected = density.fit(kind, features[others]).score(features[[7]])[0]
    assert found[7] == pytest.approx(expected)


def test_cross_validated_scores_are_what_new_normal_images_get():
    rng = np.random.default_rng(0)
    features, new = rng.normal(size=(400, 40)), rng.normal(size=(1500, 40))
    held_out = validated("gmm", features)
    fitted = density.fit("gmm", features)
    own, others = np.mean(fitted.score(features)), np.mean(fitted.score(new))
    # A density finds what it was fitted to more normal than it is. Of a fifth fewer images it is a
    # little worse, not better.
    assert own < others - 0.3
    assert 0.0 < np.mean(held_out) - others < 0.5 * (others - own)


KINDS = ["gde", "gmm", "kde", "shared", "separate"]


def fitted_to(kind, train):
    """A density of [N, D] features, or of locations that all have them; what scores others."""
    if kind not in ("shared", "separate"):
        return density.fit(kind, train).score
    places = np.repeat(train[:, None], 3, axis=1)
    if kind == "shared":
        places = places.reshape(-1, 1, train.shape[1])
    statistics = GaussianStatistics(places.shape[1], train.shape[1])
    statistics.update(places)
    gaussians = statistics.fit()
    whiten = layers.whiten(gaussians.mean, gaussians.whitener)
    count = len(gaussians.mean)
    return lambda x: np.asarray(
        layers.length(whiten(np.repeat(x[:, None, None], count, axis=1)))[:, 0, 0]
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(3, 12),
    dims=st.integers(4, 40),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    spread=st.sampled_from([1e-5, 1e-4, 1e-2]),
    distinct=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_what_is_far_from_all_normal_images_scores_higher_than_any(
    kind, count, dims, size, spread, distinct, seed
):
    """Whatever their scale, however little they differ, and however many are copies."""
    rng = np.random.default_rng(seed)
    # A level and a sign: no two are the same at unit length.
    looks = 1.0 + rng.random(dims) + spread * rng.choice([-1.0, 1.0], size=(distinct, dims))
    looks[0, 0] += 4 * spread
    looks[:, -1] = 1.0  # in which they never differ
    train = (size * looks[np.arange(count) % distinct]).astype(np.float32)
    score = fitted_to(kind, train)
    crack = train[:1].copy()
    crack[:, -1] *= 1.5
    normal, anomalous = score(train), score(np.concatenate([-train[:1], crack]))
    assert np.isfinite(anomalous).all()
    assert anomalous.min() > normal.max()


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("level", [0.0, 7.0])
def test_features_that_are_all_the_same_are_refused(kind, level):
    """Of a network that has died, any part's features are the same too, and so is its score."""
    same = np.full([8, 16], level, np.float32)
    rounded = same * (1 + 1e-7 * np.random.default_rng(0).normal(size=same.shape))
    for features in (same, same[:1], rounded):
        with pytest.raises(UserError, match="the same but for rounding; did the training diverge"):
            density.fit(kind, features)


def test_what_two_images_do_not_differ_in_is_anomalous():
    # Ledoit and Wolf shrink nothing here: the covariance has a single direction.
    train = np.repeat([[1.0, 1.0, 5.0], [1.0, 2.0, 5.0]], 3, axis=0)
    fitted = density.fit("gde", train)
    own, other = fitted.score(train), fitted.score(np.array([[1.0, 1.5, 5.01]]))[0]
    np.testing.assert_allclose(own, 1.0, rtol=1e-6)
    assert 100 < other < np.inf


def test_a_normal_image_is_not_above_a_threshold_of_scores_that_are_all_alike():
    # Each is as far from the others as any: all cross-validated scores are the same.
    train = np.eye(5)
    value = threshold.at_rate(validated("gde", train), 0.01)
    fitted = density.fit("gde", train)
    # A density that has seen an image scores it lower, by more than rounding takes.
    assert fitted.score(train * (1 + 1e-5)).max() < 0.99 * value
    assert fitted.score(5 * train).min() > value


def test_each_image_is_held_out_once_and_its_neighbours_with_it():
    parts = []
    density.cross_validated(11, lambda part: parts.append(part.tolist()) or part)
    assert parts == [[0, 1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    np.testing.assert_array_equal(density.cross_validated(4, lambda part: part), np.arange(4))
    assert density.cross_validated(3, None).shape == (0,)
