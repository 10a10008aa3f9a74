"""The figures of one run, drawn with matplotlib; arrays in, figures out."""

from collections.abc import Mapping, Sequence

import matplotlib.patheffects
import numpy as np
import sklearn.manifold
import sklearn.metrics
from matplotlib.figure import Figure

from cutpaste_tf.report import overlay
from cutpaste_tf.report.canvas import plt

# Blue, red, green and yellow after Okabe and Ito, which colour-blind people tell apart, and each
# lighter than the one before, for those who print in grey. What is told by colour is told by a
# marker, a line or hatching too.
BLUE, RED, GREEN, YELLOW = "#00508c", "#d55e00", "#4cbb94", "#f0e442"
NORMAL_COLOR, ANOMALOUS_COLOR, UNTRAINED_COLOR = BLUE, RED, "#7f7f7f"
# Figure 3's, by its caption.
_EMBEDDED = {
    "normal": (BLUE, "o"),
    "anomaly": (RED, "X"),
    "CutPaste": (GREEN, "s"),
    "CutPaste-Scar": (YELLOW, "^"),
}
MAP_NAMES = {"gradcam": "GradCAM", "patches": "patch heat map", "features": "feature map"}
MASK_COLOR = "#e61e1e"


def roc_curve(labels: np.ndarray, scores: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draws the ROC curves of a network at several stages.

    Args:
      labels: [N], 0 for normal and 1 for anomalous; both occur.
      scores: [N] anomaly scores by the stage's name; the last stage of the training comes first.
      title: the title.

    Returns:
      The figure.
    """
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    styles = ((ANOMALOUS_COLOR, "-"), (UNTRAINED_COLOR, "--"))
    for (name, values), (color, line) in zip(scores.items(), styles, strict=False):
        false_positives, true_positives, _ = sklearn.metrics.roc_curve(labels, values)
        area = 100 * sklearn.metrics.auc(false_positives, true_positives)
        label = f"{name}: AUROC {area:.1f}"
        axes.plot(false_positives, true_positives, line, color=color, label=label)
    axes.plot([0, 1], [0, 1], color="0.8", linestyle=":", zorder=0)
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        title=title,
        aspect="equal",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axes.legend(loc="lower right")
    return figure


def score_histogram(labels: np.ndarray, scores: np.ndarray, title: str) -> Figure:
    """Draws the anomaly scores' distribution among normal and anomalous images.

    Args:
      labels: [N], 0 for normal and 1 for anomalous; one of them may be missing.
      scores: [N] anomaly scores.
      title: the title.

    Returns:
      The figure.
    """
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    bins = np.histogram_bin_edges(scores, bins=40)
    # Normal images, mostly the fewer, stand in front.
    for label, name, color, hatch in (
        (1, "anomalous", ANOMALOUS_COLOR, "////"),
        (0, "normal", NORMAL_COLOR, ""),
    ):
        values = scores[labels == label]
        if len(values):
            label = f"{name} ({len(values)})"
            axes.hist(values, bins, color=color, alpha=0.8, hatch=hatch, label=label)
    axes.set(xlabel="anomaly score", ylabel="test images", title=title)
    axes.legend()
    return figure


def extremes(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    labels: np.ndarray,
    defect_types: Sequence[str],
    scores: np.ndarray,
    title: str,
    count: int = 8,
) -> Figure:
    """Shows the most and the least anomalous test images.

    Args:
      images: N images, uint8 [H, W, 3].
      masks: N masks, bool, of any size; their outlines are drawn.
      labels: [N], 0 for normal and 1 for anomalous.
      defect_types: the N images' types of defect.
      scores: [N] anomaly scores.
      title: the title.
      count: images a row.

    Returns:
      The figure.
    """
    order = np.argsort(-scores, kind="stable")
    count = min(count, len(order))
    figure, grid = plt.subplots(
        2, count, figsize=(1.5 * count + 0.6, 4.2), layout="constrained", squeeze=False
    )
    rows = (("most anomalous", order[:count]), ("least anomalous", order[::-1][:count]))
    for row, (name, indices) in zip(grid, rows, strict=True):
        row[0].set_ylabel(name)
        for axes, index in zip(row, indices, strict=True):
            _picture(axes, images[index])
            if masks[index].any():
                axes.contour(
                    masks[index], levels=[0.5], colors="yellow", linewidths=1, **_over(axes)
                )
            color = ANOMALOUS_COLOR if labels[index] else NORMAL_COLOR
            axes.set_title(f"{defect_types[index]}\n{scores[index]:.1f}", color=color, fontsize=8)
    figure.suptitle(title)
    return figure


def localization(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    maps: Mapping[str, tuple[Sequence[np.ndarray], float, float]],
    title: str,
    columns: int = 8,
) -> Figure:
    """Shows where defects are and where they are found (Figures 4 and 7 to 21).

    Args:
      images: N images, uint8 [H, W, 3].
      masks: N masks, bool, of any size, shown in red.
      maps: by the method's name, N maps, float32 [H, W], as the images are, and the scores that the
        lightest and the darkest colour stand for, the same for all images.
      title: the title.
      columns: images a row.

    Returns:
      The figure: input, mask and a row for each method, as often as the N images need.
    """
    columns = min(columns, len(images))
    blocks = -(-len(images) // columns)
    names = ["input", "mask", *maps]
    figure, grid = plt.subplots(
        blocks * len(names),
        columns,
        figsize=(1.25 * columns + 0.4, 1.28 * blocks * len(names) + 0.5),
        layout="constrained",
        squeeze=False,
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        block, column = divmod(number, columns)
        column_axes = grid[block * len(names) : (block + 1) * len(names), column]
        _picture(column_axes[0], image)
        _picture(column_axes[1], image)
        if mask.any():  # in grey, red alone may be as dark as what is around it
            over = _over(column_axes[1])
            column_axes[1].contourf(mask, levels=[0.5, 1.5], colors=[MASK_COLOR], alpha=0.7, **over)
            column_axes[1].contour(mask, levels=[0.5], colors="white", linewidths=0.6, **over)
        for axes, (values, low, high) in zip(column_axes[2:], maps.values(), strict=True):
            shown = np.clip((values[number] - low) / max(high - low, 1e-12), 0.0, 1.0)
            _picture(axes, overlay.heat_map(image, shown))
        if column == 0:
            for axes, name in zip(column_axes, names, strict=True):
                axes.set_ylabel(name, fontsize=8)
    figure.suptitle(title)
    return figure


def augmentation_gallery(views: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Shows the views of the proxy task's classes (Figure 2).

    Args:
      views: float32 [K, N, H, W, 3] in [0, 1], as `train.views.gallery` makes them.
      names: the K classes' names.
      title: the title.

    Returns:
      The figure: a row for each class.
    """
    rows, columns = views.shape[:2]
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(1.7 * columns + 0.4, 1.75 * rows + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for row, name, pictures in zip(grid, names, views, strict=True):
        row[0].set_ylabel(name)
        for axes, picture in zip(row, pictures, strict=True):
            _picture(axes, picture)
    figure.suptitle(title)
    return figure


def views_by_column(
    rows: Sequence[Sequence[np.ndarray | None]],
    names: Sequence[str],
    labels: Sequence[str],
    pointed: tuple[int, int] | None = None,
) -> Figure:
    """Shows images with their augmented views beside each other (Figure 2).

    Args:
      rows: R rows of C images, uint8 [H, W, 3]; None where there is none.
      names: of the C columns: first normal, framed in green, then anomalous, in red, then views, in
        blue.
      labels: of the R rows.
      pointed: a column and another; an arrow points to where the second differs from it.

    Returns:
      The figure.
    """
    columns = len(names)
    figure, grid = plt.subplots(
        len(rows),
        columns,
        figsize=(1.7 * columns + 0.4, 1.72 * len(rows) + 0.4),
        layout="constrained",
        squeeze=False,
    )
    styles = [(GREEN, "-"), (RED, (0, (4, 1))), *[(BLUE, (0, (1, 0.6)))] * (columns - 2)]
    for number, (row, pictures, label) in enumerate(zip(grid, rows, labels, strict=True)):
        row[0].set_ylabel(label)
        for i, (axes, picture, (color, line)) in enumerate(zip(row, pictures, styles, strict=True)):
            if number == 0:
                axes.set_title(f"({'abcdefghijklmnopqrstuvwxyz'[i]}) {names[i]}")
            if picture is None:
                axes.set_axis_off()
                continue
            _picture(axes, picture)
            for spine in axes.spines.values():
                spine.set(visible=True, color=color, linewidth=3, linestyle=line)
        if pointed is not None:
            before, after = (pictures[i] for i in pointed)
            _point(row[pointed[1]], np.flatnonzero((before != after).any(-1)), before.shape[1])
    return figure


def _point(axes, changed, width):
    """Draws an arrow at the middle of the pixels that have changed, from the side with room."""
    if not len(changed):
        return
    y, x = (float(values.mean()) for values in np.divmod(changed, width))
    side = 1.0 if x < width / 2 else -1.0
    arrow = axes.annotate(
        "",
        (x + 0.08 * side * width, y),
        (x + 0.33 * side * width, y),
        arrowprops={"arrowstyle": "-|>", "color": RED, "linewidth": 2.0, "mutation_scale": 14},
    )
    outline = matplotlib.patheffects.withStroke(linewidth=4.0, foreground="white")
    arrow.arrow_patch.set_path_effects([outline])


def embedding_maps(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Shows embeddings in two dimensions, by t-SNE (Figure 3).

    Args:
      panels: by title, the embeddings, float32 [N, D], of kinds of images: "normal", "anomaly",
        "CutPaste" and "CutPaste-Scar", or some of them; 4 images at least in all.

    Returns:
      The figure: a panel for each title.
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(4.2 * columns, 4.2 * lines + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles = {}
    for axes, (title, kinds) in zip(grid.flat, panels.items(), strict=False):
        features = np.concatenate(list(kinds.values())).astype(np.float64)
        tsne = sklearn.manifold.TSNE(
            perplexity=min(30.0, (len(features) - 1) / 3.0), init="pca", random_state=0
        )
        places = tsne.fit_transform(features)
        owners = np.repeat(list(kinds), [len(values) for values in kinds.values()])
        for kind, (color, marker) in _EMBEDDED.items():
            if kind in kinds:
                handles[kind] = axes.scatter(
                    *places[owners == kind].T,
                    s=26,
                    color=color,
                    marker=marker,
                    linewidths=0.4,
                    edgecolors="black",
                    alpha=0.85,
                )
        axes.set_title(title, fontsize=9)
    # A single panel has no room for all beside each other.
    across = min(len(handles), 2 * columns)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=across)
    return figure


def _over(axes):
    """Where contours of something of another size lie on the picture that axes show."""
    return {"origin": "upper", "extent": axes.images[0].get_extent()}


def _picture(axes, image):
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
