"""The figures: what is drawn, read back from matplotlib's objects, and users' names in them."""

import io
import warnings

import matplotlib.colors
import numpy as np
import pytest

from cutpaste_tf.draw import figures

LABELS = np.array([0, 0, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.35, 0.3, 0.9])
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
MASKS = np.zeros([5, 8, 8], bool)
EMBEDDED = {"normal": np.random.default_rng(0).normal(size=(8, 3))}
FIGURES = {
    "roc": lambda name: figures.roc_curve(LABELS, {name: SCORES}, name),
    "histogram": lambda name: figures.score_histogram(LABELS, SCORES, name),
    "extremes": lambda name: figures.extremes(IMAGES[:4], MASKS[:4], LABELS[:4], [name] * 4, name),
    "maps": lambda name: figures.localization(IMAGES, MASKS, {name: (IMAGES[..., 0], 0, 1)}, name),
    "gallery": lambda name: figures.gallery(IMAGES[None] / 255.0, [name], name),
    "views": lambda name: figures.views_by_column([IMAGES, IMAGES], [name] * 5, [name] * 2),
    "embeddings": lambda name: figures.embedding_maps({name: EMBEDDED}),
}


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize(("name", "form"), [("r$^$", "png"), ("price $1_$2", "pdf")])
def test_names_are_drawn_as_they_are(kind, name, form):
    """matplotlib would take them for mathematics, and the first for wrong ones."""
    file = io.BytesIO()
    FIGURES[kind](name).savefig(file, format=form)
    assert file.getvalue()


