"""The paper's tables: which runs fill which cells, and what is said of them."""

import csv
import dataclasses
import io
import json
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from cutpaste_tf.choices import CIFAR10_CLASSES, MVTEC_OBJECTS, MVTEC_TEXTURES, TEST_ANOMALIES
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.report import __main__ as command
from cutpaste_tf.report import columns, formats, page, plots, tables

SHARED_TABLES = ROOT.parent / "shared" / "paper" / "tables.json"


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def add_run(root, category, seed, auroc, scores=None, normal=None, **settings):
    """Writes what a finished run leaves, as far as tables need it; returns its folder."""
    dataset = "mvtec_ad" if category in MVTEC_TEXTURES + MVTEC_OBJECTS else "folder"
    results = settings.pop("results", {})
    config = Config(
        **{"dataset": dataset, "data_dir": "x", "workdir": str(root)}
        | columns.FLAGFILES
        | settings,
        category=category,
        seed=seed,
    )
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.json").write_text(config.to_json())
    content = {"image_auroc": auroc, "pixel_auroc": None, "pixel_aupro": None} | results
    (config.run_dir / "results.json").write_text(json.dumps(content))
    if scores is not None:
        lines = [f"{i}.png,{int(i > 1)},x,{s}" for i, s in enumerate(scores)]
        text = "\n".join(["path,label,defect_type,score", *lines])
        (config.run_dir / "scores.csv").write_text(text)
        lines = [f"{i}.png,{s}" for i, s in enumerate(normal)]
        (config.run_dir / "normal_scores.csv").write_text("\n".join(["path,score", *lines]))
    return config.run_dir


def fill(number, root):
    runs, problems = tables.collect(str(root))
    assert not problems
    return tables.build(number, runs)


def cell(table, row, column, group=""):
    (found,) = [r for r in table.rows if r.name == row]
    (place,) = [
        i
        for i, c in enumerate(table.columns)
        if c.name == column and c.group in (group, c.group) and (not group or c.group == group)
    ]
    return found.ours[place], found.paper[place]


# The paper's numbers.


@pytest.mark.skipif(not SHARED_TABLES.is_file(), reason="the paper's tables are not beside this")
def test_the_papers_numbers_are_those_handed_over():
    assert columns.paper() == json.loads(SHARED_TABLES.read_text(encoding="utf-8"))


PRINTED = {  # what to find where, read from the paper's text
    ("1", "grid", "Rotation"): "60.5 ± 7.0",
    ("1", "average, texture", "CutPaste (scar)"): "95.7 ± 0.8",
    ("1", "average, all", "CutPaste (3-way)"): "95.2 ± 0.6",
    ("1", "average, all", "Ensemble"): "96.1",
    ("1", "screw", "DOCC"): "86.9",
    ("2", "tile", "CutPaste (3-way)"): "90.5 ± 0.2",
    ("2", "average, object", "P-SVDD"): "96.7",
    ("2", "average, all", "GradCAM"): "88.3",
    ("4", "average, all", "Confetti"): "77.8 ± 1.5",
    ("5", "average, texture", "Binary (Union)"): "97.3 ± 0.3",
    ("7", "average, object", "384"): "94.0 ± 0.6",
    ("7", "average, all", "0.003"): "94.6 ± 0.6",
    ("8", "average, texture", "0.3"): None,  # two columns: jitter and size
}


@pytest.mark.parametrize("key", PRINTED, ids=" ".join)
def test_the_papers_numbers_stand_in_their_places(key):
    number, row, column = key
    if PRINTED[key] is None:
        values = [
            cell(tables.build("8", []), row, column, g)[1]
            for g in ("Jitter intensity", "Size of patch")
        ]
        assert list(map(str, values)) == ["97.5 ± 0.2", "96.6 ± 0.4"]
        return
    assert str(cell(tables.build(number, []), row, column)[1]) == PRINTED[key]


def test_table3_has_four_columns_of_the_paper():
    table = tables.build("3", [])
    printed = [
        str(cell(table, "pill", n, g)[1])
        for g in ("Pool", "Level-7")
        for n in ("Pretrain", "Finetune")
    ]
    assert printed == ["81.9", "91.3 ± 0.2", "91.0", "93.3 ± 0.2"]


