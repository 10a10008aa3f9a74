"""What a run has measured."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics
from conftest import SETTINGS, read_scores, write_image
from PIL import Image

from cutpaste_tf import run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.data.preparation import Preparation, mask_of_size
from cutpaste_tf.data.split import Category, Split, normal_split
from cutpaste_tf.files import UserError
from cutpaste_tf.run import results
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.detector import Detector, make_scorer
from cutpaste_tf.scoring.maps import Maps
from cutpaste_tf.scoring.scorer import evaluate
from cutpaste_tf.train import classifier


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


def test_a_patch_model_alone_is_not_measured_before_its_training(localized):
    run_dir, _, output = localized
    patches = Config.load(run_dir).patch_size > 0
    results = json.loads((run_dir / "results.json").read_text())
    for name in ("untrained_image_auroc", "untrained_pixel_auroc"):
        assert (results[name] is None) == patches
    assert ("(untrained" in output) != patches


def test_scores_are_those_of_the_results(finished):
    run_dir, _, _ = finished
    rows = read_scores(run_dir)
    assert list(rows[0]) == ["path", "label", "defect_type", "score"]
    assert [row["defect_type"] for row in rows] == ["good"] * 4 + ["hole"] * 4
    labels = np.array([int(row["label"]) for row in rows])
    auroc = metrics.image_auroc(labels, np.array([float(r["score"]) for r in rows]))
    assert auroc == json.loads((run_dir / "results.json").read_text())["image_auroc"]


def test_the_untrained_network_is_the_seeds_before_training(finished):
    run_dir, data, _ = finished
    config = Config.from_json((run_dir / "config.json").read_text())
    category = folder.load(data)
    images = [pipeline.prepare(split, 32) for split in (category.train, category.test)]
    backbone = classifier.build_classifier(config).backbone
    untrained = evaluate(make_scorer(config, backbone), *images).test
    auroc = metrics.image_auroc(category.test.labels, untrained.scores)
    results = json.loads((run_dir / "results.json").read_text())
    assert auroc == pytest.approx(results["untrained_image_auroc"])


def test_the_threshold_is_of_normal_images(finished):
    run_dir, _, output = finished
    results = json.loads((run_dir / "results.json").read_text())
    scores = run_folder.read_normal_scores(run_dir)
    assert results["threshold"] == scores.max()  # 8 images are too few for rates below one in nine
    assert (results["false_positive_rate"], results["num_normal_scores"]) == (0.05, 8)
    assert "8 normal training images, too few for rates below 11%" in output
    rows = read_scores(run_dir)
    values, labels = (np.array([float(row[name]) for row in rows]) for name in ("score", "label"))
    for name, label in (("test_false_positive_rate", 0), ("test_true_positive_rate", 1)):
        assert results[name] == np.mean(values[labels == label] > scores.max())
    # The same thresholds as `predict --false_positive_rate` takes, at the standard rates.
    assert [one["false_positive_rate"] for one in results["thresholds"]] == [0.01, 0.02, 0.05, 0.1]
    for one in results["thresholds"]:
        rate = one["false_positive_rate"]
        chosen = run_folder.choose_threshold(run_dir, false_positive_rate=rate)
        assert one["threshold"] == chosen.value
        assert one["test_true_positive_rate"] == np.mean(values[labels == 1] > chosen.value)
        assert one["test_false_positive_rate"] == np.mean(values[labels == 0] > chosen.value)


def test_a_run_with_maps_measures_them_by_pixel(localized):
    run_dir, data, output = localized
    results = json.loads((run_dir / "results.json").read_text())
    test = folder.load(data).test
    found = Detector.load(run_dir).evaluate(list(test.images))
    rows = read_scores(run_dir)
    np.testing.assert_allclose(found.scores, [float(r["score"]) for r in rows], rtol=1e-4)
    assert found.maps.read(range(len(test))).shape == (8, 64, 64)
    maps = np.stack(list(found.maps.at_own_sizes(range(len(test)))))
    masks = np.stack([mask_of_size(mask, maps.shape[1:]) for mask in test.masks])
    auroc = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert results["pixel_auroc"] == pytest.approx(auroc, abs=1e-3)
    # A patch model is not measured before its training.
    patches = Config.load(run_dir).patch_size
    for name in ("pixel_auroc", "pixel_ap", "pixel_aupro"):
        assert 0 <= results[name] < 1, name  # a map of 2x2 can have an AUPRO of 0
        assert (results[f"untrained_{name}"] is None) == bool(patches)
    before, after = ("trained ", "") if patches else ("", " (untrained ")
    assert f"pixel AUROC {before}{100 * results['pixel_auroc']:.1f}{after}" in output
    assert f"AUPRO {before}{100 * results['pixel_aupro']:.1f}{after}" in output
    assert (run_dir / "figures" / "localization.png").is_file()


def test_anomalous_images_without_a_mask_are_left_out_of_pixel_metrics(tmp_path):
    masks = [None, np.eye(4, dtype=bool), None]
    split = Split(["a", "b", "c"], [np.zeros([4, 4], np.uint8)] * 3, ["good", "x", "x"], masks)
    small = np.stack([np.zeros([4, 4]), np.eye(4), np.full([4, 4], -5.0)]).astype(np.float32)
    images = pipeline.Images(3, Preparation((4, 4)), None)
    maps = Maps(small[:, None], None, lambda part, _: part, images)
    assert results.pixel_metrics(maps, split)["pixel_auroc"] == 1.0
    assert set(results.pixel_metrics(None, split).values()) == {None}


SIZES = [(64, 128), (128, 64), (160, 160), (64, 192)]


def by_pillow(array, size, how=Image.Resampling.BILINEAR):
    return np.asarray(Image.fromarray(array).resize(size[::-1], how))


def brought_by_hand(preparation, one, size):
    """A canvas's map at an image's own size."""
    scale = [of / side for of, side in zip(preparation.canvas, size, strict=True)]
    if preparation.resize == "squash":
        return by_pillow(one, size)
    sides = [round(side * min(scale)) for side in size]
    top, left = ((of - side) // 2 for of, side in zip(preparation.canvas, sides, strict=True))
    return by_pillow(one[top : top + sides[0], left : left + sides[1]], size)


def plain_aupro(maps, masks, regions, limit=0.3):
    """The area by a point above and one at each score that an anomalous pixel has."""
    normal, parts = [], []
    for one, mask, region in zip(maps, masks, regions, strict=True):
        normal.append(one[region & ~mask])
        labels, count = scipy.ndimage.label(mask & region, np.ones([3, 3]))
        parts += [one[labels == number] for number in range(1, count + 1)]
    rates, heights, normal = [0.0], [0.0], np.concatenate(normal)
    for score in np.unique(np.concatenate(parts))[::-1]:
        rates += [np.mean(normal > score), np.mean(normal >= score)]
        heights += [heights[-1], np.mean([np.mean(part >= score) for part in parts])]
    grid = np.unique([*(r for r in rates if r < limit), *np.linspace(0.0, limit, 20001)])
    return np.trapezoid(np.interp(grid, [*rates, 1.0], [*heights, 1.0]), grid) / limit


@pytest.mark.parametrize("with_region", [False, True])
@pytest.mark.parametrize("tiles", [(1, 1), (2, 2)])
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_pixels_are_compared_at_the_images_own_sizes(resize, tiles, with_region, tmp_path):
    rng = np.random.default_rng(0)
    roi = rng.random([8, 8]) < 0.7 if with_region else None
    preparation = Preparation((32 // tiles[0], 32 // tiles[1]), resize, tiles, roi=roi)
    canvases = rng.random([4, *preparation.canvas]).astype(np.float32)
    small = preparation.cut(canvases)
    masks = [None, *(rng.random(size) < 0.003 for size in SIZES[1:])]
    for mask in masks[1:]:
        mask[20, 10:50] = True  # a line of one pixel
    given = list(masks)
    given[2] = str(write_image(tmp_path / "mask.png", masks[2].astype(np.uint8) * 255))
    given[3] = masks[3].repeat(2, axis=0)  # stretched over its image
    arrays = [np.zeros([*size, 3], np.uint8) for size in SIZES]
    split = Split([""] * 4, arrays, ["good", "x", "x", "x"], given)
    images = pipeline.prepare(split, preparation)
    found = results.pixel_metrics(Maps(small, None, lambda part, _: part, images), split)

    masks[0] = np.zeros(SIZES[0], bool)
    maps = [brought_by_hand(preparation, *x) for x in zip(canvases, SIZES, strict=True)]
    regions = [np.ones(size, bool) for size in SIZES]
    if with_region:
        nearest = Image.Resampling.NEAREST
        regions = [by_pillow(roi.astype(np.uint8), size, nearest) > 0 for size in SIZES]
    labels, scores = (
        np.concatenate([one[region] for one, region in zip(each, regions, strict=True)])
        for each in (masks, maps)
    )
    expected = {
        "pixel_auroc": sklearn.metrics.roc_auc_score(labels, scores),
        "pixel_ap": sklearn.metrics.average_precision_score(labels, scores),
        "pixel_aupro": plain_aupro(maps, masks, regions),
    }
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_a_defect_of_one_pixels_width_keeps_its_own_area(resize):
    mask = np.zeros([100, 300], bool)
    mask[7, 20:180] = True
    split = Split([""], [np.zeros([100, 300, 3], np.uint8)], ["x"], [mask])
    images = pipeline.prepare(split, Preparation((32, 32), resize))
    maps = Maps(np.ones([1, 1, 32, 32], np.float32), None, lambda part, _: part, images)
    # Where all scores are equal, average precision is the share of anomalous pixels.
    assert results.pixel_metrics(maps, split)["pixel_ap"] == pytest.approx(160 / 30000)


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("a", "normal training images: 1; at least 4"),
        ("abc", "normal training images: 3; at least 4"),
        ("abcabcab", "normal training images: 8, of which 3 are different; at least 4"),
        ("aaaaaaaa", "all 8 normal training images are the same image; at least 4"),
        ("abcd", None),
        ("aaaaabcd", None),
    ],
)
def test_four_different_images_at_least_are_trained_on(shown, told):
    colours = [np.full([9, 9, 3], ord(letter), np.uint8) for letter in shown]
    category = Category(normal_split(list(shown), colours), normal_split([], []))
    prepared = [pipeline.prepare(split, 32) for split in (category.train, category.test)]
    _, images = pipeline.without_copies(category, *prepared)
    in_region = prepared[0].in_region
    config = Config(dataset="textures", category="brick", image_size=32)
    if told is None:
        assert "4 normal training images are few" in results.check_images(config, images, in_region)
        no_threshold = dataclasses.replace(config, false_positive_rate=0.0)
        assert results.check_images(no_threshold, images, in_region) is None
        return
    with pytest.raises(UserError, match=f"--category=brick: {told}"):
        results.check_images(config, images, in_region)


def many(sizes, preparation):
    arrays = [np.full([*size, 3], 9 * i, np.uint8) for i, size in enumerate(sizes)]
    return pipeline.prepare(normal_split([""] * len(arrays), arrays), preparation)


def test_a_region_that_no_pixel_of_the_canvas_is_in_is_refused():
    config = Config(dataset="textures", category="brick", image_size=32, roi="r.png")
    roi = np.zeros([400, 400], bool)
    roi[3, 3] = True
    images = many([(40, 40)] * 5, Preparation((32, 32), roi=roi))
    with pytest.raises(UserError, match=r"--roi=r\.png: 5 of 5 normal training images show noth"):
        results.check_images(config, images, images.in_region)
    # Or of some.
    roi[:40] = True
    config = dataclasses.replace(config, resize="pad")
    images = many([(40, 40)] * 5 + [(2, 80)], Preparation((32, 32), "pad", roi=roi))
    with pytest.raises(UserError, match=r"--roi=r\.png: 1 of 6 .* with --resize=pad"):
        results.check_images(config, images, images.in_region)


def test_the_first_line_is_of_the_chosen_feature_and_another_has_all():
    measured = {
        "features": "level7",
        "image_auroc": 0.875,
        "image_ap": 0.5,
        "pixel_auroc": None,
        "pixel_aupro": None,
        "train_seconds": 12.3,
        "image_auroc_by_feature": {
            "pool": {"pretrained": 0.75, "finetuned": 0.8},
            "level7": {"pretrained": 0.85, "finetuned": 0.875},
        },
    }
    assert results.result_lines(measured) == [
        "image AUROC 87.5 (pretrained 85.0), AP 50.0, trained for 12 s",
        "image AUROC by feature: pool 80.0 (pretrained 75.0), level7 87.5 (pretrained 85.0)",
    ]
    untrained = {name: {"pretrained": 0.85} for name in ("pool", "level7")}
    assert results.result_lines(measured | {"image_auroc_by_feature": untrained}) == [
        "image AUROC pretrained 85.0, AP 50.0, trained for 12 s",
        "image AUROC by feature: pool pretrained 85.0, level7 pretrained 85.0",
    ]


def test_a_run_ends_with_its_thresholds_and_the_images_that_stand_out():
    def at_rate(rate):
        return Config(**SETTINGS, false_positive_rate=rate)

    normal_scores, labels = np.arange(100.0), np.array([0, 0, 1, 1, 1])
    scores = np.array([2.0, 95.5, 96.0, 98.5, 100.0])
    measured = results.threshold_results(at_rate(0.03), normal_scores, labels, scores)
    measured["odd_images"] = []
    assert list(results.verdict_lines(measured, "runs/a")) == [
        "thresholds by the scores of 100 normal training images:",
        "false-positive rate  threshold  normal test images above it  anomalous ones",
        "                 1%         99                           0%           33.3%",
        "                 2%         98                           0%           66.7%",
        "                 3%         97                           0%           66.7%  (this run's)",
        "                 5%         95                          50%            100%",
        "                10%         90                          50%            100%",
    ]
    measured = results.threshold_results(at_rate(0.1), normal_scores[:9], labels[:0], scores[:0])
    measured["odd_images"] = [f"{letter}.png" for letter in "abcdefg"]
    heading, columns, *rows, odd = results.verdict_lines(measured, "runs/a")
    assert "of 9 normal training images, too few for rates below 10%, without 7 that" in heading
    assert columns == "false-positive rate  threshold"
    assert rows[-1] == "                10%          8  (this run's)"
    assert "stand out: a.png, b.png, c.png, d.png, e.png and 2 more; if" in odd
    assert "refit --run=runs/a --drop=NAME" in odd
    # Without a rate there are no normal scores, and nothing to say.
    measured = results.threshold_results(at_rate(0.0), normal_scores[:0], labels, scores)
    assert measured["thresholds"] == list(results.verdict_lines(measured, "runs/a")) == []


def test_odd_images_are_named_the_worst_first():
    names = [f"train/good/{number:03d}.png" for number in range(12)]
    scores = np.array([3.0, 1.0, 2.0, 1.5, 99.0, 1.2, 2.2, 1.7, 2.6, 200.0, 1.9, 2.1])
    assert results.odd_images(normal_split(names, names), scores) == [names[9], names[4]]
    assert results.odd_images(normal_split(names, names), scores[:0]) == []
