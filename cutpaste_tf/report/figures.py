"""The figures of one run, drawn with matplotlib; arrays in, figures out."""

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # Draws into files; needs no display.

import matplotlib.pyplot as plt
import numpy as np
import sklearn.metrics
from matplotlib.figure import Figure

NORMAL_COLOR, ANOMALOUS_COLOR, UNTRAINED_COLOR = "#1f77b4", "#d62728", "#7f7f7f"


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
    colors = (ANOMALOUS_COLOR, UNTRAINED_COLOR)
    for (name, values), color in zip(scores.items(), colors, strict=False):
        false_positives, true_positives, _ = sklearn.metrics.roc_curve(labels, values)
        area = 100 * sklearn.metrics.auc(false_positives, true_positives)
        axes.plot(false_positives, true_positives, color=color, label=f"{name}: AUROC {area:.1f}")
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
    for label, name, color in (
        (0, "normal", NORMAL_COLOR),
        (1, "anomalous", ANOMALOUS_COLOR),
    ):
        values = scores[labels == label]
        if len(values):
            axes.hist(values, bins, color=color, alpha=0.6, label=f"{name} ({len(values)})")
    axes.set(xlabel="anomaly score (Mahalanobis distance)", ylabel="test images", title=title)
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
      images: function-like sequence of N images, uint8 [H, W, 3].
      masks: N masks, bool [H, W]; their outlines are drawn.
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
                axes.contour(masks[index], levels=[0.5], colors="yellow", linewidths=1)
            color = ANOMALOUS_COLOR if labels[index] else NORMAL_COLOR
            axes.set_title(f"{defect_types[index]}\n{scores[index]:.1f}", color=color, fontsize=8)
    figure.suptitle(title)
    return figure


def augmentation_gallery(views: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Shows the views of the proxy task's classes (Figure 2).

    Args:
      views: float32 [K, N, H, W, 3] in [0, 1], as `train.gallery` makes them.
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


def _picture(axes, image):
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