def test_without_runs_all_of_ours_is_missing():
    for number in tables.NUMBERS:
        table = tables.build(number, [])
        own = [i for i, column in enumerate(table.columns) if column.settings is not None]
        assert own
        for row in table.rows:
            assert all(row.ours[i] is None for i in own)
        rows = list(csv.DictReader(io.StringIO(formats.comma_separated(table))))
        assert {r["mean"] for r in rows if r["source"] == "ours"} == {""}


# Ours.


def test_mean_and_standard_error_over_seeds(tmp_path):
    found = [0.91, 0.93, 0.97, 0.92, 0.95]
    for seed, value in enumerate(found):
        add_run(tmp_path, "grid", seed, value, task="scar")
    table = fill("1", tmp_path)
    ours, paper = cell(table, "grid", "Scar")
    assert ours.mean == pytest.approx(100 * np.mean(found))
    assert ours.stderr == pytest.approx(100 * stats.sem(found))
    assert (ours.runs, ours.remarks) == (5, ())
    assert len(ours.paths) == 5
    assert str(paper) == "74.4 ± 2.5"
    assert cell(table, "grid", "Cutout")[0] is None
    assert cell(table, "carpet", "Scar")[0] is None
    assert cell(table, "grid", "DOCC")[0] is None


def test_averages_are_of_means_and_of_errors_and_say_what_they_lack(tmp_path):
    values = {"carpet": [0.8, 0.9], "wood": [0.6, 0.8], "screw": [0.5, 0.5]}
    for category, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            add_run(tmp_path, category, seed, value, task="cutpaste")
    table = fill("5", tmp_path)
    texture, _ = cell(table, "average, texture", "CutPaste")
    assert texture.mean == pytest.approx(77.5)
    assert texture.stderr == pytest.approx(
        100 * np.mean([stats.sem(values[c]) for c in ("carpet", "wood")])
    )
    assert "average of 2 of 5 categories" in texture.notes
    everything, _ = cell(table, "average, all", "CutPaste")
    assert everything.mean == pytest.approx((85 + 70 + 50) / 3)
    assert "average of 3 of 15 categories" in everything.notes


def test_own_categories_have_rows_and_an_average_of_their_own(tmp_path):
    add_run(tmp_path, "bolt", 0, 0.7, task="rotation", batch_size=16)
    add_run(tmp_path, "nut", 0, 0.9, task="rotation", batch_size=16)
    table = fill("1", tmp_path)
    assert [row.name for row in table.rows[-3:]] == ["bolt", "nut", "average, own data"]
    ours, paper = cell(table, "average, own data", "Rotation")
    assert ours.mean == pytest.approx(80.0)
    assert paper is None
    assert cell(table, "average, all", "Rotation")[0] is None
    assert any("dataset folder (the paper's mvtec_ad)" in note for note in table.notes)
    assert "1 seed (the paper's 5)" in table.notes
    assert [row.name for row in fill("2", tmp_path).rows][-1] == "average, all"


def test_other_settings_are_noted_and_the_nearest_to_the_papers_are_shown(tmp_path):
    for seed in (0, 1):
        add_run(tmp_path / "short", "tile", seed, 0.6, task="cutout", steps=800, image_size=64)
        add_run(tmp_path / "half", "tile", seed, 0.7, task="cutout", steps=32768)
    table = fill("1", tmp_path)
    ours, _ = cell(table, "tile", "Cutout")
    assert ours.mean == pytest.approx(70.0)
    assert ours.remarks == (
        "steps 32768 (the paper's 65536)",
        "2 runs with other settings are not shown",
        "2 seeds (the paper's 5)",
    )
    for seed in range(5):
        add_run(tmp_path / "whole", "tile", seed, 0.8, task="cutout")
    ours, _ = cell(fill("1", tmp_path), "tile", "Cutout")
    assert ours.mean == pytest.approx(80.0)
    assert ours.remarks == ()


def test_of_equally_many_differences_the_steps_nearest_to_the_papers_count(tmp_path):
    add_run(tmp_path / "a", "tile", 0, 0.5, task="cutout", steps=10)
    add_run(tmp_path / "a", "tile", 1, 0.5, task="cutout", steps=10)
    add_run(tmp_path / "b", "tile", 0, 0.9, task="cutout", steps=60000)
    ours, _ = cell(fill("1", tmp_path), "tile", "Cutout")
    assert ours.mean == pytest.approx(90.0)
    assert ours.settings == "steps 60000 (the paper's 65536)"


