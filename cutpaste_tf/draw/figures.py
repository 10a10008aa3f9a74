"""Draws figures of arrays and names by matplotlib."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import matplotlib.patheffects
import numpy as np
import sklearn.manifold
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutpaste_tf.draw import overlay
from cutpaste_tf.files import warn

# Names of categories, defects and files may have "$" and "_", which are not mathematics.
matplotlib.rcParams.update({"text.parse_math": False, "text.usetex": False})

# Blue, red, green and yellow after Okabe and Ito, which colour-blind people tell apart, and each
# lighter than the one before, for print in grey. Markers, lines and hatching differ with colour.
BLUE, RED, GREEN, YELLOW, GREY = "#00508c", "#d55e00", "#4cbb94", "#f0e442", "#7f7f7f"
# The colours of Figure 3, by its caption.
_EMBEDDED = {
    "normal": (BLUE, "o"),
    "anomaly": (RED, "X"),
    "CutPaste": (GREEN, "s"),
    "CutPaste-Scar": (YELLOW, "^"),
}
MAP_NAMES = {"gradcam": "GradCAM", "patches": "patch heat map", "features": "feature map"}
MASK_COLOR = "#e61e1e"


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Warns in one line if the font lacks letters of the figures that the block saves."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if any("missing from font" in str(warning.message) for warning in caught):
        warn(
            "warning: figures: matplotlib's font lacks some of their letters, which are drawn as "
            "boxes; set font.family in a matplotlibrc to a font that has them"
        )


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Makes a figure for images of a width and height in inches, and its axes [rows, columns]."""
    figure = _figure(width * columns + 0.4, height * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    return figure, grid


def roc_curve(labels: np.ndarray, scores: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draws a ROC curve for each stage of the training.

    `labels` are [N] of 0 and 1; `scores` has each stage's scores, [N], the trained stage first.
    """
    figure = _figure(4.5, 4.5)
    axes = figure.subplots()
    for (name, values), (color, line) in zip(
        scores.items(), ((RED, "-"), (GREY, "--")), strict=False
    ):
        false_positives, true_positives, _ = sklearn.metrics.roc_curve(labels, values)
        area = 100 * sklearn.metrics.auc(false_positives, true_positives)
        label = f"{name}: AUROC {area:.1f}"
        axes.plot(false_positives, true_positives, line, color=color, label=label)
    axes.plot([0, 1], [0, 1], color="0.8", linestyle=":", zorder=0)
    limits = (-0.01, 1.01)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
    axes.set(aspect="equal", xlim=limits, ylim=limits)
    axes.legend(loc="lower right")
    return figure


def score_histogram(labels: np.ndarray, scores: np.ndarray, title: str) -> Figure:
    """Draws how anomaly scores, [N], are distributed over labels, [N] of 0 and 1."""
    figure = _figure(6, 3.5)
    axes = figure.subplots()
    bins = np.histogram_bin_edges(scores, bins=40)
    # Normal images, usually fewer, are drawn in front.
    for label, name, color, hatch in ((1, "anomalous", RED, "////"), (0, "normal", BLUE, "")):
        values = scores[labels == label]
        if len(values):
            legend = f"{name} ({len(values)})"
            axes.hist(values, bins, color=color, alpha=0.8, hatch=hatch, label=legend)
    axes.set(xlabel="anomaly score", ylabel="test images", title=title)
    axes.legend()
    return figure


def extremes(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    labels: np.ndarray,
    captions: Sequence[str],
    title: str,
) -> Figure:
    """Shows the most anomalous images, uint8 [H, W, 3], above as many of the least anomalous.

    Masks are bool, of any size, and outlined. All are in this order; labels are of 0 and 1.
    """
    figure, grid = _grid(2, len(images) // 2, 1.5, 1.85)
    for row, name in zip(grid, ("most anomalous", "least anomalous"), strict=True):
        row[0].set_ylabel(name)
    shown = zip(grid.flat, images, masks, labels, captions, strict=True)
    for axes, image, mask, label, caption in shown:
        axes.imshow(image)
        _outline(axes, mask, "yellow", 1.0)
        axes.set_title(caption, color=RED if label else BLUE, fontsize=8)
    figure.suptitle(title)
    return figure


def localization(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray] | None,
    maps: Mapping[str, tuple[Sequence[np.ndarray], float, float]],
    title: str,
    columns: int = 8,
    captions: Sequence[str] = (),
) -> Figure:
    """Shows N images, uint8 [H, W, 3], their masks and their anomaly maps (Figures 4, 7 to 21).

    Masks are bool, of any size. `maps` has, for each method, N maps, float32 [H, W], and the scores
    of the darkest and of the brightest colour. Each method has a row below input and mask. Captions
    of two lines stand above the images.
    """
    columns = min(columns, len(images))
    names = ["input", *(["mask"] if masks is not None else []), *maps]
    blocks = -(-len(images) // columns)
    height = 1.28 + (0.35 / len(names) if captions else 0.0)
    figure, grid = _grid(blocks * len(names), columns, 1.25, height)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    for number, image in enumerate(images):
        block, column = divmod(number, columns)
        axes_of = dict(zip(names, grid[block * len(names) :, column], strict=False))
        if column == 0:
            for name, axes in axes_of.items():
                axes.set_ylabel(name, fontsize=8)
        axes_of["input"].imshow(image)
        if captions:
            axes_of["input"].set_title(captions[number], fontsize=7)
        if masks is not None:
            axes_of["mask"].imshow(image)
            # Printed in grey, red may be as dark as its surroundings.
            _outline(axes_of["mask"], masks[number], "white", 0.6, fill=MASK_COLOR)
        for name, (values, low, high) in maps.items():
            shown = np.clip((values[number] - low) / max(high - low, 1e-12), 0.0, 1.0)
            axes_of[name].imshow(overlay.heat_map(image, shown))
    figure.suptitle(title)
    return figure


def _outline(axes: Axes, mask: np.ndarray, color: str, width: float, fill: str = "") -> None:
    """Draws the outline of a mask of any size over the image in `axes`."""
    if not mask.any():
        return
    over = {"origin": "upper", "extent": axes.images[0].get_extent()}
    if fill:
        axes.contourf(mask, levels=[0.5, 1.5], colors=[fill], alpha=0.7, **over)
    axes.contour(mask, levels=[0.5], colors=color, linewidths=width, **over)


def gallery(views: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Shows views of images, [K, N, H, W, 3], a row for each of the K classes' names."""
    figure, grid = _grid(*views.shape[:2], 1.7, 1.75)
    for row, name, images in zip(grid, names, views, strict=True):
        row[0].set_ylabel(name)
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image)
    figure.suptitle(title)
    return figure


def views_by_column(
    rows: Sequence[Sequence[np.ndarray | None]], names: Sequence[str], labels: Sequence[str]
) -> Figure:
    """Shows images with their augmented views beside each other (Figure 2).

    `rows` has a list for each row: an image, uint8 [H, W, 3], or None for each of the columns'
    `names`. The first column is normal (green frame), the second anomalous (red), and the others
    are views of the normal image (blue). An arrow points to where the last view differs from it.
    """
    figure, grid = _grid(len(rows), len(names), 1.7, 1.72)
    frames = [(GREEN, "-"), (RED, (0, (4, 1))), *[(BLUE, (0, (1, 0.6)))] * (len(names) - 2)]
    for letter, name, axes in zip("abcdefgh", names, grid[0], strict=False):
        axes.set_title(f"({letter}) {name}")
    for row, images, label in zip(grid, rows, labels, strict=True):
        row[0].set_ylabel(label)
        for axes, image, (color, line) in zip(row, images, frames, strict=True):
            if image is None:
                continue
            axes.imshow(image)
            axes.set_frame_on(True)
            for spine in axes.spines.values():
                spine.set(color=color, linewidth=3, linestyle=line)
        _point_to(row[-1], (images[0] != images[-1]).any(-1))
    return figure


def _point_to(axes: Axes, changed: np.ndarray) -> None:
    """Draws an arrow to the middle of pixels, bool [H, W], from the side with room."""
    if not changed.any():
        return
    width = changed.shape[1]
    y, x = (float(indices.mean()) for indices in np.nonzero(changed))
    side = 1.0 if x < width / 2 else -1.0
    outline = matplotlib.patheffects.withStroke(linewidth=4.0, foreground="white")
    arrow = {"arrowstyle": "-|>", "color": RED, "linewidth": 2.0, "mutation_scale": 14}
    head, tail = (x + 0.08 * side * width, y), (x + 0.33 * side * width, y)
    axes.annotate("", head, tail, arrowprops=arrow | {"path_effects": [outline]})


def embedding_maps(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Shows embeddings in two dimensions, by t-SNE (Figure 3), a panel for each title.

    A panel has embeddings, float32 [N, D], of at least 4 images, by their kind: "normal",
    "anomaly", "CutPaste" and "CutPaste-Scar", or some of these.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(4.2 * columns, 4.2 * rows + 0.4)
    handles = {}
    for number, (title, kinds) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, number, xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
        features = np.concatenate(list(kinds.values())).astype(np.float64)
        perplexity = min(30.0, (len(features) - 1) / 3.0)
        tsne = sklearn.manifold.TSNE(perplexity=perplexity, init="pca", random_state=0)
        points = tsne.fit_transform(features)
        kind_of = np.repeat(list(kinds), [len(values) for values in kinds.values()])
        for kind, (color, marker) in _EMBEDDED.items():
            if kind in kinds:
                style = {"color": color, "marker": marker, "edgecolors": "black"}
                handles[kind] = axes.scatter(
                    *points[kind_of == kind].T, s=26, linewidths=0.4, alpha=0.85, **style
                )
    # Below a single panel, the legend needs two lines.
    across = min(len(handles), 2 * columns)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=across)
    return figure
