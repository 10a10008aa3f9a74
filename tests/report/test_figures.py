"""The figures of one run: what is drawn, read back from matplotlib's objects."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cutpaste_tf.report import figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


LABELS = np.array([0, 0, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.35, 0.3, 0.9])


def test_roc_curve_tells_both_aurocs():
    figure = figures.roc_curve(LABELS, {"trained": SCORES, "untrained": -SCORES}, "title")
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["trained: AUROC 83.3", "untrained: AUROC 16.7"]


@pytest.mark.parametrize("labels", [LABELS, np.zeros(5, int), np.ones(5, int)])
def test_histogram_counts_every_image(labels):
    axes = figures.score_histogram(labels, SCORES, "title").axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 5


def test_extremes_are_in_order_of_score_with_masks_outlined():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    masks = np.zeros([5, 16, 16], bool)
    masks[4, 4:8, 4:8] = True
    kinds = ["good", "good", "good", "dent", "hole"]
    figure = figures.extremes(images, masks, LABELS, kinds, SCORES, "title", count=2)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["hole\n0.9", "good\n0.3", "good\n0.1", "good\n0.2"]
    outlined = [any("Contour" in type(c).__name__ for c in a.collections) for a in figure.axes]
    assert outlined == [True, False, False, False]
    assert (figure.axes[0].images[0].get_array() == images[4]).all()


def test_gallery_has_a_row_for_each_class():
    views = np.random.default_rng(0).random((3, 2, 8, 8, 3))
    figure = figures.augmentation_gallery(views, ["a", "b", "c"], "title")
    assert len(figure.axes) == 6
    assert [figure.axes[i].get_ylabel() for i in (0, 2, 4)] == ["a", "b", "c"]
    assert (figure.axes[3].images[0].get_array() == views[1, 1]).all()