def test_letters_that_no_font_has_are_one_warning(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with figures.drawing():
            for kind in ("roc", "histogram"):
                FIGURES[kind]("汉字").savefig(io.BytesIO())
        message = capsys.readouterr().err
        assert message.startswith("warning: figures: matplotlib's font lacks some of their letters")
        assert message.count("\n") == 1
        with figures.drawing():
            FIGURES["roc"]("Größe").savefig(io.BytesIO())
    assert capsys.readouterr() == ("", "")


def test_roc_curve_tells_both_aurocs_and_the_histogram_counts_every_image():
    figure = figures.roc_curve(LABELS, {"trained": SCORES, "untrained": -SCORES}, "title")
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["trained: AUROC 83.3", "untrained: AUROC 16.7"]
    for labels in (LABELS, np.zeros(5, int), np.ones(5, int)):
        (axes,) = figures.score_histogram(labels, SCORES, "title").axes
        assert sum(patch.get_height() for patch in axes.patches) == 5


def outlined(figure):
    """The numbers of the axes in which a defect's outline is drawn."""
    drawn = [any("Contour" in type(c).__name__ for c in a.collections) for a in figure.axes]
    return list(np.flatnonzero(drawn))


def outline(axes):
    """The left, right, upper and lower end of what is drawn around a defect, in pixels."""
    (left, upper), (right, lower) = axes.collections[-1].get_datalim(axes.transData).get_points()
    return [left, right, upper, lower]


def test_extremes_are_in_two_rows_with_masks_outlined():
    masks = np.zeros([4, 64, 32], bool)  # each as large as its image on disk
    masks[1, 16:32, 8:16] = True
    captions = ["dent", "hole", "good 1", "good 2"]
    figure = figures.extremes(IMAGES[:4], masks, np.array([1, 1, 0, 0]), captions, "title")
    assert [axes.get_title() for axes in figure.axes] == captions
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["most anomalous", "least anomalous"]
    assert outlined(figure) == [1]
    assert (figure.axes[1].images[0].get_array() == IMAGES[1]).all()
    assert outline(figure.axes[1]) == pytest.approx([3.5, 7.5, 3.5, 7.5], abs=0.3)


def test_localization_has_input_mask_and_maps_under_each_other():
    masks = np.zeros([5, 32, 64], bool)
    masks[3, 8, 16:32] = True  # a line of one pixel
    maps = {name: (IMAGES[..., 0], 0.0, 255.0) for name in ("GradCAM", "patch heat map")}
    figure = figures.localization(IMAGES, masks, maps, "title", columns=3)
    assert len(figure.axes) == 2 * 4 * 3  # two blocks of four rows
    labels = [axes.get_ylabel() for axes in figure.axes[::3]]
    assert labels == ["input", "mask", "GradCAM", "patch heat map"] * 2
    # The fourth example begins the second block.
    np.testing.assert_array_equal(figure.axes[12].images[0].get_array(), IMAGES[3])
    np.testing.assert_array_equal(figure.axes[15].images[0].get_array(), IMAGES[3])
    assert outline(figure.axes[15]) == pytest.approx([3.5, 7.5, 3.5, 4.0], abs=0.3)
    red, _ = figure.axes[15].collections
    assert matplotlib.colors.to_hex(red.get_facecolor()[0]) == figures.MASK_COLOR
    assert not figure.axes[14].images  # there is no sixth example
    assert outlined(figure) == [15]


def test_views_have_a_column_each_framed_by_kind_and_an_arrow_at_the_scar():
    normal, cutout = IMAGES[:2]
    scarred = normal.copy()
    scarred[4:7, 3:5] = 255 - scarred[4:7, 3:5]
    rows = [[normal, cutout, cutout, scarred], [normal, None, cutout, normal]]
    names = ["normal", "anomaly", "Cutout", "CutPaste-Scar"]
    figure = figures.views_by_column(rows, names, ["part", ""])
    grid = np.reshape(figure.axes, [2, 4])
    titles = ["(a) normal", "(b) anomaly", "(c) Cutout", "(d) CutPaste-Scar"]
    assert [axes.get_title() for axes in grid[0]] == titles
    assert grid[0, 0].get_ylabel() == "part"
    assert not grid[1, 1].images
    colors = [matplotlib.colors.to_rgba(c) for c in (figures.GREEN, figures.RED, figures.BLUE)]
    for axes, color in zip(grid[0], [*colors, colors[2]], strict=True):
        assert {spine.get_edgecolor() for spine in axes.spines.values()} == {color}
    # The arrow comes from the side with room, and ends beside the middle of the scar.
    (arrow,) = grid[0, 3].texts
    assert arrow.xy == pytest.approx((3.5 + 0.08 * 16, 5.0))
    assert arrow.xyann[0] > arrow.xy[0]
    assert not grid[1, 3].texts  # nothing has changed


def test_embeddings_of_kinds_far_apart_are_far_apart():
    rng = np.random.default_rng(0)
    counts, places = {"normal": 20, "CutPaste": 30, "anomaly": 12}, (0.0, 40.0, -40.0)
    embedded = [
        rng.normal(place, size=(n, 6)) for n, place in zip(counts.values(), places, strict=True)
    ]
    kinds = dict(zip(counts, embedded, strict=True))
    figure = figures.embedding_maps({"one": kinds, "two": EMBEDDED})
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["normal", "anomaly", "CutPaste"]
    clouds = [np.asarray(scatter.get_offsets()) for scatter in figure.axes[0].collections]
    assert list(map(len, clouds)) == [len(kinds[name]) for name in names]
    for cloud in clouds:
        spread = np.linalg.norm(cloud - cloud.mean(0), axis=1).max()
        others = np.concatenate([other for other in clouds if other is not cloud])
        assert np.linalg.norm(others - cloud.mean(0), axis=1).min() > spread


def test_colours_are_told_apart_in_grey():
    colors = [color for color, _ in figures._EMBEDDED.values()]
    lightness = [np.dot(matplotlib.colors.to_rgb(c), [0.299, 0.587, 0.114]) for c in colors]
    assert np.diff(np.sort(lightness)).min() > 0.1
    assert len({marker for _, marker in figures._EMBEDDED.values()}) == 4
