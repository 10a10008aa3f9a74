"""The paper's tables: which runs fill which cells, and what is said of them."""

import numpy as np
import pytest
from filled import add_run
from scipy import stats

from cutpaste_tf.choices import CIFAR10_CLASSES, TEST_ANOMALIES
from cutpaste_tf.files import UserError
from cutpaste_tf.report import paper, tables


def fill(number, root):
    runs, problems = tables.collect(str(root))
    assert not problems
    return tables.build(number, runs)


def cell(table, row, column, source="ours"):
    cells = table.cells
    place = (cells["row"] == row) & (cells["column"] == column) & (cells["source"] == source)
    (found,) = cells[place].itertuples()
    return found


def means(table, row):
    """Our numbers of a row, rounded, by column; without what is missing."""
    cells = table.cells
    ours = cells[(cells["row"] == row) & (cells["source"] == "ours")].dropna(subset=["mean"])
    return {one.column: round(one.mean) for one in ours.itertuples()}


PRINTED = [  # what to find where, read from the paper's text
    ("1", "grid", "Rotation", 60.5, 7.0),
    ("1", "average, all", "Ensemble", 96.1, None),
    ("2", "average, object", "P-SVDD", 96.7, None),
    ("2", "average, all", "GradCAM", 88.3, None),
    ("3", "pill", "Level-7: Finetune", 93.3, 0.2),
    ("4", "average, all", "Confetti", 77.8, 1.5),
    ("5", "average, texture", "Binary (Union)", 97.3, 0.3),
    ("6", "average, all", "CutPaste (3-way): Square (natural)", 99.3, None),
    ("7", "average, object", "Number of epochs: 384", 94.0, 0.6),
    ("8", "average, texture", "Jitter intensity: 0.3", 97.5, 0.2),
    ("8", "average, texture", "Size of patch: 0.3", 96.6, 0.4),
    ("cifar10", "average, own data", "CutPaste", 69.4, None),
]


def test_the_papers_numbers_stand_in_their_places_and_without_runs_all_of_ours_is_missing():
    filled = {number: tables.build(number, []) for number in paper.TABLES}
    for number, row, column, mean, stderr in PRINTED:
        found = cell(filled[number], row, column, "paper")
        assert (found.mean, None if np.isnan(found.stderr) else found.stderr) == (mean, stderr)
    rows = filled["cifar10"].cells["row"].unique()
    assert list(rows) == [*CIFAR10_CLASSES, "average, own data"]
    for table in filled.values():
        ours = table.cells[table.cells["source"] == "ours"]
        assert len(ours)
        assert ours["mean"].isna().all()
        assert not table.notes


def test_mean_and_standard_error_over_seeds_and_averages_of_these(tmp_path):
    values = {"carpet": [0.8, 0.9, 0.85, 0.7, 0.95], "wood": [0.6, 0.8], "screw": [0.5, 0.5]}
    for category, by_seed in values.items():
        for seed, value in enumerate(by_seed):
            add_run(tmp_path, category, seed, value, task="cutpaste")
    table = fill("5", tmp_path)
    carpet = cell(table, "carpet", "CutPaste")
    assert carpet.mean == pytest.approx(100 * np.mean(values["carpet"]))
    assert carpet.stderr == pytest.approx(100 * stats.sem(values["carpet"]))
    assert (carpet.runs, carpet.notes) == (5, ())
    assert means(table, "carpet") == {"CutPaste": 84}
    assert not means(table, "tile")
    texture = cell(table, "average, texture", "CutPaste")
    assert texture.mean == pytest.approx(77)
    errors = [stats.sem(values[category]) for category in ("carpet", "wood")]
    assert texture.stderr == pytest.approx(100 * np.mean(errors))
    assert texture.notes == ("average of 2 of 5 categories",)
    everything = cell(table, "average, all", "CutPaste")
    assert everything.mean == pytest.approx((84 + 70 + 50) / 3)
    assert everything.notes == ("average of 3 of 15 categories",)
    # The paper's Table 5 has averages alone, of all categories.
    assert np.isnan(cell(table, "average, all", "CutPaste", "paper").mean)


