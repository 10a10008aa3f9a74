"""A run's pictures."""

import numpy as np
import pytest
from conftest import QUICK, make_mvtec
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from cutpaste_tf import main, threshold
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.draw import figures
from cutpaste_tf.run import pictures
from cutpaste_tf.scoring.maps import Maps
from cutpaste_tf.scoring.scorer import Evaluation, Fit, Scores

DRAW_FIGURES = pictures.draw_figures  # which `small_backbone` leaves out
NAMES = {"augmentations", "most_and_least_anomalous", "normal_images", "roc", "score_histogram"}


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


@pytest.mark.parametrize("has_maps", [True, False])
def test_the_least_normal_images_are_shown_with_names_and_scores(has_maps, tmp_path, monkeypatch):
    rng, drawn = np.random.default_rng(0), []
    arrays = rng.integers(0, 256, [20, 8, 8, 3], np.uint8)
    names = [f"train/good/{number:03d}.png" for number in range(20)]
    images = pipeline.prepare(normal_split(names, arrays), Preparation((8, 8)))
    small = rng.random([20, 1, 8, 8]).astype(np.float32)
    maps = Maps(small, None, lambda part, _: part, images) if has_maps else None
    scores = np.arange(20.0)
    scores[3] = 100.0
    fit = Fit(None, normal=Scores(scores, {}, maps))
    localization = figures.localization
    monkeypatch.setattr(
        figures, "localization", lambda *given: drawn.append(localization(*given)) or drawn[0]
    )
    maps_by = "features" if has_maps else "none"
    config = Config(dataset="textures", category="brick", maps=maps_by, false_positive_rate=0.1)
    split, evaluation = normal_split(names, arrays), Evaluation(fit, None, {})
    paths = pictures.draw_normal_images(config, tmp_path, split, images, evaluation, scores)
    assert paths["normal_images"].is_file()
    (figure,) = drawn
    assert "standing out: 1" in figure.get_suptitle()
    rows = np.reshape(figure.axes, [-1, 6])
    assert len(rows) == (4 if has_maps else 2)
    titles = [axes.get_title() for axes in rows[:: len(rows) // 2].flat]
    limit = threshold.by_normal(scores, 0.1)
    order = [3, *range(19, 8, -1)]
    assert titles == [
        f"{names[i]}\n{scores[i]:.1f} (relative {limit.relative(scores[i]):.2f})" for i in order
    ]
    assert (rows[0, 1].images[0].get_array() == arrays[19]).all()
    # A run without normal scores has no such figure.
    assert (
        pictures.draw_normal_images(config, tmp_path, split, images, evaluation, scores[:0]) == {}
    )


def test_what_cannot_be_drawn_is_a_warning_and_the_run_is_finished(run, monkeypatch):
    def fail(*arguments):
        raise ValueError("some fault\nof matplotlib's")

    monkeypatch.setattr(figures, "roc_curve", fail)
    status, printed, run_dir = run()
    assert status == 0
    (warned,) = printed.splitlines()
    assert warned.startswith("warning: ")
    assert "roc.png: not drawn" in warned and "some fault of" in warned
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
