"""Patch models: embeddings, bands, densities of locations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SETTINGS, pattern, write_image

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.files import UserError
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.scoring import patches
from cutpaste_tf.scoring.patches import PatchScorer


def scorer_of(network, size=64, patch=32, stride=16, separate=False):
    location = "separate" if separate else "shared"
    flags = {"patch_size": 2 * patch, "dense_stride": stride, "location_density": location}
    return PatchScorer(Config(**SETTINGS, image_size=size, **flags), network)


@pytest.fixture(scope="module")
def network():
    return resnet18(None, width=0.0625)


@pytest.fixture(scope="module")
def images():
    arrays = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    return pipeline.of_arrays(arrays, 64)


def vectors_of(scorer, images):
    return np.concatenate([batch["vectors"] for batch in scorer.embedded(images)])[:, 0]


@pytest.mark.parametrize(
    ("stem", "size", "patch", "stride"),
    [
        ("large", (64, 80), 32, 4),
        ("small", (44, 52), 16, 4),
        ("large", (37, 41), 17, 1),  # of odd offsets: other pixels under the strides
        ("large", (66, 66), 33, 33),
    ],
)
def test_each_patch_is_embedded_as_by_itself(stem, size, patch, stride):
    model = resnet18(None, width=0.0625, stem=stem)
    whole = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    scorer = scorer_of(model, size, patch, stride)
    found = vectors_of(scorer, pipeline.of_arrays(whole, size))
    rows, columns = (range(0, side - patch + 1, stride) for side in size)
    assert found.shape[:3] == (2, len(rows), len(columns))
    for i, y in enumerate(rows):  # the patches of a row at once, for the time that it takes
        crops = [whole[:, y : y + patch, x : x + patch] for x in columns]
        crops = np.concatenate(crops).astype(np.float32) / 255.0
        alone = model(crops, training=False)["pool"].numpy()
        alone = alone.reshape(len(columns), 2, -1).swapaxes(0, 1)
        np.testing.assert_allclose(found[:, i], alone, rtol=1e-4, atol=1e-5)


def test_embedding_patches_compiles_with_xla(network):
    whole = tf.constant(np.random.default_rng(0).random((2, 64, 64, 3), np.float32))
    embedding = scorer_of(network).embedding(network)
    compiled = tf.function(embedding, jit_compile=True)(whole)["vectors"]
    np.testing.assert_allclose(compiled, embedding(whole)["vectors"], rtol=1e-4, atol=1e-5)


def test_patches_are_embedded_in_float32_from_mixed_precision(images):
    try:
        keras.config.set_dtype_policy("mixed_float16")
        trained = resnet18(None, width=0.0625)
    finally:
        keras.config.set_dtype_policy("float32")
    precise = resnet18(None, width=0.0625)
    precise.set_weights(trained.get_weights())
    found, expected = (scorer_of(x).embed(images) for x in (trained, precise))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("memory", "height", "separate"), [(100_000, 2, False), (1, 1, True)])
def test_bands_make_no_difference(network, images, memory, height, separate, monkeypatch):
    whole = scorer_of(network, stride=4, separate=separate)
    monkeypatch.setattr(patches, "_MEMORY", memory)
    # 9 patches in a row, each with 32 by 32 numbers of eight bytes.
    monkeypatch.setattr(patches, "_SCATTER_MEMORY", 2 * 9 * 32 * 32 * 8)
    banded = scorer_of(network, stride=4, separate=separate)
    assert banded._height[0] == height
    two_rows = [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    assert banded.bands == (two_rows if separate else [(0, 9)])
    np.testing.assert_allclose(
        vectors_of(banded, images), vectors_of(whole, images), rtol=1e-4, atol=1e-5
    )
    fits = [scorer.fit(images, validate=True) for scorer in (whole, banded)]
    maps = [s.score(f, images).maps.small for s, f in zip((whole, banded), fits, strict=True)]
    assert maps[0].shape == (5, 1, 9, 9)
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3)
    np.testing.assert_allclose(fits[0].normal.scores, fits[1].normal.scores, rtol=1e-3)
    expected = whole.embed(images)
    for fit in fits:
        np.testing.assert_allclose(fit.features["pool"][:, 0], expected, rtol=1e-4, atol=1e-5)


def test_images_are_scored_from_memory_and_from_files(network, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    paths = [str(write_image(tmp_path / f"{i}.png", pattern(rng, 64))) for i in range(5)]
    stored = pipeline.prepare(normal_split(paths, paths), 64)
    monkeypatch.setattr(pipeline, "MEMORY_LIMIT", 0)
    streamed = pipeline.prepare(normal_split(paths, paths), 64)
    assert streamed.stored is None
    scorer = scorer_of(network, separate=True)
    fit = scorer.fit(stored)
    found, expected = (scorer.score(fit, images) for images in (streamed, stored))
    np.testing.assert_array_equal(found.maps.small, expected.maps.small)


def test_shared_and_separate_densities_are_of_the_embeddings(network, images):
    shared, separate = (scorer_of(network, separate=x) for x in (False, True))
    features = vectors_of(shared, images).astype(np.float64)
    one, each = (scorer.fit(images).places for scorer in (shared, separate))
    np.testing.assert_allclose(one.mean, features.mean((0, 1, 2))[None], rtol=1e-6)
    np.testing.assert_allclose(each.mean, features.mean(0).reshape(9, -1), rtol=1e-6, atol=1e-12)
    assert (one.whitener.dtype, each.whitener.dtype) == (np.float64, np.float32)
    # An image's embedding is the mean of its patches'.
    np.testing.assert_allclose(shared.embed(images), features.mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("separate", [False, True])
def test_a_network_that_has_died_is_refused(images, separate):
    network = resnet18(None, width=0.0625)
    for weight in network.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    with pytest.raises(UserError, match="the same but for rounding"):
        scorer_of(network, separate=separate).fit(images)


@pytest.mark.parametrize("separate", [False, True])
def test_normal_scores_are_of_images_left_out(network, images, separate):
    scorer = scorer_of(network, separate=separate)
    found = scorer.fit(images, validate=True).normal.scores
    assert found.shape == (5,)
    for number in range(5):  # five images in five parts: each is left out by itself
        fit = scorer.fit(images.subset(np.delete(np.arange(5), number)))
        alone = scorer.score(fit, images.subset([number]))
        np.testing.assert_allclose(found[number], alone.scores, rtol=1e-4)
        np.testing.assert_array_equal(alone.scores, alone.maps.small.max(axis=(1, 2, 3)))
    assert scorer.fit(images.subset(range(3)), validate=True).normal is None
