"""A run's pictures: figures/, and what TensorBoard shows of its evaluation."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from cutpaste_tf import cli
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import mask_of_size
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.draw import figures, projector
from cutpaste_tf.run.results import stage_names
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.maps import Maps
from cutpaste_tf.scoring.scorer import Evaluation
from cutpaste_tf.train import views

_VIEWS, _EXTREMES, _LOCALIZED = 6, 8, 24  # images that the figures show


def draw_figures(
    config: Config,
    test_split: Split,
    train_images: pipeline.Images,
    test_images: pipeline.Images,
    trained: Evaluation,
    untrained: Evaluation | None,
) -> None:
    """Draws a run's figures into figures/ and TensorBoard; one that cannot be is a warning."""
    title = _title(config)
    labels, scores = test_split.labels, trained.test.scores
    measurable = 0 < labels.sum() < len(labels)

    def augmentations():
        by_class = views.gallery(train_images, config, _VIEWS).numpy()
        names = [cls.name for cls in proxy.TASKS[config.task]]
        return figures.gallery(by_class, names, title)

    def most_and_least_anomalous():
        order = np.argsort(-scores, kind="stable")
        count = min(_EXTREMES, len(order))
        shown = np.concatenate([order[:count], order[::-1][:count]])
        return figures.extremes(
            *_pictures_and_masks(test_split, test_images, shown),
            labels[shown],
            [test_split.defect_types[i] for i in shown],
            scores[shown],
            title,
        )

    def roc():
        before, after = stage_names(config)
        stages = {after: scores} if config.steps else {before: scores}
        if config.steps and untrained is not None:
            stages[before] = untrained.test.scores
        return figures.roc_curve(labels, stages, title)

    wanted = {"augmentations": augmentations}
    if len(labels):
        wanted["score_histogram"] = lambda: figures.score_histogram(labels, scores, title)
        wanted["most_and_least_anomalous"] = most_and_least_anomalous
        if trained.test.maps is not None:
            wanted["localization"] = lambda: localization_figure(
                config, test_split, test_images, trained.test.maps
            )
    if measurable:
        wanted["roc"] = roc
    folder = config.run_dir / "figures"
    drawn = {}
    with figures.drawing():
        for name, draw in wanted.items():
            path = folder / f"{name}.png"
            with cli.faults_as_warnings(f"{path}: not drawn"):
                folder.mkdir(exist_ok=True)
                draw().savefig(path, dpi=100)
                drawn[name] = path
    events = config.run_dir / "tensorboard" / "evaluation"
    with (
        cli.faults_as_warnings(f"{events}: not written"),
        tf.summary.create_file_writer(str(events)).as_default(),
    ):
        for name, path in drawn.items():
            picture = tf.io.decode_png(tf.io.read_file(str(path)), channels=3)
            tf.summary.image(f"figures/{name}", picture[None], config.steps)
        if measurable:
            auroc = metrics.image_auroc(labels, scores)
            tf.summary.scalar("final_image_auroc", auroc, config.steps)


def localization_figure(
    config: Config, test_split: Split, test_images: pipeline.Images, maps: Maps
) -> Figure:
    """Draws test images, spread over the types of defect, with their masks and anomaly maps."""
    shown = test_split.examples(_LOCALIZED)
    values = maps.read(shown)
    # One scale for all: from what is usual on normal pixels to nearly the largest.
    normal = np.flatnonzero(test_split.labels == 0)[:_LOCALIZED]
    low = np.median(maps.read(normal)) if len(normal) else np.median(values)
    high = np.quantile(values, 0.999)
    name = figures.MAP_NAMES[config.maps]
    return figures.localization(
        *_pictures_and_masks(test_split, test_images, shown),
        {name: (test_images.without_border(values, shown), low, high)},
        _title(config),
    )


def _pictures_and_masks(split, images, shown):
    """Test images without their border, and their masks at the images' own size."""
    masks = [mask_of_size(split.masks[i], images.own_size(i)) for i in shown]
    return images.without_border(images.canvases(shown), shown), masks


def _title(config):
    return f"{config.category}, {config.task}, seed {config.seed}"


@cli.faults_as_warnings("TensorBoard's embeddings: not written")
def show_embeddings(
    config: Config,
    category: Category,
    train_images: pipeline.Images,
    test_images: pipeline.Images,
    evaluation: Evaluation,
    normal_scores: np.ndarray,
) -> None:
    """Writes embeddings for TensorBoard's projector, of a share of the images where they are many.

    What hinders it is a warning. Training images are left out of a patch model, which never holds
    what its density is fitted to. There may be no normal scores.
    """
    name, test, fit = config.features, evaluation.test, evaluation.fit
    parts = [("test", category.test, test_images, test.features[name], test.scores)]
    if fit.features:
        scores = normal_scores if len(normal_scores) else [""] * len(category.train)
        train = ("train", category.train, train_images, fit.features[name], scores)
        parts.append(train)
    total = sum(len(split) for _, split, *_ in parts)
    columns = {"type": [], "label": [], "split": [], "score": [], "path": []}
    embeddings, pictures = [], []
    for part, split, images, features, scores in parts:
        chosen = split.spread(max(1, len(split) * projector.MOST // max(total, projector.MOST)))
        # An image of several tiles is where they are in the mean.
        embeddings.append(features[chosen].mean(axis=1))
        for i in chosen:
            label = "anomalous" if split.labels[i] else "normal"
            row = (split.defect_types[i], label, part, scores[i], split.names[i])
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        pictures += list(images.canvases(chosen))
    if pictures:
        folder = config.run_dir / "tensorboard" / "evaluation"
        projector.write(folder, np.concatenate(embeddings), columns, pictures)
