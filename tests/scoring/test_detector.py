"""Embedding, scoring, and loading a run."""

import csv
import dataclasses
import functools
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from conftest import QUICK, SETTINGS, alter_run, pattern, read_scores, write_image
from PIL import Image

from cutpaste_tf import main, refit, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.data.preparation import Preparation, resize
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models import weights
from cutpaste_tf.models.backbone import Places
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.run import pictures
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import feature_maps, layers, metrics, upsample
from cutpaste_tf.scoring.detector import Detector, make_scorer
from cutpaste_tf.scoring.maps import Maps
from cutpaste_tf.scoring.scorer import Fit, Scorer, evaluate
from cutpaste_tf.train import classifier, loop

SMALL = Config(**SETTINGS, image_size=32, width=0.0625)


def prepared(arrays, preparation=32):
    return pipeline.of_arrays(arrays, preparation)


def test_embedding_is_the_network_in_inference_mode():
    network = resnet18(32, width=0.0625)
    arrays = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    before = [w.numpy() for w in network.weights]
    features = make_scorer(SMALL, network).embed(prepared(arrays))
    assert features.shape == (70, 32)  # more than one batch, the last smaller
    expected = network(arrays.astype(np.float32) / 255.0, training=False)["pool"]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    for old, new in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def test_evaluation_is_in_float32_whatever_trains(mixed_precision):
    trained = resnet18(32, width=0.0625)
    keras.config.set_dtype_policy("float32")
    precise = resnet18(32, width=0.0625)
    images = prepared([pattern(np.random.default_rng(i), 32) for i in range(6)])
    scorer = make_scorer(SMALL, trained)
    for change in (1.0, 1.1):  # it is the network as it is at the time
        trained.set_weights([w * change for w in trained.get_weights()])
        precise.set_weights(trained.get_weights())
        np.testing.assert_array_equal(
            scorer.embed(images), make_scorer(SMALL, precise).embed(images)
        )


@pytest.mark.parametrize("allowed", [True, False])
def test_no_tf32_while_embedding_and_as_before_after(allowed, monkeypatch):
    execution = tf.config.experimental
    before = execution.tensor_float_32_execution_enabled()
    states = []

    def interrupted(self, images):
        states.append(execution.tensor_float_32_execution_enabled())
        raise InterruptedError

    monkeypatch.setattr(Scorer, "embedded", interrupted)
    scorer = make_scorer(SMALL, resnet18(32, width=0.0625))
    execution.enable_tensor_float_32_execution(allowed)
    try:
        for method in (scorer.embed, scorer.fit, functools.partial(scorer.score, FIT)):
            with pytest.raises(InterruptedError):
                method(prepared([]))
        assert states == [False] * 3
        assert execution.tensor_float_32_execution_enabled() is allowed
    finally:
        execution.enable_tensor_float_32_execution(before)


FIT = Fit(densities.fit("gde", np.random.default_rng(0).normal(size=[40, 32])))


def test_an_image_whose_features_are_no_numbers_has_no_score_and_others_theirs():
    network = resnet18(32, width=0.0625)
    scorer, images = make_scorer(SMALL, network), prepared([np.zeros([32, 32, 3], np.uint8)] * 3)
    embed = scorer._embed
    scorer._embed = lambda batch: {"pool": embed(batch)["pool"] * [[1.0], [np.nan], [1.0]]}
    scores = scorer.score(FIT, images).scores
    assert np.isfinite(scores).tolist() == [True, False, True]
    with pytest.raises(UserError, match="not finite"):
        evaluate(scorer, images, images)


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

    fitted = densities.fit("gde", embed(sorted((data / "train/good").iterdir())))
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
    prepared = pipeline.prepare(normal_split(images, images), detector.preparation)
    features = detector.scorer.embed(prepared)
    ones = np.ones([len(rows), 1], bool)
    expected = densities.cross_validated_scores("gde", features[:, None], ones)[:, 0]
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-4)


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
    plain = dataclasses.replace(config, keep_pretrained=False, maps="none")
    scorers = [make_scorer(plain, network) for network in networks]
    before, after = (one.embed(images) for one in scorers)
    assert np.abs(before - after).max() > 1e-3
    features = detector.scorer.embed(images)
    np.testing.assert_allclose(features, np.hstack([before, after]), rtol=1e-4, atol=1e-5)

    # What the run wrote is theirs; what it says of before the training is the one network's alone.
    found = detector.evaluate(images, maps=True)
    expected = [float(row["score"]) for row in read_scores(both)]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    results = json.loads((both / "results.json").read_text())
    labels = category.test.labels
    training = pipeline.prepare(category.train, 32)
    density = densities.fit("gde", scorers[0].embed(training))
    assert results["untrained_image_auroc"] == metrics.image_auroc(labels, density.score(before))

    # The graph that is exported gives the same.
    outputs = detector.model()(images.read(np.arange(len(labels))))
    np.testing.assert_allclose(outputs["score"], found.scores, rtol=1e-4)
    maps = found.maps.read(range(len(labels)))
    np.testing.assert_allclose(outputs["map"], maps, rtol=1e-3, atol=1e-4 * maps.max())

    # Refitted it scores by both too.
    refit.refit(both, tmp_path / "refitted", drop=["train/good/000.png"])
    fewer = evaluate(detector.scorer, training.subset(np.arange(1, 8)), images).test
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
OF_FEATURES = {"maps": "features", "map_levels": "conv2,conv3", "image_score": "map"}


def shaped(**changes):
    return Config(**(SETTINGS | {"image_size": SHAPE} | changes))


