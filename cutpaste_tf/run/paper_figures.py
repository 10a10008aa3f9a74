"""The paper's Figures 2 to 6, drawn from finished runs.

Each function takes the runs' folders, how many images to show, and where the images are, if they
have moved; it returns a figure.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from cutpaste_tf import data
from cutpaste_tf.augment import proxy
from cutpaste_tf.choices import TEST_ANOMALIES
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import Category
from cutpaste_tf.draw import figures
from cutpaste_tf.files import UserError
from cutpaste_tf.run import pictures, synthetic_tests
from cutpaste_tf.scoring.detector import Detector
from cutpaste_tf.train import views

_TASKS = ("cutout", "scar", "cutpaste", "cutpaste_scar")  # Figure 2's augmentations, in its order


def proxy_views(runs: Sequence[str], count: int, data_dir: str | None = None) -> Figure:
    """Draws normal images, their views, and anomalous images (Figure 2), in `count` rows."""
    rows, labels = [], []
    names = ["normal", "anomaly", *(proxy.TASKS[task][-1].name for task in _TASKS)]
    for number, run in enumerate(runs):
        detector, category = _load(run, data_dir)
        # Where the rows do not divide, the first runs have one more.
        share = max(1, (count + len(runs) - 1 - number) // len(runs))
        normal = category.train.subset(category.train.spread(share))
        images = pipeline.prepare(normal, detector.preparation)
        # Each run draws its own patches.
        config = dataclasses.replace(detector.config, seed=detector.config.seed + number)
        by_task = [_pasted(config, images, task) for task in _TASKS]
        anomalous = category.test.subset(np.flatnonzero(category.test.labels))
        anomalous = anomalous.subset(anomalous.examples(share))
        defects = pipeline.prepare(anomalous, detector.preparation)
        defects = [*defects.canvases(range(defects.count)), *[None] * images.count]
        for i, image in enumerate(by_task[0][0]):
            rows.append([image, defects[i], *(by_class[-1][i] for by_class in by_task)])
            labels.append("" if i else detector.config.category)
    return figures.views_by_column(rows, names, labels)


def embeddings(runs: Sequence[str], count: int, data_dir: str | None = None) -> Figure:
    """Draws t-SNE of embeddings, of `count` images of each kind at most (Figure 3).

    Each run has a panel.
    """
    panels = {}
    for run in runs:
        detector, category = _load(run, data_dir)
        # Normal test images, as the network has not seen these in training.
        test = category.test
        normal, anomalous = (test.subset(np.flatnonzero(test.labels == label)) for label in (0, 1))
        normal, anomalous = (
            pipeline.prepare(split.subset(split.spread(count)), detector.preparation)
            for split in (normal if len(normal) else category.train, anomalous)
        )
        names = [view.name for view in proxy.TASKS["cutpaste_3way"]]
        kinds = dict(zip(names, _pasted(detector.config, normal, "cutpaste_3way"), strict=True))
        kinds["anomaly"] = anomalous.canvases(range(anomalous.count))
        title = pictures.title(detector.config)
        shape = Preparation(detector.config.size)
        panels[title if title not in panels else f"{title} ({run})"] = {
            kind: detector.scorer.embed(pipeline.of_arrays(images, shape))
            for kind, images in kinds.items()
            if len(images)
        }
    return figures.embedding_maps(panels)


def localization(runs: Sequence[str], count: int, data_dir: str | None = None) -> Figure:
    """Draws test images, masks and anomaly maps of several runs of one category (Figure 4)."""
    maps, first = {}, None
    for run in runs:
        detector, category = _load(run, data_dir, tiles=True)
        config = detector.config
        if config.maps == "none":
            raise UserError(f"--run={run}: makes no anomaly maps; train it with --maps")
        if first is None:
            first, test = config, category.test
            if not len(test):
                raise UserError(f"--run={run}: there are no test images to show")
            normal = np.flatnonzero(test.labels == 0)[:count]
            test = test.subset(np.union1d(test.examples(count), normal))
        if (config.dataset, config.category) != (first.dataset, first.category):
            raise UserError(
                f"--run={run}: belongs to {config.dataset} {config.category}, the first run to "
                f"{first.dataset} {first.category}"
            )
        name = figures.MAP_NAMES[config.maps]
        alike = sum(other.startswith(name) for other in maps)
        maps[f"{name} {alike + 1}" if alike else name] = detector.evaluate(test.images).maps
    return pictures.localization(test, maps, first.category, count)


def proxy_tasks(runs: Sequence[str], count: int, data_dir: str | None = None) -> Figure:
    """Draws the views of all proxy tasks, a row for each class of view (Figure 5)."""
    detector, category = _load(runs[0], data_dir)
    normal = category.train.subset(category.train.spread(count))
    images = pipeline.prepare(normal, detector.preparation)
    config, rows = detector.config, {}
    for task, classes in proxy.TASKS.items():
        if task == "rotation" and len(set(config.input_shape)) > 1:  # Rotation needs squares.
            continue
        by_class = views.gallery(images, config, images.count, task).numpy()
        for one, row in zip(classes, by_class, strict=True):
            rows.setdefault(one.name, row)
    title = f"{config.category}: the proxy tasks' views"
    return figures.gallery(np.stack(list(rows.values())), list(rows), title)


def synthetic_anomalies(runs: Sequence[str], count: int, data_dir: str | None = None) -> Figure:
    """Draws synthetic anomalies, a row for each kind (Figure 6)."""
    detector, category = _load(runs[0], data_dir)
    config, test = detector.config, category.test
    normal = test.subset(np.flatnonzero(test.labels == 0)[:count])
    images = pipeline.prepare(normal, Preparation(config.size))
    test_sets, digits = synthetic_tests.make_test_sets(
        TEST_ANOMALIES, normal.labels, images, config.seed
    )
    by_kind = [anomalies.canvases(range(images.count)) for anomalies in test_sets.values()]
    title = f"{config.category}: synthetic anomalies (mnist: {digits})"
    return figures.gallery(np.stack(by_kind), list(test_sets), title)


FIGURES = {
    "2": proxy_views,
    "3": embeddings,
    "4": localization,
    "5": proxy_tasks,
    "6": synthetic_anomalies,
}


def _load(run: str, data_dir: str | None, *, tiles: bool = False) -> tuple[Detector, Category]:
    """A run and its category's images; a UserError if the figure cannot show a run with tiles."""
    detector = Detector.load(run)
    config = detector.config
    if config.tiles != (1, 1) and not tiles:
        raise UserError(f"--run={run}: has --tiles, but the figure shows whole images")
    return detector, data.load(dataclasses.replace(config, data_dir=data_dir or config.data_dir))


def _pasted(config: Config, images: pipeline.Images, task: str) -> np.ndarray:
    """A task's views without translation and colour jitter, uint8 [K, N, H, W, 3]."""
    still = {"translation": 0.0, "view_jitter": (0.0,), "patch_size": 0}
    settings = dataclasses.replace(views.view_settings(config), **still)
    numbers = tf.range(images.count, dtype=tf.int64)
    region = None if images.regions is None else images.regions_of(numbers)
    seed = tf.constant([config.seed, 0], tf.int32)
    drawn = proxy.draw_views(images.count, images.size, task, seed, settings, region)
    by_class, _ = proxy.apply_views(images.read(numbers), drawn, task, settings)
    by_class = np.round(255.0 * by_class.numpy()).astype(np.uint8)
    return by_class.reshape(len(proxy.TASKS[task]), images.count, *by_class.shape[1:])