def test_own_data_have_rows_of_their_own_and_an_average(tmp_path):
    for name, seed, value in (("a", 0, 0.6), ("b", 1, 0.9)):
        add_run(tmp_path / name, "bolt", seed, value, task="cutout", data_dir=f"/{name}")
    add_run(tmp_path / "m", "screw", 0, 0.3, task="cutout")
    add_run(tmp_path / "o", "screw", 0, 0.8, task="cutout", dataset="folder", data_dir="/own")
    add_run(tmp_path / "o", "nut", 0, 0.5, task="cutout", data_dir="/own")
    table = fill("1", tmp_path)
    expected = {"bolt (/a)": 60, "bolt (/b)": 90, "nut": 50, "screw (/own)": 80}
    expected |= {"average, own data": 70}
    assert list(table.cells["row"].unique()[-5:]) == list(expected)
    expected |= {"screw": 30, "average, object": 30, "average, all": 30}
    assert {row: means(table, row)["Cutout"] for row in expected} == expected
    assert cell(table, "screw", "Cutout", "paper").mean == 17.6
    add_run(tmp_path / "m", "pill", 0, 0.5, task="cutout")
    partial = cell(fill("1", tmp_path), "average, all", "Cutout", "paper")
    pill = cell(table, "pill", "Cutout", "paper").mean
    assert partial.mean == pytest.approx((17.6 + pill) / 2)
    assert partial.notes == ("average of 2 of 15 categories",)
    # The columns of others' methods have the same categories.
    others = [cell(table, name, "DOCC", "paper").mean for name in ("pill", "screw")]
    average = cell(fill("1", tmp_path), "average, object", "DOCC", "paper").mean
    assert average == pytest.approx(np.mean(others))
    assert cell(fill("1", tmp_path), "average, texture", "Cutout", "paper").mean == 64.9
    for row in ("screw (/own)", "average, own data"):
        assert np.isnan(cell(table, row, "Cutout", "paper").mean)
    assert any("dataset folder (the paper's mvtec_ad)" in note for note in table.notes)
    assert fill("2", tmp_path).cells["row"].unique()[-1] == "average, all"


def seeds(count, **run):
    return [run | {"seed": seed} for seed in range(count)]


HALF = seeds(2, auroc=0.7, steps=32768)
OTHERS = seeds(2, auroc=0.6, steps=800, image_size=64) + seeds(2, auroc=0.5, steps=6554)
DEAD = {"accuracy": 0.5, "chance": 0.5, "flag": "learning_rate", "learning_rate": 0.1}
SAID = [  # a column's runs, its mean, and what is said of them
    (
        OTHERS + HALF,
        70,
        "steps 32768 (the paper's 65536); 4 runs with other settings are not shown; "
        "2 seeds (the paper's 5)",
    ),
    (OTHERS + HALF + seeds(5, auroc=0.8), 80, ""),
    (
        seeds(5, translation=0.04, head_dims=(8, 4), steps=9),
        50,
        "steps 9 (the paper's 65536); head_dims 8,4 (the flag file's 512,128); "
        "translation 0.04 (the flag file's 0.0)",
    ),
    # One seed counts once, and how it was computed does not matter.
    ([{"seed": 0}, {"seed": 0, "distribution": "mirrored"}], 50, "1 seed (the paper's 5)"),
    (
        [*seeds(4), {"seed": 4, "results": {"collapse": DEAD}}],
        50,
        "1 of 5 runs ended with a proxy accuracy at chance: lower --learning_rate=0.1",
    ),
]