def photographs(count, size=(60, 90), first=0):
    return [
        pattern(np.random.default_rng(first + i), max(size))[: size[0], : size[1]]
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def staged():
    return small.staged_backbone(SHAPE)


def test_tiles_that_share_densities_are_images_of_which_the_largest_counts(staged):
    settings = shaped(**OF_FEATURES, location_density="shared")
    tiled = dataclasses.replace(settings, tiles=(1, 3))
    preparation, alone = Preparation.of(tiled), Preparation.of(settings)
    arrays, tests = photographs(24), photographs(5, first=100)
    scorer, single = make_scorer(tiled, staged), make_scorer(settings, staged)
    found = evaluate(scorer, prepared(arrays, preparation), prepared(tests, preparation), True)
    as_images = [
        prepared([tile for array in some for tile in preparation.apply(array)], alone)
        for some in (arrays, tests)
    ]
    one = evaluate(single, *as_images)
    for kind in ("pooled", "map"):
        expected = one.test.by_kind[kind].reshape(5, 3).max(axis=1)
        np.testing.assert_allclose(found.test.by_kind[kind], expected, rtol=1e-4)
    small_maps = one.test.maps.small[:, 0].reshape(found.test.maps.small.shape)
    np.testing.assert_allclose(found.test.maps.small, small_maps, rtol=1e-4)
    # Cross-validated, all tiles of an image are held out together.
    part = np.arange(5, 10)
    others = np.setdiff1d(np.arange(24), part)
    sets = [prepared([arrays[i] for i in some], preparation) for some in (others, part)]
    without = evaluate(make_scorer(tiled, staged), *sets).test
    for kind in ("pooled", "map"):
        validated = found.fit.normal.by_kind[kind][part]
        np.testing.assert_allclose(validated, without.by_kind[kind], rtol=1e-4)


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
        evaluation = evaluate(make_scorer(settings, staged), *sets, validate=True)
        test, normal = evaluation.test, evaluation.fit.normal
        read = test.maps.read(range(4))
        found.append([*test.by_kind.values(), *normal.by_kind.values(), read])
        for index, one in enumerate(read):
            region = sets[1].region(index)
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
    assert train.in_region.tolist() == [[True, True, True, False]] * 12
    scorer = make_scorer(settings, staged)
    found = evaluate(scorer, train, tests, validate=True)
    features = found.fit.features["pool"]
    fitted = densities.fit("gde", features[:, :3].reshape(36, -1))
    scores = fitted.score(found.test.features["pool"])
    expected = scores[:, :3].max(axis=1)
    np.testing.assert_allclose(found.test.by_kind["pooled"], expected, rtol=1e-5)
    # Of some it would have been the largest.
    assert (scores[:, 3] > expected).any()
    validated = found.fit.normal.scores
    assert validated.shape == (12,)
    assert np.isfinite(validated).all()
    if maps == "features":
        small_maps = found.test.maps.small
        assert not small_maps[:, 3].any()
        by_tile = np.asarray(layers.mean_of_largest(small_maps, feature_maps.LARGEST))
        np.testing.assert_allclose(found.test.by_kind["map"], by_tile.max(axis=1))
        # Places without any of the region are not fitted to either.
        assert ((found.fit.normal.maps.small > 0) == scorer.inside(train)).all()


def test_maps_of_images_of_several_sizes_are_zero_around_each(staged):
    settings = shaped(maps="gradcam", resize="pad", image_size=(64, 64))
    staged = small.staged_backbone((64, 64))
    train = prepared(photographs(12), Preparation.of(settings))
    fit = make_scorer(settings, staged).fit(train)
    sizes = [(60, 90), (90, 60), (40, 40), (20, 90)]
    detector = Detector(settings, staged, fit)
    arrays = [photographs(1, size)[0] for size in sizes]
    found = detector.evaluate(arrays, maps=True)
    for index, (size, one) in enumerate(zip(sizes, found.maps.read(range(4)), strict=True)):
        region = detector.preparation.region(*size)
        assert not one[~region].any()
        alone = detector.evaluate([arrays[index]], maps=True)
        np.testing.assert_allclose(alone.maps.read([0])[0], one, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(alone.scores, found.scores[index], rtol=1e-5)


def test_maps_of_tiles_are_put_together():
    preparation = Preparation((8, 8), tiles=(2, 3))
    small_maps = np.random.default_rng(0).random([2, 6, 4, 4]).astype(np.float32)
    images = pipeline.Images(2, preparation, None, None, np.array([[50, 60], [30, 20]]))
    enlarge = upsample.enlarger((8, 8), (Places(0.5, 2, 4),) * 2)
    maps = Maps(small_maps, None, enlarge, images)
    assert len(maps) == 2
    joined = preparation.join(np.asarray(enlarge(small_maps)))
    np.testing.assert_allclose(maps.read([0, 1]), joined, rtol=1e-6)
    np.testing.assert_allclose(maps.read([1])[0], joined[1], rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [{}, {"resize": "pad"}, {"tiles": (2, 2)}, {"tiles": (1, 2), "resize": "pad"}]
)
def test_a_level_map_stays_level_up_to_the_border_of_the_region(shape, staged):
    settings = shaped(**OF_FEATURES, **shape, roi="a.png")
    images = prepared(photographs(2), Preparation.of(settings, ROI))
    scorer = make_scorer(settings, staged)
    inside = scorer.inside(images)
    small_maps = np.where(inside, np.float32(20.0), np.float32(0.0))
    maps = Maps(small_maps, inside, scorer.enlarge(None), images)
    for index, one in enumerate(maps.read([0, 1])):
        np.testing.assert_allclose(one, np.where(images.region(index), 20.0, 0.0), rtol=1e-5)