def test_what_the_paper_does_not_give_is_not_called_the_papers(tmp_path):
    add_run(tmp_path, "tile", 0, 0.5, task="cutout", translation=0.0, head_dims=(8, 4), steps=9)
    ours, _ = cell(fill("1", tmp_path), "tile", "Cutout")
    assert set(ours.settings.split("; ")) == {
        "head_dims 8,4 (here usually 512,128)",
        "translation 0.0 (here usually 0.125)",
        "steps 9 (the paper's 65536)",
    }


def test_data_sets_with_the_same_category_have_rows_of_their_own(tmp_path):
    for name, seed, value in (("a", 0, 0.6), ("b", 1, 0.9)):
        add_run(tmp_path / name, "bolt", seed, value, task="cutout", data_dir=f"/{name}")
    add_run(tmp_path / "m", "screw", 0, 0.3, task="cutout")
    add_run(tmp_path / "o", "screw", 0, 0.8, task="cutout", dataset="folder", data_dir="/own")
    table = fill("1", tmp_path)
    found = {row.name: cell(table, row.name, "Cutout") for row in table.rows}
    expected = {"bolt (/a)": 60, "bolt (/b)": 90, "screw": 30, "screw (/own)": 80}
    assert {name: round(found[name][0].mean) for name in expected} == expected
    assert str(found["screw"][1]) == "17.6 ± 4.4"
    assert found["screw (/own)"][1] is None
    assert round(found["average, object"][0].mean) == 30
    assert round(found["average, own data"][0].mean) == round((60 + 90 + 80) / 3)


def test_one_seed_counts_once_and_how_it_was_computed_does_not_matter(tmp_path):
    add_run(tmp_path / "a", "tile", 0, 0.6, task="cutout")
    add_run(tmp_path / "b", "tile", 0, 0.6, task="cutout", distribution="mirrored", eval_every=1)
    ours, _ = cell(fill("1", tmp_path), "tile", "Cutout")
    assert ours.runs == 1
    assert ours.stderr is None
    assert str(ours) == "60.0"


def test_an_unmeasured_run_is_missing_and_not_zero(tmp_path):
    add_run(tmp_path, "tile", 0, None, task="cutout")
    table = fill("1", tmp_path)
    assert cell(table, "tile", "Cutout")[0] is None
    rows = csv.DictReader(io.StringIO(formats.comma_separated(table)))
    (ours,) = [
        r for r in rows if (r["row"], r["column"], r["source"]) == ("tile", "Cutout", "ours")
    ]
    assert (ours["mean"], ours["runs"], ours["notes"]) == ("", "0", "missing")


def test_patch_and_pretrained_runs_do_not_count_as_table_1s(tmp_path):
    add_run(tmp_path / "a", "tile", 0, 0.6, patch_size=64, results={"pixel_auroc": 0.9})
    add_run(tmp_path / "b", "tile", 0, 0.6, weights="x.weights.h5")
    add_run(tmp_path / "c", "tile", 0, 0.6, backbone="efficientnet_b0")
    assert cell(fill("1", tmp_path), "tile", "CutPaste (3-way)")[0] is None


def test_the_ensemble_is_of_all_seeds_of_3_way(tmp_path):
    scores = np.random.default_rng(0).uniform(1, 5, size=(3, 6))
    normal = np.random.default_rng(1).uniform(1, 5, size=(3, 8)) * [[1], [10], [100]]
    scores *= [[1], [10], [100]]
    for seed in range(3):
        add_run(tmp_path, "zipper", seed, 0.7, scores[seed], normal[seed])
    ours, _ = cell(fill("1", tmp_path), "zipper", "Ensemble")
    halves = zip(0.5 * scores**2, 0.5 * normal**2, strict=True)
    standard = [(s - n.mean()) / n.std(ddof=1) for s, n in halves]
    total = np.sum(standard, axis=0)
    wins = np.mean([total[j] > total[i] for i in (0, 1) for j in (2, 3, 4, 5)])
    assert ours.mean == pytest.approx(100 * wins)
    assert ours.stderr is None
    assert ours.remarks == ("3 seeds (the paper's 5)",)