@pytest.mark.parametrize(("runs", "mean", "notes"), SAID)
def test_the_runs_nearest_to_the_papers_are_shown_with_notes(tmp_path, runs, mean, notes):
    for place, run in enumerate(runs):
        add_run(tmp_path / str(place), "tile", **{"auroc": 0.5, "task": "cutout"} | run)
    ours = cell(fill("1", tmp_path), "tile", "Cutout")
    assert (ours.mean, "; ".join(ours.notes)) == (pytest.approx(mean), notes)
    assert np.isnan(ours.stderr) == (ours.runs == 1)


def test_the_ensemble_is_of_all_seeds_of_3_way(tmp_path):
    scores = np.random.default_rng(0).uniform(1, 5, size=(3, 6)) * [[1], [10], [100]]
    normal = np.random.default_rng(1).uniform(1, 5, size=(3, 8)) * [[1], [10], [100]]
    for category, seeds in (("zipper", 3), ("tile", 2), ("wood", 2), ("screw", 1)):
        for seed in range(seeds):
            run = add_run(tmp_path, category, seed, 0.7, scores[seed], normal[seed])
        if category == "tile":
            (run / "scores.csv").unlink()
        if category == "wood":
            (run / "normal_scores.csv").write_text("path,score\n")
    runs, problems = tables.collect(str(tmp_path))
    table = tables.build("1", runs, problems)
    ours = cell(table, "zipper", "Ensemble")
    halves = zip(0.5 * scores**2, 0.5 * normal**2, strict=True)
    total = np.sum([(s - n.mean()) / n.std(ddof=1) for s, n in halves], axis=0)
    wins = np.mean([total[j] > total[i] for i in (0, 1) for j in (2, 3, 4, 5)])
    assert ours.mean == pytest.approx(100 * wins)
    assert np.isnan(ours.stderr)
    assert ours.notes == ("3 seeds (the paper's 5)",)
    # What keeps runs from an ensemble is told, and the rest is shown; one seed is no ensemble.
    for category in ("tile", "wood", "screw"):
        assert means(table, category) == {"CutPaste (3-way)": 70}
    assert len(problems) == 2
    assert all("no ensemble" in text and str(tmp_path) in text for text in problems)


FEATURES = {"pool": {"before": 0.9, "after": 0.95}, "level7": {"before": 0.8, "after": 0.85}}
UNTRAINED = {name: {"before": both["before"]} for name, both in FEATURES.items()}
KINDS = dict(zip(TEST_ANOMALIES, (0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3), strict=True))
B4 = {"backbone": "efficientnet_b4", "weights": "imagenet"}
CIFAR10 = {"dataset": "cifar10", "image_size": 32, "stem": "small", "data_dir": ""}
PATCHES = {"patch_size": 64, "stem": "small"}


def by_feature(aurocs):
    return {"results": {"image_auroc_by_feature": aurocs}}


ABLATIONS = [
    {},
    {"auroc": 0.6, "learning_rate": 0.1},
    {"auroc": 0.7, "steps": 128 * 256},
    {"auroc": 0.8, "jitter": 0.3},
    {"auroc": 0.9, "area_ratio": (0.02, 0.3)},
]
_ = None
BELONGS = [  # a table, one category's runs, and what our columns show of them
    (
        "1",
        [
            PATCHES | {"results": {"pixel_auroc": 0.9}},
            {"weights": "x.weights.h5"},
            {"backbone": "efficientnet_b0"},
            {"task": "cutout", "auroc": None},
        ],
        [_] * 7,
    ),
    ("1", ABLATIONS, [_, _, _, _, _, 50, _]),
    (
        "2",
        [
            PATCHES | {"auroc": 0.7, "results": {"pixel_auroc": 0.9, "pixel_aupro": 0.8}},
            {"auroc": 0.6, "maps": "gradcam", "results": {"pixel_auroc": 0.5}},
        ],
        [90, 80, 50, 70, 60],
    ),
    ("2", [PATCHES], [_, _, _, 50, _]),
    ("3", [paper.FINETUNED | {"features": "level7"} | by_feature(FEATURES)], [90, 95, 80, 85]),
    ("3", [B4 | {"steps": 0} | by_feature(UNTRAINED)], [90, _, 80, _]),
    ("3", [by_feature(FEATURES)], [_, _, _, _]),  # of a ResNet
    (
        "6",
        [
            {"task": "cutout", "results": {"image_auroc_by_test_anomalies": KINDS}},
            {"results": {"image_auroc_by_test_anomalies": {"square": 0.9}}},
        ],
        [50, 90, 80, 70, 60, 50, 30, 61, _, 90, _, _, _, _, _, _],
    ),
    ("7", ABLATIONS, [60, 50, _, _, 70, _, 50, _, _]),
    ("8", ABLATIONS, [_, 50, _, 80, _, 50, _, 90]),
    ("cifar10", [CIFAR10 | {"task": "rotation"}, {"task": "cutout"}], [50, _, _]),
]


