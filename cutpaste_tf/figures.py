"""Draws the paper's figures from finished runs.

    python -m cutpaste_tf.figures --figure=4 --run=RUNDIR [--run=RUNDIR ...] [--output=DIR]
    python -m cutpaste_tf.figures --figure=5 --run=RUNDIR [--output=DIR]
    python -m cutpaste_tf.figures --figure=6 --run=RUNDIR [--output=DIR]

Figure 4, and 7 to 21 in the paper's appendix: test images, their masks, and the anomaly maps of the
runs, such as a patch model's and GradCAM's, side by side. Figure 5: the views of all proxy tasks,
Cutout's variants and CutPaste's among them, on the run's own normal images and by its ranges.
Figure 6: the kinds of synthetic anomalies that --test_anomalies tests on, on the run's own normal
test images. All are written as PNG and PDF and, unless --output is given, to the first run's
TensorBoard.
"""

import pathlib
import sys
from collections.abc import Sequence

from cutpaste_tf.errors import Parser, UserError

FIGURES = ("4", "5", "6")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0, or 2 for a mistake of the user's, told in one line on stderr.
    """
    parser = Parser(prog="python -m cutpaste_tf.figures", description=__doc__)
    parser.add_argument(
        "--figure", required=True, help="the figure's number in the paper: 4, 5 or 6"
    )
    parser.add_argument(
        "--run", action="append", required=True, help="a finished run's folder; may be repeated"
    )
    parser.add_argument("--data_dir", help="where the images are now, if they have been moved")
    parser.add_argument("--count", type=int, help="how many images; 24 in figure 4, else 6")
    parser.add_argument("--output", help="where to write; the first run's figures/ by default")
    try:
        arguments = parser.parse_args((sys.argv if argv is None else argv)[1:])
        if arguments.figure not in FIGURES:
            raise UserError(f"--figure={arguments.figure}: must be one of {', '.join(FIGURES)}")
        if arguments.count is not None and arguments.count < 1:
            raise UserError(f"--count={arguments.count}: must be a whole number, at least 1")
        if arguments.figure == "4":
            figure = localization(arguments.run, arguments.count or 24, arguments.data_dir)
        else:
            if len(arguments.run) > 1:
                raise UserError(
                    f"--run={arguments.run[1]}: figure {arguments.figure} is of one run"
                )
            draw = proxy_tasks if arguments.figure == "5" else synthetic_anomalies
            figure = draw(arguments.run[0], arguments.count or 6, arguments.data_dir)
        first = pathlib.Path(arguments.run[0])
        output = pathlib.Path(arguments.output or first / "figures")
        tensorboard = None if arguments.output else first / "tensorboard" / "figures"
        _save(figure, output, f"figure_{arguments.figure}", tensorboard)
        return 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def localization(runs: Sequence[str], count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws test images, their masks and the anomaly maps of runs (Figure 4).

    Args:
      runs: folders of finished runs on the same category, each with anomaly maps.
      count: how many test images; spread over the types of defect.
      data_dir: where the images are, if not where the first run found them.

    Returns:
      A matplotlib figure.

    Raises:
      UserError: if a run is not finished, makes no maps or is of another category.
    """
    from cutpaste_tf.main import prepare_libraries

    prepare_libraries()
    import dataclasses

    import numpy as np
    import tensorflow as tf

    from cutpaste_tf import data
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.evaluate import Detector
    from cutpaste_tf.report import figures

    detectors = [Detector.load(run) for run in runs]
    first = detectors[0].config
    for run, detector in zip(runs, detectors, strict=True):
        config = detector.config
        if not (config.patch_size or config.gradcam):
            raise UserError(
                f"--run={run}: makes no anomaly maps; train it with --patch_size or --gradcam"
            )
        if (config.dataset, config.category) != (first.dataset, first.category):
            raise UserError(
                f"--run={run}: is of {config.dataset} {config.category}, the first run of "
                f"{first.dataset} {first.category}"
            )
    config = dataclasses.replace(first, data_dir=data_dir) if data_dir else first
    test = data.load(config).test
    if not len(test):
        raise UserError(f"--run={runs[0]}: there are no test images to show")
    shown = test.examples(count)
    size = first.image_size
    chosen = [test.images[i] for i in shown]
    # What is usual on normal images is dark, whatever the method's scale.
    normal = [test.images[i] for i in np.flatnonzero(test.labels == 0)[:count]] or chosen
    maps = {}
    for detector in detectors:
        values, usual = (
            found.maps.read(range(len(found.scores)))
            for found in (detector.evaluate(chosen), detector.evaluate(normal))
        )
        if values.shape[1] != size:
            values = tf.image.resize(values[..., None], [size, size])[..., 0].numpy()
        name = "GradCAM" if detector.config.gradcam else "patch heat map"
        if name in maps:
            name += f" {sum(other.startswith(name) for other in maps) + 1}"
        maps[name] = (values, np.median(usual), np.quantile(values, 0.999))
    return figures.localization(
        pipeline.prepare(test.subset(shown), size).read(tf.range(len(shown))).numpy(),
        np.stack([pipeline.read_mask(test.masks[i], size) for i in shown]),
        maps,
        first.category,
    )


