"""Patch models: embeddings, bands, densities of locations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import pattern, write_image

from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal
from cutpaste_tf.files import UserError
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.scoring import patch


def images_of(arrays):
    return pipeline.prepare(normal([str(i) for i in range(len(arrays))], arrays), len(arrays[0]))


@pytest.fixture(scope="module")
def backbone():
    return resnet18(None, width=0.0625)


@pytest.fixture(scope="module")
def images():
    return images_of(list(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)))


@pytest.mark.parametrize(
    ("stem", "height", "width", "size", "stride"),
    [
        ("large", 64, 48, 32, 4),
        ("small", 44, 52, 32, 4),
        ("large", 40, 40, 32, 8),
        ("large", 37, 41, 32, 1),  # of odd offsets: other pixels under the strides
        ("small", 31, 24, 21, 5),  # padding that differs from layer to layer
        ("large", 33, 33, 33, 4),  # a single patch
    ],
)
def test_each_patch_is_embedded_as_by_itself(stem, height, width, size, stride):
    model = resnet18(None, width=0.0625, stem=stem)
    whole = np.random.default_rng(0).random((2, height, width, 3), np.float32)
    found = patch.embed_patches(model, tf.constant(whole), size, stride).numpy()
    rows, columns = (range(0, side - size + 1, stride) for side in (height, width))
    assert found.shape[:3] == (2, len(rows), len(columns))
    assert patch.patches_along(height, size, stride) == len(rows)
    for i, y in enumerate(rows):  # the patches of a row at once, for the time that it takes
        crops = [whole[:, y : y + size, x : x + size] for x in columns]
        alone = model(np.concatenate(crops), training=False)["pool"].numpy()
        alone = alone.reshape(len(columns), 2, -1).swapaxes(0, 1)
        np.testing.assert_allclose(found[:, i], alone, rtol=1e-4, atol=1e-5)


def test_embedding_patches_compiles_with_xla(backbone):
    whole = tf.constant(np.random.default_rng(0).random((2, 40, 40, 3), np.float32))
    plain = patch.embed_patches(backbone, whole, 32, 4)
    compiled = tf.function(
        lambda images: patch.embed_patches(backbone, images, 32, 4), jit_compile=True
    )(whole)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def test_patches_are_embedded_in_float32_from_mixed_precision():
    images = np.random.default_rng(0).uniform(size=[1, 64, 64, 3]).astype(np.float32)
    found = {}
    try:
        for policy in ("float32", "mixed_float16"):
            keras.config.set_dtype_policy(policy)
            model = resnet18(None, width=0.0625)
            found[policy] = patch.embed_patches(model, tf.constant(images), 32, 16).numpy()
    finally:
        keras.config.set_dtype_policy("float32")
    assert found["mixed_float16"].dtype == np.float32
    assert (found["mixed_float16"] != found["float32"]).any()
    np.testing.assert_allclose(found["mixed_float16"], found["float32"], rtol=0.05, atol=0.02)


def all_at_once(embedder, images):
    parts = [np.concatenate(list(embedder.embeddings(images, band))) for band in embedder.bands]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("memory", [2**28, 100_000, 1])
def test_bands_make_no_difference(backbone, images, memory, monkeypatch):
    whole = patch.PatchEmbedder(backbone, (64, 64), 32, 4)
    assert whole.bands == [(0, 9)]
    monkeypatch.setattr(patch, "_MEMORY", memory)
    banded = patch.PatchEmbedder(backbone, (64, 64), 32, 4)
    assert len(banded.bands) == {2**28: 1, 100_000: 5, 1: 9}[memory]
    np.testing.assert_allclose(
        all_at_once(banded, images), all_at_once(whole, images), rtol=1e-4, atol=1e-5
    )
    for separate in (False, True):
        maps = [patch.score(e, patch.fit(e, images, separate), images)[0] for e in (whole, banded)]
        assert maps[0].shape == (5, 9, 9)
        np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3)


def test_images_are_scored_in_groups_from_memory_and_from_files(backbone, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    paths = [write_image(tmp_path / f"{i}.png", pattern(rng, 64)) for i in range(5)]
    split = normal([str(i) for i in range(5)], [str(path) for path in paths])
    stored = pipeline.prepare(split, 64)
    monkeypatch.setattr(pipeline, "MEMORY_LIMIT", 0)
    streamed = pipeline.prepare(split, 64)
    assert streamed.stored is None
    embedder = patch.PatchEmbedder(backbone, (64, 64), 32, 16)
    embedder.batch = 2
    gaussians = patch.fit(embedder, stored, True)
    expected = patch.score(embedder, gaussians, stored)
    monkeypatch.setattr(patch, "_GROUP", 4)  # groups of 4 images and 1
    for images in (stored, streamed):
        for found, wanted in zip(patch.score(embedder, gaussians, images), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_bands_are_no_higher_than_their_scatters_allow(backbone, monkeypatch):
    # 9 patches in a row, each with 32 by 32 numbers of eight bytes.
    monkeypatch.setattr(patch, "_SCATTER_MEMORY", 2 * 9 * 32 * 32 * 8)
    shared, separate = (patch.PatchEmbedder(backbone, (64, 64), 32, 4, s) for s in (False, True))
    assert shared.bands == [(0, 9)]
    assert separate.bands == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]


def test_shared_and_separate_densities_are_of_the_embeddings(backbone, images):
    embedder = patch.PatchEmbedder(backbone, (64, 64), 32, 16)
    features = all_at_once(embedder, images).astype(np.float64)
    shared, separate = (patch.fit(embedder, images, s) for s in (False, True))
    np.testing.assert_allclose(shared.mean, features.mean((0, 1, 2))[None], rtol=1e-6)
    means = features.mean(0).reshape(9, -1)
    np.testing.assert_allclose(separate.mean, means, rtol=1e-6, atol=1e-12)
    assert (shared.whitener.dtype, separate.whitener.dtype) == (np.float64, np.float32)


@pytest.mark.parametrize("separate", [False, True])
def test_a_network_that_has_died_is_refused(images, separate, monkeypatch):
    network = resnet18(None, width=0.0625)
    for weight in network.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    monkeypatch.setattr(patch, "_MEMORY", 1)  # a row at a time
    with pytest.raises(UserError, match="the same but for rounding"):
        patch.fit(patch.PatchEmbedder(network, (64, 64), 32, 16, separate), images, separate)


def test_a_row_that_is_always_the_same_is_no_fault(backbone, images, monkeypatch):
    below = images.stored.numpy().copy()
    below[:, :32] = 200
    monkeypatch.setattr(patch, "_MEMORY", 1)
    embedder = patch.PatchEmbedder(backbone, (64, 64), 32, 32, True)
    gaussians = patch.fit(embedder, images_of(list(below)), True)
    scores, _ = patch.score(embedder, gaussians, images)
    assert np.isfinite(scores).all()
    assert scores[:, 0].min() > 100  # there a change is unheard of


def test_the_image_score_is_the_largest_of_its_map():
    maps = np.array([[[1.0, 2.0], [5.0, 0.0]], [[3.0, 3.5], [0.0, 0.0]]], np.float32)
    assert patch.image_scores(maps).tolist() == [5.0, 3.5]


@pytest.mark.parametrize("separate", [False, True])
def test_cross_validated_scores_are_of_images_left_out(backbone, images, separate):
    embedder = patch.PatchEmbedder(backbone, (64, 64), 32, 16, separate)
    found = patch.cross_validated_scores(embedder, images, separate)
    assert found.shape == (5,)
    for number in range(5):  # five images in five parts: each is left out by itself
        gaussians = patch.fit(embedder, images.subset(np.delete(np.arange(5), number)), separate)
        alone, _ = patch.score(embedder, gaussians, images.subset(np.array([number])))
        np.testing.assert_allclose(found[number], alone.max(), rtol=1e-4)
    few = images.subset(np.arange(3))
    assert patch.cross_validated_scores(embedder, few, separate).shape == (0,)


def test_mean_embeddings_are_over_all_patches(backbone, images):
    embedder = patch.PatchEmbedder(backbone, (64, 64), 32, 16)
    expected = all_at_once(embedder, images).mean((1, 2))
    np.testing.assert_allclose(patch.mean_embeddings(embedder, images), expected, rtol=1e-4)
    _, found = patch.score(embedder, patch.fit(embedder, images, False), images)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
