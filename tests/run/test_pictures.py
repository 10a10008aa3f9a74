"""A run's pictures: figures, and the embeddings for TensorBoard's projector."""

import csv

import numpy as np
import pytest

from cutpaste_tf.detector import Detector


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
            found = Detector.load(run_dir).density.score(test)
            expected = [float(row["score"]) for row in rows[: len(test)]]
            np.testing.assert_allclose(found, expected, rtol=1e-3)
