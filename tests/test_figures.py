"""The paper's figures, drawn from runs."""

import shutil

import numpy as np
import pytest
from conftest import alter_run, write_image

from cutpaste_tf import figures, run_folder
from cutpaste_tf.augment import proxy
from cutpaste_tf.choices import TEST_ANOMALIES
from cutpaste_tf.data import download, folder, pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.draw import figures as drawn
from cutpaste_tf.run import paper_figures
from cutpaste_tf.scoring.detector import Detector

pytestmark = pytest.mark.usefixtures("load_once")


def images_of(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def rows_of(figure):
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_figures_go_where_they_are_asked_or_to_the_run(localized, tmp_path, capsys):
    run_dir = localized[0]
    flags = [f"--run={run_dir}", f"--run={run_dir}", f"--output={tmp_path}"]
    assert figures.main(["figures", "--figure=4", *flags]) == 0, capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure_4.pdf", "figure_4.png"]
    flags = ["--figure=2,4", f"--run={run_dir}", "--count=2"]
    assert figures.main(["figures", *flags]) == 0, capsys.readouterr().err
    for number in (2, 4):
        assert (run_dir / "figures" / f"figure_{number}.png").is_file()


def test_figure_2_shows_runs_below_each_other_and_pastes_alone(finished):
    run_dir, data, _ = finished
    figure = paper_figures.proxy_views([str(run_dir), str(run_dir)], 3)
    grid = np.reshape(figure.axes, [3, 6])
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["part", "", "part"]
    names = [axes.get_title()[4:] for axes in grid[0]]
    assert names == ["normal", "anomaly", "Cutout", "Scar", "CutPaste", "CutPaste-Scar"]
    test = folder.load(data).test
    anomalous = pipeline.prepare(test.subset(np.flatnonzero(test.labels)), 32).canvases(range(4))
    for row in np.reshape(images_of(figure), [3, 6, 32, 32, 3]):
        assert (row[1] == anomalous).all(axis=(1, 2, 3)).any()
        # Scar and CutPaste-Scar lie in the same place, and no other pixel is changed.
        cutout, scar, cutpaste, cutpaste_scar = ((row[0] != view).any(-1) for view in row[2:])
        assert all(0 < x.mean() < 0.6 for x in (cutout, scar, cutpaste, cutpaste_scar))
        assert not (cutpaste_scar & ~scar).any()
        assert not (cutpaste & ~cutout).any()


@pytest.fixture
def masked_run(finished, tmp_path):
    """A run of images that are not square, with a region of interest."""
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    roi = np.zeros([32, 32], np.uint8)
    roi[4:24, 2:20] = 255
    write_image(run_dir / run_folder.ROI, roi)
    alter_run(run_dir, image_size=[32, 48], roi="a.png", resize="pad")
    return str(run_dir), roi > 0


def test_figure_3_embeds_as_the_run_scores(finished, masked_run, monkeypatch):
    test = folder.load(finished[1]).test
    for run in (str(finished[0]), masked_run[0]):
        panels = {}
        monkeypatch.setattr(drawn, "embedding_maps", panels.update)
        paper_figures.embeddings([run], 200)
        ((title, kinds),) = panels.items()
        assert title.startswith("part, cutpaste")
        detector = Detector.load(run)
        scores = detector.score(list(test.images))
        for label, kind in enumerate(("normal", "anomaly")):
            by_embedding = np.sort(detector.fit.density.score(kinds[kind]))
            np.testing.assert_allclose(by_embedding, np.sort(scores[test.labels == label]), 1e-5)
        for kind in ("CutPaste", "CutPaste-Scar"):
            assert np.abs(kinds[kind] - kinds["normal"]).max(axis=1).min() > 0


def test_figures_5_and_6_have_a_row_for_each_kind(finished, monkeypatch):
    run = str(finished[0])
    figure = paper_figures.proxy_tasks([run], 3)
    views = [view.name for classes in proxy.TASKS.values() for view in classes]
    assert rows_of(figure) == list(dict.fromkeys(views))
    assert len(images_of(figure)) == 3 * len(rows_of(figure))
    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    figure = paper_figures.synthetic_anomalies([run], 3)
    assert rows_of(figure) == list(TEST_ANOMALIES)
    assert len(images_of(figure)) == 3 * 7


def test_mistakes_about_figures_are_one_line(finished, tmp_path, capsys):
    run_dir, _, _ = finished
    run = f"--run={run_dir}"
    for arguments, message in (
        ([run, "--figure=4"], "makes no anomaly maps"),
        ([run, "--figure=99"], "--figure=99: must be one of 2, 3, 4, 5, 6"),
        ([run, run, "--figure=5"], "figure 5 shows only one run"),
        ([run, run, "--figure=6"], "figure 6 shows only one run"),
        ([f"--run={tmp_path}", "--figure=5"], "config.json"),
        ([run, "--figure=4", "--count=0"], "--count=0"),
        (["--figure=4"], "--run"),
    ):
        assert figures.main(["figures", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("error: ")
        assert message in err


def test_figures_5_and_2_of_a_run_with_a_region_paste_inside(masked_run):
    run, roi = masked_run
    inside = Preparation((32, 48), "pad", roi=roi).region(40, 40)
    rows = np.reshape(images_of(paper_figures.proxy_tasks([run], 2)), [-1, 2, 32, 48, 3])
    assert len(rows) == len({c.name for t in proxy.TASKS.values() for c in t}) - 3  # no rotations
    grid = np.reshape(images_of(paper_figures.proxy_views([run], 2)), [2, 6, 32, 48, 3])
    pairs = [(row, rows[0]) for row in rows[1:]]
    pairs += [(row[2:], row[:1].repeat(4, axis=0)) for row in grid]
    for views, normal in pairs:
        changed = (views != normal).any(-1)
        assert changed.any(axis=(1, 2)).all()
        assert not changed[:, ~inside].any()