def proxy_tasks(run: str, count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws the views of all proxy tasks (Figure 5).

    Args:
      run: the folder of a run, whose normal images, size and ranges are used.
      count: how many images.
      data_dir: where the images are, if not where the run found them.

    Returns:
      A matplotlib figure: a row for each class of view. Cutout's variants and CutPaste have their
      patch in the same place.

    Raises:
      UserError: if the run's folder or its images cannot be read.
    """
    from cutpaste_tf.main import prepare_libraries

    prepare_libraries()
    import dataclasses

    import numpy as np

    from cutpaste_tf import data, train
    from cutpaste_tf.augment import paste, proxy
    from cutpaste_tf.config import Config
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.report import figures

    config = Config.load(run)
    if data_dir:
        config = dataclasses.replace(config, data_dir=data_dir)
    if paste.scar_side(config.scar_width, config.scar_length) > config.input_size:
        raise UserError(
            f"--run={run}: its images of {config.input_size} pixels are too small for scars"
        )
    normal = data.load(config).train
    chosen = np.unique(np.linspace(0, len(normal) - 1, count).astype(int))
    images = pipeline.prepare(normal.subset(chosen), config.image_size)
    rows = {}
    for task, classes in proxy.TASKS.items():
        pictures = train.gallery(images, config, images.count, task)
        for cls, views in zip(classes, pictures.numpy(), strict=True):
            rows.setdefault(cls.name, views)
    return figures.augmentation_gallery(
        np.stack(list(rows.values())), list(rows), f"{config.category}: the proxy tasks' views"
    )


def synthetic_anomalies(run: str, count: int, data_dir: str | None = None):  # noqa: ANN201
    """Draws synthetic anomalies (Figure 6).

    Args:
      run: the folder of a run, whose normal test images, size and seed are used.
      count: how many images.
      data_dir: where the images are, if not where the run found them.

    Returns:
      A matplotlib figure: a row for each kind, with the first normal test images.

    Raises:
      UserError: if the run's folder or its images cannot be read, or there are no normal ones.
    """
    from cutpaste_tf.main import prepare_libraries

    prepare_libraries()
    import dataclasses

    import numpy as np

    from cutpaste_tf import data, evaluate
    from cutpaste_tf.config import TEST_ANOMALIES, Config
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.report import figures

    config = Config.load(run)
    if data_dir:
        config = dataclasses.replace(config, data_dir=data_dir)
    test = data.load(config).test
    normal = test.subset(np.flatnonzero(test.labels == 0)[:count])
    images = pipeline.prepare(normal, config.image_size)
    made, digits = evaluate.synthetic_sets(TEST_ANOMALIES, normal, images, config.seed)
    pictures = np.stack([anomalies.images.stored.numpy() for anomalies in made.values()])
    title = f"{config.category}: synthetic anomalies (mnist: {digits})"
    return figures.augmentation_gallery(pictures, list(made), title)


def _save(figure, folder, name, tensorboard=None):
    import matplotlib.pyplot as plt

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending in ("png", "pdf"):
            path = folder / f"{name}.{ending}"
            figure.savefig(path, dpi=120)
            print(f"written to {path}")
        if tensorboard is not None:
            import tensorflow as tf

            picture = tf.io.decode_png(tf.io.read_file(str(folder / f"{name}.png")), channels=3)
            with tf.summary.create_file_writer(str(tensorboard)).as_default():
                tf.summary.image(f"figures/{name}", picture[None], 0)
    except OSError as error:
        raise UserError(f"--output={folder}: cannot be written ({error.strerror})") from error
    finally:
        plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