@pytest.mark.parametrize("damage", ["other images", "no normal scores", "no scores"])
def test_what_keeps_runs_from_an_ensemble_is_told_and_the_rest_is_shown(tmp_path, damage):
    paths = [add_run(tmp_path, "zipper", s, 0.7, np.arange(6), np.arange(8)) for s in (0, 1)]
    if damage == "other images":
        text = (paths[1] / "scores.csv").read_text().replace("0.png", "9.png")
        (paths[1] / "scores.csv").write_text(text)
    else:
        (paths[1] / ("normal_scores.csv" if "normal" in damage else "scores.csv")).unlink()
    runs, problems = tables.collect(str(tmp_path))
    table = tables.build("1", runs, problems)
    assert cell(table, "zipper", "Ensemble")[0] is None
    assert cell(table, "zipper", "CutPaste (3-way)")[0].mean == pytest.approx(70)
    assert len(problems) == 1
    assert "no ensemble" in problems[0]
    assert str(tmp_path) in problems[0]


def test_one_seed_is_no_ensemble(tmp_path):
    add_run(tmp_path, "zipper", 0, 0.7, np.arange(6), np.arange(8))
    table = fill("1", tmp_path)
    assert cell(table, "zipper", "Ensemble")[0] is None
    assert cell(table, "zipper", "CutPaste (3-way)")[0].mean == pytest.approx(70)


def test_table_2_shows_pixels_and_both_models_image_scores(tmp_path):
    pixels = {"pixel_auroc": 0.9, "pixel_aupro": 0.8}
    add_run(tmp_path / "p", "tile", 0, 0.7, patch_size=64, stem="small", results=pixels)
    add_run(tmp_path / "g", "tile", 0, 0.6, maps="gradcam", results={"pixel_auroc": 0.5})
    table = fill("2", tmp_path)
    found = {c.name: v for c, v in zip(table.columns, table.rows[3].ours, strict=True) if v}
    assert table.rows[3].name == "tile"
    assert {name: round(value.mean) for name, value in found.items()} == {
        "CutPaste (3-way)": 90,
        "AUPRO": 80,
        "GradCAM": 50,
        "image AUROC, patches": 70,
        "image AUROC, image-level": 60,
    }
    assert all(value.remarks == ("1 seed (the paper's 5)",) for value in found.values())


def test_results_that_lack_what_a_column_shows_are_missing_there(tmp_path):
    run_dir = add_run(tmp_path, "tile", 0, 0.7, patch_size=64, stem="small")
    (run_dir / "results.json").write_text('{"image_auroc": 0.7}')
    table = fill("2", tmp_path)
    assert cell(table, "tile", "CutPaste (3-way)")[0] is None
    assert round(cell(table, "tile", "image AUROC, patches")[0].mean) == 70


def test_table_3_reads_both_features_before_and_after(tmp_path):
    by_feature = {
        "pool": {"pretrained": 0.9, "finetuned": 0.95},
        "level7": {"pretrained": 0.8, "finetuned": 0.85},
    }
    add_run(
        tmp_path,
        "pill",
        0,
        0.85,
        features="level7",
        results={"image_auroc_by_feature": by_feature},
        **columns.FINETUNED,
    )
    before = {n: {"pretrained": v["pretrained"]} for n, v in by_feature.items()}
    add_run(
        tmp_path / "p",
        "screw",
        0,
        0.9,
        backbone="efficientnet_b4",
        weights="imagenet",
        steps=0,
        results={"image_auroc_by_feature": before},
    )
    add_run(tmp_path / "r", "wood", 0, 0.9)  # a ResNet
    table = fill("3", tmp_path)
    one = ("1 seed (the paper's 5)",)
    for row, expected in (("pill", [90, 95, 80, 85]), ("screw", [90, None, 80, None])):
        values = [
            cell(table, row, n, g)[0] for g in ("Pool", "Level-7") for n in ("Pretrain", "Finetune")
        ]
        assert [v and round(v.mean) for v in values] == expected
        # Pretrained features are the same for every seed; the paper prints no error either.
        assert [v and v.remarks for v in values] == [(), one if row == "pill" else None] * 2
    assert cell(table, "wood", "Finetune", "Pool")[0] is None


