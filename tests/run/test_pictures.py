"""A run's pictures: figures, and the embeddings for TensorBoard's projector."""

import csv
import errno

import numpy as np
import pytest
from conftest import QUICK, make_mvtec
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from cutpaste_tf import main
from cutpaste_tf.draw import figures, projector
from cutpaste_tf.run import pictures
from cutpaste_tf.scoring.detector import Detector

DRAW_FIGURES = pictures.draw_figures  # which `small_backbone` leaves out
NAMES = {"augmentations", "most_and_least_anomalous", "roc", "score_histogram"}


@pytest.fixture
def run(small_backbone, quick_views, monkeypatch, tmp_path, capsys):
    """Trains; returns status, what was printed on stderr, and the run's folder."""
    monkeypatch.setattr(pictures, "draw_figures", DRAW_FIGURES)

    def train():
        data, runs = make_mvtec(tmp_path / "data"), tmp_path / "runs"
        flags = ["--dataset=folder", f"--data_dir={data}", f"--workdir={runs}", *QUICK]
        return main.main(["main", *flags]), capsys.readouterr().err, runs / "part" / "seed_0"

    return train


def test_figures_are_drawn_into_files_and_tensorboard(finished):
    run_dir, _, _ = finished
    assert {path.stem for path in (run_dir / "figures").iterdir()} >= NAMES
    for name in NAMES:
        with Image.open(run_dir / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors() or range(257)) > 10  # not blank
    reader = event_accumulator.EventAccumulator(str(run_dir / "tensorboard" / "evaluation"))
    reader.Reload()
    assert {f"figures/{name}" for name in NAMES} <= set(reader.Tags()["tensors"])


def test_the_projector_has_all_images_of_a_run(finished, localized):
    for run_dir, parts in ((finished[0], {"test", "train"}), (localized[0], None)):
        folder = run_dir / "tensorboard" / "evaluation"
        assert (folder / "projector_config.pbtxt").is_file()
        with open(folder / "embeddings_images.tsv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
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
            test = [i for i, row in enumerate(rows) if row["split"] == "test"]
            found = Detector.load(run_dir).fit.density.score(points[test])
            expected = [float(rows[i]["score"]) for i in test]
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_what_cannot_be_drawn_is_a_warning_and_the_run_is_finished(run, monkeypatch):
    def fail(*arguments):
        raise ValueError("some fault\nof matplotlib's")

    monkeypatch.setattr(figures, "roc_curve", fail)
    monkeypatch.setattr(projector, "write", fail)
    status, printed, run_dir = run()
    assert status == 0
    warned = printed.splitlines()
    assert all(line.startswith("warning: ") and "some fault of" in line for line in warned)
    assert ["embeddings" in warned[0], "roc.png: not drawn" in warned[1], len(warned)] == [1, 1, 2]
    assert (run_dir / "results.json").is_file()
    assert {path.stem for path in (run_dir / "figures").iterdir()} == NAMES - {"roc"}


def test_folders_that_cannot_be_made_for_pictures_are_warnings(run, tmp_path):
    run_dir = tmp_path / "runs" / "part" / "seed_0"
    run_dir.mkdir(parents=True)
    for name in ("figures", "tensorboard"):
        (run_dir / name).write_text("a file where a folder is to be")
    status, printed, _ = run()
    assert status == 0
    assert all(line.startswith("warning: ") for line in printed.splitlines())
    assert (run_dir / "results.json").is_file()


def test_a_full_disk_is_still_a_mistake_of_the_users(run, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figures, "roc_curve", fail)
    status, printed, run_dir = run()
    assert status == 2
    assert printed.startswith("error: --workdir=")
    assert not (run_dir / "results.json").exists()
