"""Draws the paper's figures from finished runs.

    python -m cutpaste_tf.figures --figure=2 --run=RUNDIR [--run=RUNDIR ...] [--output=DIR]
    python -m cutpaste_tf.figures --figure=2,3,5,6 --run=RUNDIR

Figure 2: normal and anomalous images, and the views of Cutout, Scar, CutPaste and CutPaste-Scar of
the normal ones. Figure 3: t-SNE of the embeddings of normal images, of anomalous ones and of the
normal ones with a patch or a scar pasted. Both take runs of several categories. Figure 4, and 7 to
21 in the paper's appendix: test images, their masks, and the anomaly maps of the runs, such as a
patch model's and GradCAM's, side by side. Figure 5: the views of all proxy tasks, Cutout's variants
and CutPaste's among them, on the run's own normal images and by its ranges. Figure 6: the kinds of
synthetic anomalies that --test_anomalies tests on, on the run's own normal test images.

All are written as PNG and PDF, into the first run's figures/ unless --output is given.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from cutpaste_tf import choices, cli, run_folder
from cutpaste_tf.files import UserError, say

# How many images each figure shows, and figure 3 embeds of each kind and run.
COUNTS = {"2": 5, "3": 200, "4": 24, "5": 6, "6": 6}
_OF_ONE_RUN = ("5", "6")
_VIEWS = ("cutout", "scar", "cutpaste", "cutpaste_scar")  # Figure 2's augmentations, in its order
_EMBED_BATCH = 64


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    arguments = _parser().parse_args(arguments)
    chosen = arguments.figure.split(",")
    _check(arguments, chosen)
    from cutpaste_tf.draw import figures

    for name in chosen:
        with figures.drawing():
            count = arguments.count or COUNTS[name]
            figure = _DRAWERS[name](arguments.run, count, arguments.data_dir)
            folder = arguments.output or os.path.join(arguments.run[0], "figures")
            with cli.writing("--output", folder):
                os.makedirs(folder, exist_ok=True)
                for ending in ("png", "pdf"):
                    path = os.path.join(folder, f"figure_{name}.{ending}")
                    figure.savefig(path, dpi=120)
                    say(f"written to {path}")


def _parser():
    parser = cli.Parser("figures", __doc__)
    parser.add_argument("--figure", required=True, help=f"{', '.join(COUNTS)}; several by commas")
    parser.add_argument(
        "--run", action="append", required=True, help="a finished run's folder; may be repeated"
    )
    parser.add_argument("--data_dir", help="where the images are now, if they have been moved")
    counts = ", ".join(f"{count} in figure {number}" for number, count in COUNTS.items())
    text = f"how many images; by default {counts}"
    parser.add("count", choices.whole(1), text, parse=int)
    parser.add_argument("--output", help="where to write; figures/ in the first run by default")
    return parser


def _check(arguments, chosen):
    """Raises UserError for a command line that cannot be."""
    for name in chosen:
        if name not in COUNTS:
            raise UserError(f"--figure={name}: must be one of {', '.join(COUNTS)}")
        if name in _OF_ONE_RUN and len(arguments.run) > 1:
            raise UserError(f"--run={arguments.run[1]}: figure {name} is of one run")


def proxy_views(runs: Sequence[str], count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws images and augmented views of the normal ones (Figure 2); runs share `count` rows."""
    import numpy as np

    from cutpaste_tf.augment import proxy
    from cutpaste_tf.draw import figures

    rows, labels = [], []
    names = ["normal", "anomaly", *(proxy.TASKS[task][-1].name for task in _VIEWS)]
    for number, run in enumerate(runs):
        config, category = _images_of(run, data_dir)
        # The first runs take what does not divide.
        wanted = max(1, (count + len(runs) - 1 - number) // len(runs))
        normal = category.train.subset(category.train.spread(wanted))
        anomalous = np.flatnonzero(category.test.labels)
        defects = category.test.subset(anomalous).examples(wanted)
        defects = category.test.subset(anomalous[defects])
        preparation = _preparation(run, config)
        views = [_pasted(config, _read(normal, preparation), task) for task in _VIEWS]
        defects = _canvases(_read(defects, preparation))
        for i, image in enumerate(views[0][0]):
            defect = defects[i] if i < len(defects) else None
            rows.append([image, defect, *(pictures[-1][i] for pictures in views)])
            labels.append(f"{config.category}" if i == 0 else "")
    return figures.views_by_column(rows, names, labels)


def embeddings(runs: Sequence[str], count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws t-SNE of at most `count` images' embeddings of each kind (Figure 3), a panel a run."""
    import numpy as np

    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.preparation import Preparation
    from cutpaste_tf.draw import figures
    from cutpaste_tf.scoring.detector import Detector

    panels = {}
    for run in runs:
        detector = Detector.load(run)
        config, category = _images_of(run, data_dir)
        # Test images, which the network has not seen; their views differ by what is pasted alone.
        normals = np.flatnonzero(category.test.labels == 0)
        normal = category.test.subset(normals) if len(normals) else category.train
        normal = normal.subset(normal.spread(count))
        anomalous = category.test.subset(np.flatnonzero(category.test.labels))
        anomalous = anomalous.subset(anomalous.spread(count))
        parts = [[], [], []]
        for first in range(0, len(normal), _EMBED_BATCH):
            rows = range(first, min(first + _EMBED_BATCH, len(normal)))
            images = _read(normal.subset(rows), detector.preparation)
            views = _pasted(config, images, "cutpaste_3way", first)
            for part, pictures in zip(parts, views, strict=True):
                part.extend(pictures)
        kinds = dict(zip(("normal", "CutPaste", "CutPaste-Scar"), parts, strict=True))
        kinds["anomaly"] = list(_canvases(_read(anomalous, detector.preparation)))
        embedded = {
            kind: detector.embed(pipeline.of_arrays(pictures, Preparation(config.size)))
            for kind, pictures in kinds.items()
            if pictures
        }
        name = f"{config.category}, {config.task}, seed {config.seed}"
        panels[name if name not in panels else f"{name} ({run})"] = embedded
    return figures.embedding_maps(panels)


def _images_of(run, data_dir, tiles=False):
    """The settings of a run and its category's images."""
    import dataclasses

    from cutpaste_tf import data
    from cutpaste_tf.config import Config

    config = Config.load(run)
    if config.tiles != (1, 1) and not tiles:
        raise UserError(f"--run={run}: the figure is of whole images, and this run has --tiles")
    if data_dir:
        config = dataclasses.replace(config, data_dir=data_dir)
    return config, data.load(config)


def _preparation(run, config):
    """How a run's images become what its network sees."""
    from cutpaste_tf.data import decode
    from cutpaste_tf.data.preparation import Preparation

    roi, results = pathlib.Path(run) / run_folder.ROI, pathlib.Path(run) / run_folder.RESULTS
    bits = run_folder.read_results(run)["bit_depth"] if results.is_file() else 16
    return Preparation.of(config, decode.read_mask(roi) if roi.is_file() else None, bits)


def _read(split, preparation):
    """Images as a run's network sees them."""
    from cutpaste_tf.data import pipeline

    return pipeline.prepare(split, preparation)


def _canvases(images):
    """Images whole, uint8 [N, H, W, 3]."""
    return images.canvases(range(images.count))


def _pasted(config, images, task, step=0):
    """A task's views of images that are not otherwise changed, uint8 [K, N, H, W, 3]."""
    import dataclasses

    import numpy as np
    import tensorflow as tf

    from cutpaste_tf.augment import proxy
    from cutpaste_tf.train import views

    still = {"translation": 0.0, "view_jitter": (0.0,), "patch_size": 0}
    settings = dataclasses.replace(views.view_settings(config), **still)
    seed = tf.constant([config.seed, step], tf.int32)
    numbers = tf.range(images.count, dtype=tf.int64)
    region = None if images.regions is None else images.regions_of(numbers)
    drawn = proxy.draw_views(images.count, images.size, task, seed, settings, region)
    views, _ = proxy.apply_views(images.read(numbers), drawn, task, settings)
    views = np.round(255.0 * views.numpy()).astype(np.uint8)
    return views.reshape(len(proxy.TASKS[task]), images.count, *views.shape[1:])


def localization(runs: Sequence[str], count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws test images, their masks and the anomaly maps of runs of one category (Figure 4)."""
    import numpy as np

    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.preparation import mask_of_size, resize_map
    from cutpaste_tf.draw import figures
    from cutpaste_tf.scoring.detector import Detector

    detectors = [Detector.load(run) for run in runs]
    first = detectors[0].config
    for run, detector in zip(runs, detectors, strict=True):
        config = detector.config
        if config.maps == "none":
            raise UserError(f"--run={run}: makes no anomaly maps; train it with --maps")
        if (config.dataset, config.category) != (first.dataset, first.category):
            raise UserError(
                f"--run={run}: is of {config.dataset} {config.category}, the first run of "
                f"{first.dataset} {first.category}"
            )
    test = _images_of(runs[0], data_dir, tiles=True)[1].test
    if not len(test):
        raise UserError(f"--run={runs[0]}: there are no test images to show")
    shown = test.examples(count)
    images = pipeline.prepare(test.subset(shown), detectors[0].preparation)
    numbers = range(len(shown))
    pictures = images.without_border(images.canvases(numbers), numbers)
    chosen = [test.images[i] for i in shown]
    # What is usual on normal images is dark, whatever the method's scale.
    normal = [test.images[i] for i in np.flatnonzero(test.labels == 0)[:count]] or chosen
    maps = {}
    for detector in detectors:
        scored, usual = (detector.evaluate(each).maps for each in (chosen, normal))
        values, usual = (each.read(range(len(each))) for each in (scored, usual))
        over_pictures = [
            resize_map(one, picture.shape[:2])
            for one, picture in zip(
                scored.images.without_border(values, numbers), pictures, strict=True
            )
        ]
        name = figures.MAP_NAMES[detector.config.maps]
        if name in maps:
            name += f" {sum(other.startswith(name) for other in maps) + 1}"
        maps[name] = (over_pictures, np.median(usual), np.quantile(values, 0.999))
    return figures.localization(
        pictures,
        [mask_of_size(test.masks[i], images.own_size(n)) for n, i in enumerate(shown)],
        maps,
        first.category,
    )


def proxy_tasks(runs: Sequence[str], count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws the views of all proxy tasks, a row for each class of view (Figure 5)."""
    (run,) = runs
    config, category = _images_of(run, data_dir)
    import numpy as np

    from cutpaste_tf.augment import proxy
    from cutpaste_tf.draw import figures
    from cutpaste_tf.train import views

    normal = category.train
    images = _read(normal.subset(normal.spread(count)), _preparation(run, config))
    rows = {}
    for task, classes in proxy.TASKS.items():
        if task == "rotation" and len(set(config.input_shape)) > 1:  # It turns squares.
            continue
        pictures = views.gallery(images, config, images.count, task)
        for cls, row in zip(classes, pictures.numpy(), strict=True):
            rows.setdefault(cls.name, row)
    return figures.gallery(
        np.stack(list(rows.values())), list(rows), f"{config.category}: the proxy tasks' views"
    )


def synthetic_anomalies(runs: Sequence[str], count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws synthetic anomalies, a row for each kind (Figure 6)."""
    (run,) = runs
    config, category = _images_of(run, data_dir)
    import numpy as np

    from cutpaste_tf.choices import TEST_ANOMALIES
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.preparation import Preparation
    from cutpaste_tf.draw import figures
    from cutpaste_tf.run import synthetic_tests

    test = category.test
    normal = test.subset(np.flatnonzero(test.labels == 0)[:count])
    images = pipeline.prepare(normal, Preparation(config.size))
    test_sets, digits = synthetic_tests.make_test_sets(TEST_ANOMALIES, normal, images, config.seed)
    pictures = np.stack([anomalies.images.stored[:, 0].numpy() for anomalies in test_sets.values()])
    title = f"{config.category}: synthetic anomalies (mnist: {digits})"
    return figures.gallery(pictures, list(test_sets), title)


_DRAWERS = {
    "2": proxy_views,
    "3": embeddings,
    "4": localization,
    "5": proxy_tasks,
    "6": synthetic_anomalies,
}


if __name__ == "__main__":
    sys.exit(main())