def test_tables_7_and_8_tell_values_apart_and_share_the_default(tmp_path):
    add_run(tmp_path / "a", "tile", 0, 0.5)
    add_run(tmp_path / "b", "tile", 0, 0.6, learning_rate=0.1)
    add_run(tmp_path / "c", "tile", 0, 0.7, steps=128 * 256)
    add_run(tmp_path / "d", "tile", 0, 0.8, jitter=0.3)
    add_run(tmp_path / "e", "tile", 0, 0.9, area_ratio=(0.02, 0.3))

    def values(number, group):
        table = fill(number, tmp_path)
        row = next(r for r in table.rows if r.name == "tile")
        pairs = zip(table.columns, row.ours, strict=True)
        return {c.name: round(v.mean) for c, v in pairs if c.group == group and v}

    assert values("7", "Learning rate") == {"0.1": 60, "0.03": 50}
    assert values("7", "Number of epochs") == {"128": 70, "256": 50}
    assert values("8", "Jitter intensity") == {"0.1": 50, "0.3": 80}
    assert values("8", "Size of patch") == {"0.15": 50, "0.3": 90}
    # Table 1's own column shows the run with its settings.
    assert round(cell(fill("1", tmp_path), "tile", "CutPaste (3-way)")[0].mean) == 50


def test_unreadable_runs_are_told_and_left_out(tmp_path):
    good = add_run(tmp_path, "tile", 0, 0.6, task="cutout")
    good_config = (good / "config.json").read_text()
    for name, config, results in (
        ("a", "{}", "{"),
        ("b", "not JSON", '{"image_auroc": 1}'),
        ("c", '{"unknown": 1}', '{"image_auroc": 1}'),
        ("d", good_config, "{"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "results.json").write_text(results)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "results.json").write_text("{}")
    runs, problems = tables.collect(str(tmp_path))
    assert [run.path for run in runs] == [good]
    assert len(problems) == 5
    assert all(str(tmp_path) in problem and "\n" not in problem for problem in problems)


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        tables.collect(str(tmp_path / "none"))


# Formats.


@pytest.fixture
def filled(tmp_path):
    for seed, value in enumerate((0.91, 0.93)):
        add_run(tmp_path, "metal_nut", seed, value, task="scar", steps=800)
    add_run(tmp_path, "a&b|c#d", 0, 0.75, task="scar")
    return fill("1", tmp_path)


def test_text_fits_the_width_and_repeats_the_rows(filled):
    text = formats.text(filled, 80)
    lines = text.splitlines()
    table_lines = lines[: lines.index(next(line for line in lines if line.startswith("AUC")))]
    assert max(map(len, table_lines)) <= 80
    assert text.count("metal_nut") > 1
    assert re.search(r"92\.0 ± 1\.0 \[[\d,]+\] +86\.9 ± 1\.5", text)
    assert "steps 800 (the paper's 65536)" in text
    wide = formats.text(filled, 1000)
    assert wide.count("metal_nut") == 1


