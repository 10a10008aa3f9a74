"""A run's pictures: its figures, and its evaluation in TensorBoard."""

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from cutpaste_tf import cli
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.augment import proxy
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import mask_of_size, resize_map
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.draw import figures
from cutpaste_tf.run.results import stage_names
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.maps import Maps
from cutpaste_tf.scoring.scorer import Evaluation
from cutpaste_tf.train import views

_VIEWS, _EXTREMES, _LOCALIZED, _WORST = 6, 8, 24, 12  # how many images the figures show
_LONGEST = 20  # characters of an image's name in a figure, at most


def draw_figures(
    config: Config,
    category: Category,
    train_images: pipeline.Images,
    test_images: pipeline.Images,
    trained: Evaluation,
    untrained: Evaluation | None,
    normal_scores: np.ndarray,
) -> None:
    """Draws a run's figures into figures/ and TensorBoard; a figure that fails prints a warning."""
    test_split, scores, maps = category.test, trained.test.scores, trained.test.maps
    labels = test_split.labels
    measurable = 0 < labels.sum() < len(labels)

    def augmentations():
        by_class = views.gallery(train_images, config, _VIEWS).numpy()
        names = [one.name for one in proxy.TASKS[config.task]]
        return figures.gallery(by_class, names, title(config))

    def most_and_least_anomalous():
        order = np.argsort(-scores, kind="stable")
        shown = np.concatenate([order[:_EXTREMES], order[::-1][:_EXTREMES]])
        images, masks = _images_and_masks(test_split, test_images, shown)
        names = [test_split.defect_types[i] for i in shown]
        captions = _captions(names, scores[shown], config, normal_scores)
        return figures.extremes(images, masks, labels[shown], captions, title(config))

    def roc():
        before, after = stage_names(config)
        stages = {after: scores} if config.steps else {before: scores}
        if config.steps and untrained is not None:
            stages[before] = untrained.test.scores
        return figures.roc_curve(labels, stages, title(config))

    wanted = {"augmentations": augmentations} if config.steps else {}
    if len(labels):
        wanted["score_histogram"] = lambda: figures.score_histogram(labels, scores, title(config))
        wanted["most_and_least_anomalous"] = most_and_least_anomalous
        if maps is not None:
            by_name = {figures.MAP_NAMES[config.maps]: maps}
            wanted["localization"] = lambda: localization(test_split, by_name, title(config))
    if measurable:
        wanted["roc"] = roc
    drawn = _save(config.run_dir, wanted)
    drawn |= draw_normal_images(
        config, config.run_dir, category.train, train_images, trained, normal_scores
    )
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


def _save(run_dir, wanted):
    """Draws figures into a run's folder; returns the paths of those that did not fail, by name."""
    folder, drawn = run_dir / "figures", {}
    with figures.drawing():
        for name, draw in wanted.items():
            path = folder / f"{name}.png"
            with cli.faults_as_warnings(f"{path}: not drawn"):
                folder.mkdir(exist_ok=True)
                draw().savefig(path, dpi=100)
                drawn[name] = path
    return drawn


def draw_normal_images(
    config: Config,
    run_dir: pathlib.Path,
    split: Split,
    images: pipeline.Images,
    evaluation: Evaluation,
    normal_scores: np.ndarray,
) -> dict[str, pathlib.Path]:
    """Draws figures/normal_images.png: the training images with the highest scores, and their maps.

    Returns the figure's path by its name; without cross-validated scores there is no figure.
    """

    def draw():
        order = np.argsort(-normal_scores, kind="stable")
        shown, scaled = order[:_WORST], {}
        pictures = images.without_border(images.canvases(shown), shown)
        maps = evaluation.fit.normal.maps
        if maps is not None:
            usual = order[len(order) // 2 :][:_LOCALIZED]
            scaled[figures.MAP_NAMES[config.maps]] = _scaled(maps, shown, usual, pictures)
        names = [split.names[i] for i in shown]
        names = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in names]
        captions = _captions(names, normal_scores[shown], config, normal_scores)
        count = len(thresholds.odd(normal_scores))
        heading = f"{title(config)}\nthe least normal training images (standing out: {count})"
        return figures.localization(pictures, None, scaled, heading, 6, captions)

    return _save(run_dir, {"normal_images": draw} if len(normal_scores) else {})


def _captions(names, scores, config, normal_scores):
    """The names of images with their scores and relative scores."""
    notes, relative = [""] * len(names), None
    if len(normal_scores):
        rate, rule = config.false_positive_rate, config.threshold_rule
        limit = thresholds.by_normal(normal_scores, rate, rule)
        relative = limit.relative(scores)
    if relative is not None:
        notes = [f" (relative {x:.2f})" for x in relative]
    return [f"{name}\n{x:.1f}{note}" for name, x, note in zip(names, scores, notes, strict=True)]


def localization(
    split: Split, maps: Mapping[str, Maps], heading: str, count: int = _LOCALIZED
) -> Figure:
    """Draws `count` test images, spread over the types of defect, with masks and anomaly maps.

    `maps` has the maps of all images of the split, by the method's name.
    """
    shown, normal = split.examples(count), np.flatnonzero(split.labels == 0)[:count]
    images, masks = _images_and_masks(split, next(iter(maps.values())).images, shown)
    scaled = {name: _scaled(one, shown, normal, images) for name, one in maps.items()}
    known = any(split.masks[i] is not None for i in shown)
    return figures.localization(images, masks if known else None, scaled, heading)


def _scaled(maps, shown, usual, images):
    """The maps of some images, at the pictures' sizes, and the two ends of their common scale.

    The low end is the median over the `usual` images, the high end the median of the images' peaks:
    a single extreme image would leave all others black.
    """
    values = maps.read(shown)
    low = np.median(maps.read(usual) if len(usual) else values)
    own = maps.images.without_border(values, shown)
    own = [resize_map(x, image.shape[:2]) for x, image in zip(own, images, strict=True)]
    return own, low, np.median(values.max(axis=(1, 2)))


def _images_and_masks(split, images, shown):
    """Some images without their border, and their masks at the images' own sizes."""
    masks = [mask_of_size(split.masks[i], images.own_size(i)) for i in shown]
    return images.without_border(images.canvases(shown), shown), masks


def title(config: Config) -> str:
    """Returns the name of a run in figures."""
    network = config.task if config.steps else stage_names(config)[0]
    return f"{config.category}, {network}, seed {config.seed}"