@pytest.mark.parametrize(("number", "runs", "expected"), BELONGS)
def test_runs_stand_where_they_belong_by_their_settings(tmp_path, number, runs, expected):
    row = "ship" if number == "cifar10" else "tile"
    for place, run in enumerate(runs):
        add_run(tmp_path / str(place), row, 0, **{"auroc": 0.5} | run)
    cells = fill(number, tmp_path).cells
    ours = cells[(cells["row"] == row) & (cells["source"] == "ours")]
    assert [None if np.isnan(mean) else round(mean) for mean in ours["mean"]] == expected
    for one in ours.dropna(subset=["mean"]).itertuples():
        # Pretrained features are the same for every seed; the paper prints no error either.
        assert one.notes == (() if "Pretrain" in one.column else ("1 seed (the paper's 5)",))


def test_a_table_of_another_density(tmp_path):
    for seed in range(2):
        measured = {"image_auroc_by_density": {"gde": 0.9, "gmm": 0.6 + 0.1 * seed}}
        options = {"density": "gde,gmm", "results": measured}
        add_run(tmp_path, "tile", seed, 0.9, np.arange(6), np.arange(8), **options)
    # Scores of feature maps have no place there, whatever image_auroc was measured by.
    options = {"density": "gde,kde", "maps": "features", "image_score": "map"}
    measured = {"image_auroc_by_density": {"gde": 0.8, "kde": 0.7}}
    add_run(tmp_path, "wood", 0, 0.95, results=measured, **options)
    runs, _ = tables.collect(str(tmp_path))
    table = tables.build("1", tables.of_density(runs, "gmm"))
    assert means(table, "tile") == {"CutPaste (3-way)": 65}  # The ensemble's scores are of gde.
    assert "density gmm (the flag file's gde)" in cell(table, "tile", "CutPaste (3-way)").notes[0]
    table = tables.build("1", tables.of_density(runs, "gde"))
    assert set(means(table, "tile")) == {"CutPaste (3-way)", "Ensemble"}
    assert means(table, "wood") == {"CutPaste (3-way)": 80}
    with pytest.raises(UserError, match="--density=flow: no run was measured"):
        tables.of_density(runs, "flow")


def test_unreadable_runs_are_told_and_left_out(tmp_path):
    good = add_run(tmp_path, "tile", 0, 0.6, task="cutout")
    config, results = (good / "config.json").read_text(), '{"image_auroc": 1}'
    damaged = [("{}", "{"), ("not JSON", results), ('{"unknown": 1}', results), (config, "{")]
    for name, texts in enumerate(damaged):
        (tmp_path / str(name)).mkdir()
        for file, text in zip(("config.json", "results.json"), texts, strict=True):
            (tmp_path / str(name) / file).write_text(text)
    (tmp_path / "0" / "config.json").unlink()
    runs, problems = tables.collect(str(tmp_path))
    assert [run.path for run in runs] == [good]
    assert len(problems) == len(damaged)
    assert all(str(tmp_path) in problem and "\n" not in problem for problem in problems)
    with pytest.raises(UserError, match="no such folder"):
        tables.collect(str(tmp_path / "none"))
