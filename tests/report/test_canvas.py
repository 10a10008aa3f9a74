"""What matplotlib makes of users' names."""

import io
import warnings

import numpy as np
import pytest

from cutpaste_tf.report import canvas, figures

NAME = "r$^$"  # matplotlib would take it for mathematics, and for wrong ones
LABELS, SCORES = np.array([0, 1]), np.array([0.1, 0.9])
IMAGES = np.zeros([2, 8, 8, 3], np.uint8)
MASKS = np.zeros([2, 8, 8], bool)
EMBEDDED = {"normal": np.random.default_rng(0).normal(size=(8, 3))}
FIGURES = {
    "roc": lambda name: figures.roc_curve(LABELS, {name: SCORES}, name),
    "histogram": lambda name: figures.score_histogram(LABELS, SCORES, name),
    "extremes": lambda name: figures.extremes(IMAGES, MASKS, LABELS, [name] * 2, SCORES, name),
    "maps": lambda name: figures.localization(IMAGES, MASKS, {name: (MASKS * 1.0, 0, 1)}, name),
    "gallery": lambda name: figures.augmentation_gallery(IMAGES[None] / 255.0, [name], name),
    "views": lambda name: figures.views_by_column([IMAGES, IMAGES], [name] * 2, [name] * 2),
    "embeddings": lambda name: figures.embedding_maps({name: EMBEDDED}),
}


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("name", [NAME, "price $1_$2"])
@pytest.mark.parametrize("form", ["png", "pdf"])
def test_names_are_drawn_as_they_are(kind, name, form):
    file = io.BytesIO()
    canvas.save(FIGURES[kind](name), file, format=form)
    assert file.getvalue()


def test_letters_that_no_font_has_are_told_in_one_line(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with canvas.drawing():
            for kind in ("roc", "histogram"):
                canvas.save(FIGURES[kind]("汉字"), io.BytesIO())
        told = capsys.readouterr().err
        assert told.startswith("warning: figures: matplotlib's font lacks some of their letters")
        assert told.count("\n") == 1
        with canvas.drawing():
            canvas.save(FIGURES["roc"]("Größe"), io.BytesIO())
    assert capsys.readouterr() == ("", "")
