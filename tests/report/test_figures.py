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


def test_localization_has_input_mask_and_maps_under_each_other():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    masks = np.zeros([5, 16, 16], bool)
    masks[3, 4:8, 4:8] = True
    maps = {name: (rng.random((5, 16, 16)), 0.0, 1.0) for name in ("GradCAM", "patch heat map")}
    figure = figures.localization(images, masks, maps, "title", columns=3)
    assert len(figure.axes) == 2 * 4 * 3  # two blocks of four rows
    labels = [axes.get_ylabel() for axes in figure.axes[::3]]
    assert labels == ["input", "mask", "GradCAM", "patch heat map"] * 2
    # The fourth example begins the second block.
    np.testing.assert_array_equal(figure.axes[12].images[0].get_array(), images[3])
    marked = figure.axes[15].images[0].get_array()
    assert (marked[~masks[3]] == images[3][~masks[3]]).all()
    assert (marked[masks[3]][:, 0] > marked[masks[3]][:, 1]).all()
    assert not figure.axes[14].images  # there is no sixth example


def test_heat_maps_grow_lighter_with_the_score():
    image = np.full([1, 11, 3], 128, np.uint8)
    lightness = figures.heat_map(image, np.linspace(0, 1, 11)[None]) @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness[0]) > 0).all()