def test_markdown_has_a_cell_for_every_column(filled):
    lines = [line for line in formats.markdown(filled).splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(bars) == 1
    assert any(line.startswith(r"| a&b\|c#d |") for line in lines)
    assert any(line.startswith(r"| metal\_nut |") and "92.0 ± 1.0" in line for line in lines)


def test_csv_has_exact_numbers(filled):
    rows = list(csv.DictReader(io.StringIO(formats.comma_separated(filled))))
    (ours,) = [
        r for r in rows if (r["row"], r["column"], r["source"]) == ("metal_nut", "Scar", "ours")
    ]
    assert float(ours["mean"]) == pytest.approx(92.0)
    assert float(ours["stderr"]) == pytest.approx(1.0)
    assert ours["runs"] == "2"
    (paper,) = [
        r for r in rows if (r["row"], r["column"], r["source"]) == ("metal_nut", "Scar", "paper")
    ]
    assert (paper["mean"], paper["stderr"], paper["runs"]) == ("86.9", "1.5", "")
    missing = [r for r in rows if r["notes"] == "missing"]
    assert missing
    assert all(r["mean"] == "" and r["source"] == "ours" for r in missing)


def test_latex_escapes_and_closes(filled):
    text = formats.latex(filled)
    assert r"metal\_nut" in text
    assert r"a\&b" in text
    assert text.count(r"\begin") == text.count(r"\end")
    # A bracket after a line break would be its argument.
    assert not re.search(r"\\\\\s*\[", text)
    assert "[1] steps 800" in text
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    body = [line for line in text.splitlines() if line.endswith(r"\\") and " & " in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(columns) - 1}


class Page:
    def __init__(self, text):
        start = text.index("<body>")
        body = re.sub(r"<(img|meta)([^>]*)>", r"<\1\2/>", text[start : text.index("</html>")])
        self.tree = ElementTree.fromstring(body)

    def cells(self, table, row):
        for tr in table.iter("tr"):
            head = tr.find("th[@scope='row']")
            if head is not None and head.text == row:
                yield ["".join(td.itertext()) for td in tr.findall("td")]


def test_the_page_is_whole_and_needs_nothing_else(filled, tmp_path):
    runs, _ = tables.collect(str(tmp_path))
    built = [tables.build(number, runs) for number in tables.NUMBERS]
    text = page.build(built, runs, ["<odd> folder"], tmp_path)
    found = Page(text)
    sources = [img.get("src") for img in found.tree.iter("img")]
    assert len(sources) == 1  # Table 1 has runs
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert "&lt;odd&gt; folder" in text
    assert len(list(found.tree.iter("table"))) == len(tables.NUMBERS)
    for table in found.tree.iter("table"):
        heads = table.find("thead").findall("tr")
        across = sum(int(th.get("colspan", 1)) for th in heads[0].findall("th"))
        assert across - 1 == len(heads[1].findall("th"))
        assert {len(tr.findall("td")) for tr in table.find("tbody").findall("tr")} == {across - 1}
    links = [a.get("href") for a in found.tree.iter("a") if "#" not in a.get("href")]
    assert len(links) == 3
    assert all((tmp_path / urllib.parse.unquote(link)).is_dir() for link in links)
    (cells,) = list(found.cells(next(found.tree.iter("table")), "metal_nut"))
    place = cells.index("92.0 ± 1.01,2")  # with the marks of its notes
    assert cells[place + 1] == "86.9 ± 1.5"
    assert cells[place - 2 : place] == ["missing", "84.6 ± 0.7"]


def test_the_plot_shows_averages_of_ours_and_the_paper(filled):
    figure = plots.against_paper(filled)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [
        "the paper, all 15 categories",
        "ours, MVTec AD (1 of 15 categories)",
        "ours, own data (1 category)",
    ]
    by_label = dict(zip(labels, axes.containers, strict=True))
    assert by_label[labels[1]][0].get_ydata().tolist() == pytest.approx([92.0])
    assert by_label[labels[2]][0].get_ydata().tolist() == pytest.approx([75.0])
    assert by_label["the paper, all 15 categories"][0].get_ydata().tolist()[-1] == 96.1
    assert plots.against_paper(tables.build("1", [])) is None


# The command.


def report(*arguments):
    return command.main(["report", *map(str, arguments)])


def test_command_prints_and_writes(filled, tmp_path, capsys):
    assert report(f"--workdir={tmp_path}", "--table=1") == 0
    assert "Table 1." in capsys.readouterr().out
    assert report(f"--workdir={tmp_path}", "--table=1,5", "--format=csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["table"] for row in rows} == {"1", "5"}
    for form in formats.FORMATS:
        output = tmp_path / "new" / f"{form}.out"
        assert (
            report(f"--workdir={tmp_path}", "--table=all", f"--format={form}", f"--output={output}")
            == 0
        )
        assert "Scar" in output.read_text(encoding="utf-8")
    assert report(f"--workdir={tmp_path}", "--table=all") == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table=1"], "--workdir"),
        (["--table=9", "--workdir=."], "--table=9: must be all or one of 1, 2"),
        (["--table=1", "--workdir=/nowhere/at/all"], "/nowhere/at/all"),
        (["--table=1", "--workdir=.", "--format=pdf"], "--format=pdf"),
        (["--table=1", "--workdir=WORK", "--output=/proc/no/file"], "--output=/proc/no/file"),
        (["--table=1", "--workdir=WORK", "--output="], "must name a file"),
        (["--table=1", "--workdir=WORK", "--output=WORK"], "must name a file"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, tmp_path, capsys):
    assert report(*(a.replace("WORK", str(tmp_path)) for a in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.out == ""
    assert not list(tmp_path.parent.glob("*.tmp"))


def test_settings_of_a_column_are_ones_that_config_knows():
    names = {field.name for field in dataclasses.fields(Config)}
    for number in tables.NUMBERS:
        for column in tables.build(number, []).columns:
            assert set(column.settings or {}) <= names
            assert set(column.chosen) <= names
            assert (column.compared or set()) <= names


def test_table_6_is_of_the_synthetic_anomalies_and_their_average(tmp_path):
    kinds = [0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3]
    found = dict(zip(TEST_ANOMALIES, kinds, strict=True))
    for category, seed, auroc in (("tile", 0, 0.5), ("tile", 1, 0.7)):
        results = {"image_auroc_by_test_anomalies": found | {"mnist": auroc}}
        add_run(tmp_path, category, seed, 0.1, task="cutout", results=results)
    some = {"image_auroc_by_test_anomalies": {"square": 0.9}}
    add_run(tmp_path / "3way", "tile", 0, 0.2, results=some)
    table = fill("6", tmp_path)
    ours, _ = cell(table, "tile", "MNIST", "Cutout")
    assert (ours.mean, ours.runs) == (pytest.approx(60.0), 2)
    ours, _ = cell(table, "tile", "Heart (natural)", "Cutout")
    assert ours.mean == pytest.approx(30.0)
    ours, _ = cell(table, "tile", "Avg", "Cutout")
    assert ours.mean == pytest.approx(100 * (sum(kinds) + 0.1) / 7)
    assert cell(table, "tile", "Square", "CutPaste (3-way)")[0].mean == pytest.approx(90.0)
    for missing in ("MNIST", "Avg"):
        assert cell(table, "tile", missing, "CutPaste (3-way)")[0] is None
    assert cell(table, "average, all", "Avg", "Cutout")[1].mean == 81.5
    assert cell(table, "average, all", "Square (natural)", "CutPaste (3-way)")[1].mean == 99.3


def test_cifar10_has_a_row_for_each_class_and_no_others(tmp_path):
    for number, name in enumerate(("cat", "ship")):
        add_run(
            tmp_path, name, 0, 0.5 + 0.2 * number, dataset="cifar10", task="rotation",
            image_size=32, stem="small", batch_size=16, data_dir="",
        )  # fmt: skip
    add_run(tmp_path, "bolt", 0, 0.9, task="rotation")
    table = fill("cifar10", tmp_path)
    assert [row.name for row in table.rows] == [*CIFAR10_CLASSES, "average, own data"]
    assert cell(table, "ship", "Rotation")[0].mean == pytest.approx(70.0)
    assert cell(table, "dog", "Rotation")[0] is None
    ours, papers = cell(table, "average, own data", "Rotation")
    assert (ours.mean, papers.mean) == (pytest.approx(60.0), 91.3)
    assert not ours.settings
    assert cell(table, "average, own data", "CutPaste")[1].mean == 69.4


def test_a_collapsed_training_is_told_in_its_cell(tmp_path):
    dead = {"since": 512, "accuracy": 0.5, "chance": 0.5, "flag": "learning_rate"}
    for seed in range(3):
        lost = {"collapse": dead | {"learning_rate": 0.1} if seed == 1 else None}
        add_run(tmp_path, "tile", seed, 0.5, task="cutout", learning_rate=0.1, results=lost)
    ours, _ = cell(fill("1", tmp_path), "tile", "Cutout")
    expected = "1 of 3 runs ended with a proxy accuracy at chance: lower --learning_rate=0.1"
    assert expected in ours.remarks


def test_a_table_of_another_density(tmp_path):
    for seed in range(2):
        measured = {"image_auroc_by_density": {"gde": 0.9, "gmm": 0.6 + 0.1 * seed}}
        add_run(
            tmp_path, "tile", seed, 0.9, np.arange(6), np.arange(8),
            density="gde,gmm", results=measured,
        )  # fmt: skip
    runs, _ = tables.collect(str(tmp_path))
    table = tables.build("1", tables.of_density(runs, "gmm"))
    ours, _ = cell(table, "tile", "CutPaste (3-way)")
    assert ours.mean == pytest.approx(65)
    assert "density gmm (here usually gde)" in ours.settings
    assert cell(table, "tile", "Ensemble")[0] is None  # its scores are of gde
    assert cell(tables.build("1", tables.of_density(runs, "gde")), "tile", "Ensemble")[0]
    with pytest.raises(UserError, match="--density=kde: no run there"):
        tables.of_density(runs, "kde")


def test_a_density_is_measured_by_its_own_scores_alone(tmp_path):
    """Scores of feature maps have no place there, whatever image_auroc is of."""
    measured = {"image_auroc_by_density": {"gde": 0.8, "kde": 0.7}}
    add_run(
        tmp_path, "tile", 0, 0.95, np.arange(6), np.arange(8),
        density="gde,kde", maps="features", image_score="map", results=measured,
    )  # fmt: skip
    runs, _ = tables.collect(str(tmp_path))
    found = {
        kind: tables.of_density(runs, kind)[0].results["image_auroc"] for kind in ("gde", "kde")
    }
    assert found == {"gde": 0.8, "kde": 0.7}
