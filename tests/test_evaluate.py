"""Embedding, scoring, results files and loading a run."""

import csv
import dataclasses
import json
import pathlib
import shutil

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.metrics
from conftest import pattern, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutpaste_tf import density as densities
from cutpaste_tf import ensemble, evaluate, train
from cutpaste_tf.config import Config
from cutpaste_tf.data import download, pipeline
from cutpaste_tf.data.split import normal
from cutpaste_tf.errors import UserError
from cutpaste_tf.localize import patch
from cutpaste_tf.models.resnet import resnet18


def read_scores(run_dir):
    with open(run_dir / "scores.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_embedding_is_the_backbone_in_inference_mode():
    backbone = resnet18(32, width=0.0625)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(70)]
    images = pipeline.prepare(normal([str(i) for i in range(70)], arrays), 32)
    before = [w.numpy() for w in backbone.weights]
    features = evaluate.Embedder(backbone)(images)["pool"]
    assert features.shape == (70, 32)  # more than one batch, the last smaller
    expected = backbone(np.stack(arrays).astype(np.float32) / 255.0, training=False)["pool"]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    for old, new in zip(before, backbone.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_the_density_sees_unaugmented_training_images_alone(finished):
    """Recomputes the run's scores from its weights and the files, step by step."""
    run_dir, data, _ = finished
    config = Config.from_json((run_dir / "config.json").read_text())
    model = train.build(config)
    train.load_weights(model, run_dir)

    def embed(paths):
        images = [pipeline.decode(path.read_bytes()) for path in paths]
        images = np.stack([pipeline.resize(image, 32).numpy() for image in images])
        return model.backbone(images.astype(np.float32) / 255.0, training=False)["pool"].numpy()

    fitted = evaluate.densities.make("gde").fit(embed(sorted((data / "train/good").iterdir())))
    rows = read_scores(run_dir)
    expected = fitted.score(embed([data / row["path"] for row in rows]))
    np.testing.assert_allclose([float(r["score"]) for r in rows], expected, rtol=1e-4)


def test_results_hold_what_was_promised(finished):
    run_dir, _, output = finished
    results = json.loads((run_dir / "results.json").read_text())
    promised = (
        "dataset category seed task backbone steps num_train num_test image_auroc image_ap "
        "pixel_auroc pixel_aupro untrained_image_auroc train_seconds images_per_second versions"
    )
    assert set(promised.split()) <= set(results)
    assert (results["dataset"], results["category"], results["seed"]) == ("folder", "part", 0)
    assert (results["num_train"], results["num_test"], results["steps"]) == (8, 8, 6)
    assert 0 <= results["image_auroc"] <= 1
    assert results["train_seconds"] > 0
    assert {"tensorflow", "keras", "scikit-learn", "python"} <= set(results["versions"])
    assert f"image AUROC {100 * results['image_auroc']:.1f}" in output
    assert f"untrained {100 * results['untrained_image_auroc']:.1f}" in output


def test_scores_are_those_of_the_results(finished):
    run_dir, _, _ = finished
    rows = read_scores(run_dir)
    assert list(rows[0]) == ["path", "label", "defect_type", "score"]
    assert [row["defect_type"] for row in rows] == ["good"] * 4 + ["hole"] * 4
    labels = np.array([int(row["label"]) for row in rows])
    auroc = evaluate.metrics.image_auroc(labels, np.array([float(r["score"]) for r in rows]))
    assert auroc == json.loads((run_dir / "results.json").read_text())["image_auroc"]


def test_the_untrained_network_is_the_seeds_before_training(finished):
    run_dir, data, _ = finished
    config = Config.from_json((run_dir / "config.json").read_text())
    category = evaluate_category(data)
    images = [pipeline.prepare(split, 32) for split in (category.train, category.test)]
    untrained = evaluate.Evaluator(config, train.build(config).backbone)(*images)["pool"]
    auroc = evaluate.metrics.image_auroc(category.test.labels, untrained.scores)
    results = json.loads((run_dir / "results.json").read_text())
    assert auroc == pytest.approx(results["untrained_image_auroc"])


def evaluate_category(data):
    from cutpaste_tf.data import folder

    return folder.load(data)


def test_figures_are_drawn_into_files_and_tensorboard(finished):
    from PIL import Image
    from tensorboard.backend.event_processing import event_accumulator

    run_dir, _, _ = finished
    names = {"augmentations", "most_and_least_anomalous", "roc", "score_histogram"}
    assert {p.stem for p in (run_dir / "figures").iterdir()} == names
    for name in names:
        with Image.open(run_dir / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors() or range(257)) > 10  # not blank
    reader = event_accumulator.EventAccumulator(str(run_dir / "tensorboard" / "evaluation"))
    reader.Reload()
    assert {f"figures/{name}" for name in names} <= set(reader.Tags()["tensors"])


def test_a_loaded_run_scores_files_and_arrays_as_the_run_did(finished):
    run_dir, data, _ = finished
    rows = read_scores(run_dir)
    detector = evaluate.Detector.load(run_dir)
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
        evaluate.Detector.load(run_dir).score([file])


def copy_run(run_dir, target, sums=True):
    """Copies a run; without its checksums, as older runs are, if that is asked for."""
    shutil.copytree(run_dir, target)
    if not sums:
        results = json.loads((target / "results.json").read_text())
        del results["sha256"], results["threshold"]
        (target / "results.json").write_text(json.dumps(results))
    return target


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
        evaluate.Detector.load(run_dir)


@pytest.mark.parametrize("name", [*FILES[2:], "normal_scores.csv"])
def test_a_byte_that_was_altered_is_found(finished, tmp_path, name):
    run_dir = copy_run(finished[0], tmp_path / "run")
    content = bytearray((run_dir / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run_dir / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: damaged or altered"):
        evaluate.Detector.load(run_dir)


@pytest.mark.parametrize("name", FILES[2:])
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
def test_no_altered_file_is_more_than_an_error_or_numbers(finished, tmp_path, name, data):
    """Without checksums, as an attacker who mends them has it: never any other exception."""
    run_dir = tmp_path / "run"
    if not run_dir.exists():
        copy_run(finished[0], run_dir, sums=False)
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
            model = resnet18(32, width=0.0625)
            train.load_part(model, run_dir / name)
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
        evaluate.Detector.load(run_dir)


def test_a_pickle_in_a_run_is_not_opened(finished, tmp_path):
    run_dir = copy_run(finished[0], tmp_path / "run", sums=False)

    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "sprung",))

    np.savez(run_dir / "density.npz", header=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match=r"density\.npz: not a readable density"):
        evaluate.Detector.load(run_dir)
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
        evaluate.Detector.load(run_dir)


def test_sums_that_no_run_writes_are_refused(finished, tmp_path):
    run_dir = copy_run(finished[0], tmp_path / "run")
    results = json.loads((run_dir / "results.json").read_text())
    for sums in (results["sha256"] | {"../../secret": "0"}, ["density.npz"], None):
        (run_dir / "results.json").write_text(json.dumps(results | {"sha256": sums}))
        with pytest.raises(UserError, match=r"results\.json"):
            evaluate.Detector.load(run_dir)
    del results["sha256"]  # a run of today has them
    (run_dir / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"results\.json: not readable"):
        evaluate.Detector.load(run_dir)


def test_settings_that_were_altered_are_found_and_where_data_lie_is_not(finished, tmp_path):
    run_dir = copy_run(finished[0], tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(
        json.dumps(config | {"data_dir": "/moved", "workdir": "w"})
    )
    evaluate.Detector.load(run_dir)
    (run_dir / "config.json").write_text(json.dumps(config | {"image_size": 64}))
    with pytest.raises(UserError, match=r"config\.json: altered"):
        evaluate.Detector.load(run_dir)
    for text in ("[" * 200_000, json.dumps(config | {"width": 10**400})):
        (run_dir / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            evaluate.Detector.load(run_dir)


def test_elpv_keeps_its_probability_as_a_column(tmp_path):
    split = normal(["a"], [np.zeros([4, 4], np.uint8)])
    import dataclasses

    split = dataclasses.replace(split, extra={"defect_probability": [0.3333]})
    evaluate.write_scores(tmp_path, split, np.array([1.5]))
    assert read_scores(tmp_path) == [
        {
            "path": "a",
            "label": "0",
            "defect_type": "good",
            "score": "1.5",
            "defect_probability": "0.3333",
        }
    ]


def test_normal_scores_are_of_the_training_images_without_themselves(finished):
    run_dir, folder, _ = finished
    with open(run_dir / "normal_scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted(path.name for path in (folder / "train" / "good").iterdir())
    assert [row["path"] for row in rows] == [f"train/good/{name}" for name in names]
    detector = evaluate.Detector.load(run_dir)
    images = [str(folder / row["path"]) for row in rows]
    features = evaluate.Embedder(detector._evaluator._backbone)(
        pipeline.prepare(normal(images, images), detector.config.image_size)
    )["pool"]
    expected = densities.cross_validated_scores("gde", features)
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-4)


def test_a_patch_models_normal_scores_are_of_images_left_out(localized):
    run_dir, data, _ = localized
    detector = evaluate.Detector.load(run_dir)
    if not detector.config.patch_size:
        pytest.skip("not a patch run")
    train_images = evaluate_category(data).train
    written = ensemble.read_normal_scores(run_dir)
    # For one part, a density of the others, from the embeddings of its patches.
    held_out = densities.held_out_parts(8)[1]
    others = [i for i in range(8) if i not in held_out]
    embedder = patch.PatchEmbedder(detector.backbone, 64, 32, 16)
    sets = [pipeline.prepare(train_images.subset(part), 64) for part in (others, held_out)]
    features, held = (next(embedder.embeddings(images, (0, 3))) for images in sets)
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    fitted = densities.make("gde").fit(flat)
    expected = fitted.score(held.reshape(-1, held.shape[-1])).reshape(len(held), -1).max(1)
    np.testing.assert_allclose(written[held_out], expected, rtol=1e-3)


def test_the_threshold_is_of_normal_images_and_the_f1_of_test_labels(finished):
    run_dir, _, output = finished
    results = json.loads((run_dir / "results.json").read_text())
    scores = ensemble.read_normal_scores(run_dir)
    assert results["threshold"] == scores.max()  # 8 images vouch for one in nine at best
    assert (results["false_positive_rate"], results["num_normal_scores"]) == (0.01, 8)
    assert "8 normal images vouch for 11% at best" in output
    rows = read_scores(run_dir)
    values, labels = (np.array([float(row[name]) for row in rows]) for name in ("score", "label"))
    for name, label in (("test_false_positive_rate", 0), ("test_true_positive_rate", 1)):
        assert results[name] == np.mean(values[labels == label] > scores.max())
    flagged = values > results["f1_max_threshold"]
    assert results["f1_max"] == pytest.approx(sklearn.metrics.f1_score(labels, flagged))
    assert results["f1_max_chosen_by"] == "test labels"


def test_json_is_whole_or_not_there(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(ValueError, match="JSON"):
        evaluate.write_json(path, {"image_auroc": float("nan")})
    assert not path.exists()


def test_device_names_the_cores_here():
    assert "CPU" in evaluate.device() or keras.backend.backend() == "tensorflow"


def test_a_run_with_maps_measures_them_by_pixel(localized):
    run_dir, data, output = localized
    results = json.loads((run_dir / "results.json").read_text())
    test = evaluate_category(data).test
    found = evaluate.Detector.load(run_dir).evaluate(list(test.images))
    rows = read_scores(run_dir)
    np.testing.assert_allclose(found.scores, [float(r["score"]) for r in rows], rtol=1e-4)
    maps = found.maps.read(range(len(test)))
    assert maps.shape == (8, 64, 64)
    masks = np.stack([pipeline.read_mask(mask, 64) for mask in test.masks])
    auroc = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert results["pixel_auroc"] == pytest.approx(auroc, abs=1e-3)
    for name in ("pixel_auroc", "pixel_ap", "pixel_aupro"):
        for prefix in ("", "untrained_"):
            assert 0 < results[prefix + name] < 1, name
    assert f"pixel AUROC {100 * results['pixel_auroc']:.1f} (untrained " in output
    assert f"AUPRO {100 * results['pixel_aupro']:.1f} (untrained " in output
    assert (run_dir / "figures" / "localization.png").is_file()


def test_a_patch_runs_image_score_is_its_largest_patchs(localized):
    run_dir, data, _ = localized
    config = Config.from_json((run_dir / "config.json").read_text())
    if not config.patch_size:
        pytest.skip("not a patch run")
    found = evaluate.Detector.load(run_dir).evaluate(list(evaluate_category(data).test.images))
    assert found.maps.small.shape == (8, 3, 3)
    np.testing.assert_allclose(found.scores, found.maps.small.max((1, 2)), rtol=1e-6)


def test_anomalous_images_without_a_mask_are_left_out_of_pixel_metrics(tmp_path):
    masks = [None, np.eye(4, dtype=bool), None]
    split = dataclasses.replace(
        normal(["a", "b", "c"], [np.zeros([4, 4], np.uint8)] * 3),
        labels=np.array([0, 1, 1]),
        defect_types=["good", "x", "x"],
        masks=masks,
    )
    small = np.stack([np.zeros([4, 4]), np.eye(4), np.full([4, 4], -5.0)]).astype(np.float32)
    maps = evaluate.Maps(small, lambda part: part)
    assert evaluate.pixel_metrics(maps, split, 4)["pixel_auroc"] == 1.0
    assert set(evaluate.pixel_metrics(None, split, 4).values()) == {None}


def test_figure_4_shows_runs_side_by_side(localized, tmp_path, capsys):
    from cutpaste_tf import figures

    run_dir, _, _ = localized
    status = figures.main(
        ["figures", "--figure=4", f"--run={run_dir}", f"--run={run_dir}", f"--output={tmp_path}"]
    )
    assert status == 0, capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure_4.pdf", "figure_4.png"]


def test_figures_go_to_the_run_and_its_tensorboard(localized, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from cutpaste_tf import figures

    run_dir, _, _ = localized
    if not Config.from_json((run_dir / "config.json").read_text()).patch_size:
        pytest.skip("one is enough")
    arguments = ["figures", "--figure=2,3,4,5,6", f"--run={run_dir}", "--count=2"]
    assert figures.main(arguments) == 0, capsys.readouterr().err
    shown = set()
    for events in (run_dir / "tensorboard" / "figures").glob("events*"):
        shown |= set(EventAccumulator(str(events)).Reload().Tags()["tensors"])
    for number in range(2, 7):
        assert (run_dir / "figures" / f"figure_{number}.png").is_file()
        assert f"figures/figure_{number}" in shown


def test_figure_2_shows_runs_below_each_other_and_pastes_alone(finished):
    from cutpaste_tf import figures

    run_dir, data, _ = finished
    figure = figures.proxy_views([str(run_dir), str(run_dir)], 3)
    grid = np.reshape(figure.axes, [3, 6])
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["part", "", "part"]
    names = [axes.get_title()[4:] for axes in grid[0]]
    assert names == ["normal", "anomaly", "Cutout", "Scar", "CutPaste", "CutPaste-Scar"]
    shown = [[np.asarray(axes.images[0].get_array()) for axes in row] for row in grid]
    category = evaluate_category(data)
    kinds = (category.train, category.test.subset(np.flatnonzero(category.test.labels)))
    normal, anomalous = (
        [image.tobytes() for image in pipeline.prepare(kind, 32).stored.numpy()] for kind in kinds
    )
    for row in shown:
        assert row[0].tobytes() in normal
        assert row[1].tobytes() in anomalous
        # Scar and CutPaste-Scar lie in the same place, and no other pixel is changed.
        changed = [(row[0] != view).any(-1) for view in row[2:]]
        assert all(0 < mask.mean() < 0.6 for mask in changed)
        assert not (changed[3] & ~changed[1]).any()
        assert not (changed[2] & ~changed[0]).any()
    plt.close(figure)


def test_figure_3_embeds_as_the_run_scores(finished, monkeypatch):
    from cutpaste_tf import figures
    from cutpaste_tf.report import figures as drawn

    run_dir, data, _ = finished
    panels = {}
    monkeypatch.setattr(drawn, "embedding_maps", panels.update)
    figures.embeddings([str(run_dir)], 200)
    ((title, kinds),) = panels.items()
    assert title.startswith("part, cutpaste")
    test = evaluate_category(data).test
    labels = test.labels
    assert {kind: len(found) for kind, found in kinds.items()} == {
        "normal": int((labels == 0).sum()),
        "anomaly": int(labels.sum()),
        "CutPaste": int((labels == 0).sum()),
        "CutPaste-Scar": int((labels == 0).sum()),
    }
    detector = evaluate.Detector.load(run_dir)
    scores = detector.score(list(test.images))
    for label, kind in enumerate(("normal", "anomaly")):
        found = detector.density.score(kinds[kind])
        np.testing.assert_allclose(np.sort(found), np.sort(scores[labels == label]), rtol=1e-5)
    assert np.abs(kinds["CutPaste"] - kinds["normal"]).max(axis=1).min() > 0


def test_the_projector_has_all_images_of_a_run(finished, localized):
    for run_dir, parts in ((finished[0], {"test", "train"}), (localized[0], None)):
        folder = run_dir / "tensorboard" / "evaluation"
        assert (folder / "projector_config.pbtxt").is_file()
        lines = (folder / "embeddings_images.tsv").read_text().splitlines()
        rows = [dict(zip(lines[0].split("\t"), x.split("\t"), strict=True)) for x in lines[1:]]
        points = np.loadtxt(folder / "embeddings.tsv", delimiter="\t")
        assert len(points) == len(rows)
        assert parts is None or {row["split"] for row in rows} == parts
        scored = {}
        for name in ("scores.csv", "normal_scores.csv"):
            with open(run_dir / name, encoding="utf-8") as file:
                scored |= {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
        for row in rows:
            assert float(row["score"]) == pytest.approx(scored[row["path"]], rel=1e-5)
            assert (row["label"] == "anomalous") == (row["type"] == "hole")
        if parts:
            assert len(rows) == len(scored)
            test = points[: len(rows) - sum(row["split"] == "train" for row in rows)]
            found = evaluate.Detector.load(run_dir).density.score(test)
            expected = [float(row["score"]) for row in rows[: len(test)]]
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_figure_5_has_a_row_for_each_kind_of_view(finished):
    from cutpaste_tf import figures
    from cutpaste_tf.augment import proxy

    run_dir, _, _ = finished
    figure = figures.proxy_tasks([str(run_dir)], 3)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == list(dict.fromkeys(c.name for classes in proxy.TASKS.values() for c in classes))
    assert len(figure.axes) == 3 * len(names)
    plt.close(figure)


def test_figure_6_has_a_row_for_each_kind_of_anomaly(finished, monkeypatch):
    from cutpaste_tf import figures
    from cutpaste_tf.config import TEST_ANOMALIES

    monkeypatch.setattr(download, "reachable", lambda server: False)
    figure = figures.synthetic_anomalies([str(finished[0])], 3)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == list(TEST_ANOMALIES)
    assert len(figure.axes) == 3 * 7
    plt.close(figure)


def test_synthetic_anomalies_are_scored_beside_the_normal_test_images(localized):
    run_dir, data, _ = localized
    detector = evaluate.Detector.load(run_dir)
    test = evaluate_category(data).test
    images = pipeline.prepare(test, 64)
    made, digits = evaluate.synthetic_sets(["square", "heart_natural"], test, images, 0)
    assert digits is None
    assert list(made) == ["square", "heart_natural"]
    found = detector.evaluate(images)
    results = evaluate.on_synthetic_sets(detector._evaluator, found, test, made)
    normals = np.flatnonzero(test.labels == 0)
    for kind, (auroc, pixel_auroc) in results.items():
        alone = detector.evaluate(list(made[kind].images.stored.numpy()))
        scores = np.concatenate([found.scores[normals], alone.scores])
        labels = np.repeat([0, 1], len(normals))
        assert auroc == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
        maps = np.concatenate([found.maps.read(normals), alone.maps.read(range(len(normals)))])
        masks = np.stack(made[kind].split.masks)
        truth = np.concatenate([np.zeros_like(masks), masks])
        expected = sklearn.metrics.roc_auc_score(truth.ravel(), maps.ravel())
        assert pixel_auroc == pytest.approx(expected, abs=1e-3)


def test_figure_5_needs_room_for_scars(finished, tmp_path):
    from cutpaste_tf import figures

    run_dir = copy_run(finished[0], tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    config |= {"task": "cutout", "patch_size": 16, "dense_patch": 16}
    (run_dir / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="16 pixels are too small"):
        figures.proxy_tasks([str(run_dir)], 2)


def test_mistakes_about_figures_are_one_line(finished, tmp_path, capsys):
    from cutpaste_tf import figures

    run_dir, _, _ = finished
    for arguments, message in (
        ([f"--run={run_dir}", "--figure=4"], "makes no anomaly maps"),
        ([f"--run={run_dir}", "--figure=99"], "--figure=99: must be one of 2, 3, 4, 5, 6"),
        ([f"--run={run_dir}", f"--run={run_dir}", "--figure=5"], "figure 5 is of one run"),
        ([f"--run={run_dir}", f"--run={run_dir}", "--figure=6"], "figure 6 is of one run"),
        ([f"--run={tmp_path}", "--figure=5"], "config.json"),
        ([f"--run={tmp_path}", "--figure=4"], "is "),
        ([f"--run={run_dir}", "--figure=4", "--count=0"], "--count=0"),
        ([f"--run={run_dir}", "--figure=4", "--count=x"], "--count"),
        (["--figure=4"], "--run"),
    ):
        assert figures.main(["figures", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
