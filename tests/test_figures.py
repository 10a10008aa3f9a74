"""The paper's figures, drawn from runs."""

import shutil

import numpy as np
import pytest
from conftest import alter_run, write_image

from cutpaste_tf import figures, run_folder
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import download, folder, pipeline
from cutpaste_tf.data.preparation import FILL, Preparation
from cutpaste_tf.scoring.detector import Detector

pytestmark = pytest.mark.usefixtures("load_once")


def test_figure_4_shows_runs_side_by_side(localized, tmp_path, capsys):
    run_dir, _, _ = localized
    status = figures.main(
        ["figures", "--figure=4", f"--run={run_dir}", f"--run={run_dir}", f"--output={tmp_path}"]
    )
    assert status == 0, capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure_4.pdf", "figure_4.png"]


def test_figures_go_to_the_run(localized, capsys):
    run_dir, _, _ = localized
    if not Config.from_json((run_dir / "config.json").read_text()).patch_size:
        pytest.skip("one is enough")
    arguments = ["figures", "--figure=2,3,4,5,6", f"--run={run_dir}", "--count=2"]
    assert figures.main(arguments) == 0, capsys.readouterr().err
    for number in range(2, 7):
        assert (run_dir / "figures" / f"figure_{number}.png").is_file()


def test_figure_2_shows_runs_below_each_other_and_pastes_alone(finished):
    run_dir, data, _ = finished
    figure = figures.proxy_views([str(run_dir), str(run_dir)], 3)
    grid = np.reshape(figure.axes, [3, 6])
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["part", "", "part"]
    names = [axes.get_title()[4:] for axes in grid[0]]
    assert names == ["normal", "anomaly", "Cutout", "Scar", "CutPaste", "CutPaste-Scar"]
    shown = [[np.asarray(axes.images[0].get_array()) for axes in row] for row in grid]
    category = folder.load(data)
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


def test_figure_3_embeds_as_the_run_scores(finished, monkeypatch):
    from cutpaste_tf.draw import figures as drawn

    run_dir, data, _ = finished
    panels = {}
    monkeypatch.setattr(drawn, "embedding_maps", panels.update)
    figures.embeddings([str(run_dir)], 200)
    ((title, kinds),) = panels.items()
    assert title.startswith("part, cutpaste")
    test = folder.load(data).test
    labels = test.labels
    assert {kind: len(found) for kind, found in kinds.items()} == {
        "normal": int((labels == 0).sum()),
        "anomaly": int(labels.sum()),
        "CutPaste": int((labels == 0).sum()),
        "CutPaste-Scar": int((labels == 0).sum()),
    }
    detector = Detector.load(run_dir)
    scores = detector.score(list(test.images))
    for label, kind in enumerate(("normal", "anomaly")):
        found = detector.density.score(kinds[kind])
        np.testing.assert_allclose(np.sort(found), np.sort(scores[labels == label]), rtol=1e-5)
    assert np.abs(kinds["CutPaste"] - kinds["normal"]).max(axis=1).min() > 0


def test_figure_5_has_a_row_for_each_kind_of_view(finished):
    from cutpaste_tf.augment import proxy

    run_dir, _, _ = finished
    figure = figures.proxy_tasks([str(run_dir)], 3)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == list(dict.fromkeys(c.name for classes in proxy.TASKS.values() for c in classes))
    assert len(figure.axes) == 3 * len(names)


def test_figure_6_has_a_row_for_each_kind_of_anomaly(finished, monkeypatch):
    from cutpaste_tf.choices import TEST_ANOMALIES

    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    figure = figures.synthetic_anomalies([str(finished[0])], 3)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == list(TEST_ANOMALIES)
    assert len(figure.axes) == 3 * 7


def test_mistakes_about_figures_are_one_line(finished, tmp_path, capsys):
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


@pytest.fixture
def masked_run(finished, tmp_path):
    """A run of images that are not square, with a region of interest."""
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    alter_run(run_dir, image_size=[32, 48], roi="a.png", resize="pad")
    roi = np.zeros([32, 32], np.uint8)
    roi[4:24, 2:20] = 255
    write_image(run_dir / run_folder.ROI, roi)
    return str(run_dir), roi > 0


def pictures_of(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_figures_5_and_2_of_a_run_with_a_region_paste_inside(masked_run):
    run, roi = masked_run
    inside = Preparation((32, 48), "pad", roi=roi).region(40, 40)
    figure = figures.proxy_tasks([run], 2)
    rows = np.reshape(pictures_of(figure), [-1, 2, 32, 48, 3])
    assert len(rows) == len({c.name for t in proxy.TASKS.values() for c in t}) - 3  # no rotations
    for row in rows[1:]:
        changed = (row != rows[0]).any(-1)
        assert changed.any(axis=(1, 2)).all()
        assert not changed[:, ~inside].any()
    figure = figures.proxy_views([run], 2)
    for normal, _, *views in np.reshape(pictures_of(figure), [2, 6, 32, 48, 3]):
        for view in views:
            changed = (view != normal).any(-1)
            assert changed.any()
            assert not changed[~inside].any()


def test_figure_3_of_a_run_with_a_region_embeds_what_the_density_sees(masked_run, monkeypatch):
    run, _ = masked_run
    embedded = []

    def embed(self, images):
        embedded.append(images.stored.numpy())
        return np.random.default_rng(0).normal(size=[images.count, 4])

    monkeypatch.setattr(Detector, "embed", embed)
    monkeypatch.setattr("cutpaste_tf.draw.figures.embedding_maps", lambda panels: None)
    figures.embeddings([run], 2)
    preparation = Detector.load(run).preparation
    grey = (preparation.on_canvas(np.zeros([40, 40, 3], np.uint8)) == FILL).all(axis=-1)
    assert grey.any()
    assert len(embedded) == 4
    for images in embedded:
        assert (images[:, grey] == FILL).all()
