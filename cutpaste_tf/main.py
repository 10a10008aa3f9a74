"""Trains and evaluates CutPaste: flags in, runs out.

    python -m cutpaste_tf.main --flagfile=experiments/demo.flags

One run for each category and seed, in WORKDIR/CATEGORY/seed_N. What was interrupted is resumed,
what is finished is skipped. See README.md and --help.
"""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Sequence

from cutpaste_tf import config as configs
from cutpaste_tf.config import TEST_ANOMALIES, Config
from cutpaste_tf.errors import UserError

# Nothing here imports TensorFlow before the flags are checked: --help and mistakes answer at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0, or 2 for a mistake of the user's, told in one line on stderr.
    """
    try:
        runs = configs.parse(sys.argv if argv is None else argv)
        states = [run_state(config) for config in runs]
        # Of several workers the first alone writes and reports.
        leads = leads_workers(runs[0])
        if any(state != "finished" for state in states):
            check_machine(runs[0])
        check_workers(runs[0], states)
        for config, state in zip(runs, states, strict=True):
            if state == "new" and leads:
                make_run_dir(config)
        finished = [
            load_results(config) if state == "finished" else run(config)
            for config, state in zip(runs, states, strict=True)
        ]
        if len(finished) > 1 and leads:
            print_summary(finished, runs)
        return 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; start again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        message = mend(error, runs[0])
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
    return 2


def mend(error: Exception, config: Config) -> str | None:
    """Returns what a user can do about an error, in one line, if it is not the program's."""
    reason = disk_error(error)
    if reason is not None:
        return (
            f"--workdir={config.workdir}: cannot be written ({reason}); make room or mend its "
            "permissions, and start again to resume"
        )
    if config.distribution == "multi_worker":
        from cutpaste_tf import distribution

        if isinstance(error, distribution.LOST):
            return (
                "--distribution=multi_worker: another worker has ended or cannot be reached; see "
                f"what it printed ({str(error).splitlines()[0]})"
            )
    return None


def disk_error(error: Exception) -> str | None:
    """Returns what is wrong with the disk, if that is what an error is about; None otherwise."""
    reasons = [
        os.strerror(code)
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)
    ]
    # h5py and TensorFlow give the reason in the message alone.
    return next((reason for reason in reasons if reason in str(error)), None)


def run_state(config: Config) -> str:
    """Looks at what a run's folder holds; writes nothing.

    Args:
      config: the run's settings.

    Returns:
      "new", "interrupted" or "finished".

    Raises:
      UserError: if the folder belongs to a run with other settings.
    """
    run_dir = config.run_dir
    path = run_dir / "config.json"
    if not path.is_file():
        return "new"
    earlier = Config.from_json(path.read_text(encoding="utf-8"), str(path))
    different = config.differences(earlier)
    if different:
        name = different[0]
        raise UserError(
            f"{run_dir}: holds a run with --{name}={configs.show(getattr(earlier, name))}, not "
            f"{configs.show(getattr(config, name))}; name another --workdir or remove it"
        )
    finished = (run_dir / "results.json").is_file()
    if finished and not measured(config):
        return "interrupted"  # It is trained, and only to be evaluated again.
    return "finished" if finished else "interrupted"


def measured(config: Config) -> bool:
    """Returns whether a finished run's results have all densities and tests that are asked for."""
    densities = config.density.split(",")
    return set(config.synthetic_tests) <= set(already(config, "test_anomalies")) and (
        len(densities) == 1 or set(densities) <= set(already(config, "density"))
    )


def already(config: Config, what: str) -> list[str]:
    """Returns by which test anomalies, or densities, a run has results; none without a file."""
    path = config.run_dir / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return list(results.get(f"image_auroc_by_{what}") or {})
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not readable; remove it to evaluate the run again") from error


def asks_of_machine(config: Config) -> bool:
    """Returns whether `check_machine` has anything to check."""
    return config.weights != "none" or config.distribution != "none"


def check_machine(config: Config) -> None:
    """Checks what the flags ask of this machine, before anything is written.

    The weights that --weights names are fetched or read, and --distribution's devices counted.

    Args:
      config: the settings.

    Raises:
      UserError: if the weights cannot be had or are another network's, or the devices do not fit.
    """
    if not asks_of_machine(config):
        return
    prepare_libraries()
    from cutpaste_tf import distribution, train

    distribution.strategy(config)
    if config.weights != "none":
        train.build_backbone(config)


def check_workers(config: Config, states: Sequence[str]) -> None:
    """Checks that all workers see the same finished runs, before any waits for another.

    Args:
      config: the settings.
      states: of the runs, as this worker sees them.

    Raises:
      UserError: if they do not.
    """
    if config.distribution != "multi_worker":
        return
    from cutpaste_tf import distribution

    distribution.check_agreement(config, states.count("finished"))


def leads_workers(config: Config) -> bool:
    """Returns whether this process writes what a run leaves: all but the workers after the first.

    Raises:
      UserError: if --distribution=multi_worker lacks its TF_CONFIG.
    """
    if config.distribution != "multi_worker":
        return True
    prepare_libraries()
    from cutpaste_tf import distribution

    return distribution.leads(config)


def make_run_dir(config: Config) -> None:
    """Makes a run's folder and writes config.json.

    Args:
      config: the run's settings.

    Raises:
      UserError: if the folder cannot be written.
    """
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        temporary = config.run_dir / "config.json.tmp"
        temporary.write_text(config.to_json(), encoding="utf-8")
        os.replace(temporary, config.run_dir / "config.json")
    except OSError as error:
        raise UserError(
            f"--workdir={config.workdir}: cannot be written ({error.strerror or error})"
        ) from error


def load_results(config: Config) -> dict:
    """Returns a finished run's results, and says that it is skipped."""
    path = config.run_dir / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable; remove it to evaluate the run again") from error
    if leads_workers(config):
        rate = results.get("false_positive_rate", config.false_positive_rate)
        stays = ""
        if rate != config.false_positive_rate:
            stays = f"; its threshold stays that of --false_positive_rate={rate:g}"
        print(f"{config.run_dir}: finished already, skipped{stays}")
    return results


def prepare_libraries() -> None:
    """Sets what TensorFlow and Keras read when they are imported.

    Raises:
      UserError: if the user has chosen another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own notes, not errors of ours
    if os.environ.setdefault("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}: must be tensorflow, or not set"
        )


def run(config: Config) -> dict:
    """Trains and evaluates one category with one seed.

    Args:
      config: the run's settings.

    Returns:
      The results, as written to results.json; nothing on workers after the first.

    Raises:
      UserError: for what the user can mend.
    """
    prepare_libraries()
    import keras

    from cutpaste_tf import data, distribution, evaluate, train
    from cutpaste_tf.data import pipeline

    leads = distribution.leads(config)

    def log(text):
        if leads:
            print(f"[{config.category} seed {config.seed}] {text}", flush=True)

    run_dir = config.run_dir
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)

    # 1. The images, all decoded once, so that a broken one is found before any training.
    category = data.load(config)
    train_images = pipeline.prepare(category.train, config.image_size)
    test_images = pipeline.prepare(category.test, config.image_size)
    labels = category.test.labels
    log(
        f"{len(category.train)} images to train on, {len(category.test)} to test "
        f"({int(labels.sum())} anomalous), on {evaluate.device()}"
    )
    evaluate.check_densities(config, len(category.train))
    measurable = 0 < labels.sum() < len(labels)
    if not measurable:
        log("no normal and anomalous test images to tell apart: metrics will be null")

    # 2. The network, and what it is worth before training.
    model = train.build(config)
    if not leads:
        train.train(model, train_images, config, run_dir, log=log)
        distribution.wait(config)
        return {}
    evaluator = evaluate.Evaluator(config, model.backbone)
    untrained = evaluator(train_images, test_images)
    # Section 5.3's tests, and further densities: those of an earlier evaluation too.
    asked = {*config.synthetic_tests, *already(config, "test_anomalies")}
    kinds = [kind for kind in TEST_ANOMALIES if kind in asked]
    every = dict.fromkeys([*config.density.split(","), *already(config, "density")])
    config = dataclasses.replace(config, density=",".join(every))
    made, digits = evaluate.synthetic_sets(kinds, category.test, test_images, config.seed)
    if digits is not None:
        log(f"test anomalies mnist: made of {digits}")
    untrained_on = evaluate.on_synthetic_sets(
        evaluator, untrained[config.features], category.test, made
    )

    # 3. Self-supervised training on the proxy task (Section 2.1).
    def aurocs():
        evaluations = evaluator(train_images, test_images, maps=False)
        found = {n: evaluate.metrics.image_auroc(labels, e.scores) for n, e in evaluations.items()}
        # Under its own name where there are several to tell apart.
        apart = {f"image_auroc_{n}": value for n, value in found.items()} if len(found) > 1 else {}
        return {"image_auroc": found[config.features], **apart}

    summary = train.train(model, train_images, config, run_dir, aurocs if measurable else None, log)

    # 4. The density of the normal features, and the anomaly scores (Section 2.3).
    trained = evaluator(train_images, test_images) if config.steps else untrained
    chosen = trained[config.features]
    trained_on = evaluate.on_synthetic_sets(evaluator, chosen, category.test, made)
    evaluate.densities.save(chosen.density, run_dir / evaluate.DENSITY)
    evaluate.write_scores(run_dir, category.test, chosen.scores)
    normal_scores = evaluator.normal_scores(train_images, chosen)
    evaluate.write_normal_scores(run_dir, category.train, normal_scores)
    show_embeddings(config, category, train_images, test_images, chosen, normal_scores)

    # 5. Figures and results; results.json is last: its presence means that the run is finished.
    draw_figures(
        config, category.test, train_images, test_images, chosen, untrained[config.features]
    )
    results = evaluate.results(
        config, category.test, len(category.train), trained, untrained, normal_scores, summary
    )
    results |= evaluate.synthetic_results(untrained_on, trained_on, digits)
    by_density = evaluate.auroc_by_density(config, chosen, labels)
    if by_density:
        results["image_auroc_by_density"] = by_density
    results["sha256"] = evaluate.checksums(run_dir, config)
    evaluate.write_json(run_dir / evaluate.RESULTS, results)
    distribution.wait(config)
    if measurable:
        found = results["image_auroc_by_feature"]
        parts = []
        for name, (first, *last) in ((n, list(of_stage.items())) for n, of_stage in found.items()):
            of = f"of {name} " if len(found) > 1 else ""
            before = f"{first[0]} {100 * first[1]:.1f}"
            parts += [f"{of}{100 * value:.1f} ({before})" for _, value in last] or [f"{of}{before}"]
        parts.append(f"AP {100 * results['image_ap']:.1f}")
        for name, text in (("pixel_auroc", "pixel AUROC"), ("pixel_aupro", "AUPRO")):
            if results[name] is not None:
                before = (
                    f"{evaluate.stage_names(config)[0]} {100 * results['untrained_' + name]:.1f}"
                )
                parts.append(f"{text} {100 * results[name]:.1f} ({before})")
        log(f"image AUROC {', '.join(parts)}, trained for {summary.seconds:.0f} s")
    for kind, auroc in by_density.items():
        if auroc is not None:
            log(f"density {kind}: image AUROC {100 * auroc:.1f}")
    for kind, (auroc, _) in trained_on.items():
        first = 100 * untrained_on[kind][0]
        log(f"test anomalies {kind}: image AUROC {100 * auroc:.1f} (untrained {first:.1f})")
    if results["threshold"] is not None:
        log(threshold_line(results))
    log(f"written to {run_dir}")
    return results


def threshold_line(results: dict) -> str:
    """Returns in one line what a run's threshold is, and what it does on labelled images."""
    from cutpaste_tf import threshold

    rate, count = results["false_positive_rate"], results["num_normal_scores"]
    line = f"threshold {results['threshold']:.4g} for a false-positive rate of {100 * rate:g}%"
    least = threshold.smallest_rate(count)
    if rate < least:
        line += f" ({count} normal images vouch for {100 * least:.2g}% at best)"
    names = ("test_false_positive_rate", "test_true_positive_rate")
    kinds = zip(("normal", "anomalous"), (results[name] for name in names), strict=True)
    found = [f"{100 * share:.0f}% of the {kind}" for kind, share in kinds if share is not None]
    return line + (f"; above it: {' and '.join(found)} test images" if found else "")


def draw_figures(config, test_split, train_images, test_images, trained, untrained) -> None:
    """Draws the run's figures into figures/ and TensorBoard.

    Args:
      config: the run's settings.
      test_split: the test images' labels, types and masks.
      train_images: the training images.
      test_images: the test images.
      trained: the evaluation after training.
      untrained: the evaluation before training.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    import tensorflow as tf

    from cutpaste_tf import evaluate, train
    from cutpaste_tf.augment import proxy
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.report import figures

    title = f"{config.category}, {config.task}, seed {config.seed}"
    labels, scores = test_split.labels, trained.scores
    views = train.gallery(train_images, config, 6).numpy()
    names = [cls.name for cls in proxy.TASKS[config.task]]
    drawn = {"augmentations": figures.augmentation_gallery(views, names, title)}
    if len(labels):
        drawn["score_histogram"] = figures.score_histogram(labels, scores, title)
        order = np.argsort(-scores, kind="stable")
        count = min(8, len(order))
        shown = np.concatenate([order[:count], order[::-1][:count]])
        drawn["most_and_least_anomalous"] = figures.extremes(
            test_images.read(tf.constant(shown)).numpy(),
            [pipeline.read_mask(test_split.masks[i], config.image_size) for i in shown],
            labels[shown],
            [test_split.defect_types[i] for i in shown],
            scores[shown],
            title,
        )
    if trained.maps is not None and len(labels):
        drawn["localization"] = draw_localization(config, test_split, test_images, trained.maps)
    if 0 < labels.sum() < len(labels):
        before, after = evaluate.stage_names(config)
        stages = {after: scores, before: untrained.scores} if config.steps else {before: scores}
        drawn["roc"] = figures.roc_curve(labels, stages, title)
    folder = config.run_dir / "figures"
    folder.mkdir(exist_ok=True)
    writer = tf.summary.create_file_writer(str(config.run_dir / "tensorboard" / "evaluation"))
    with writer.as_default():
        for name, figure in drawn.items():
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=100)
            plt.close(figure)
            picture = tf.io.decode_png(tf.io.read_file(str(path)), channels=3)
            tf.summary.image(f"figures/{name}", picture[None], config.steps)
        if 0 < labels.sum() < len(labels):
            tf.summary.scalar("final_image_auroc", _auroc(labels, scores), config.steps)
    writer.close()


def show_embeddings(config, category, train_images, test_images, found, normal_scores) -> None:
    """Writes embeddings for TensorBoard's projector, of a share of the images where they are many.

    Args:
      config: the run's settings.
      category: training and test images' names, labels and types.
      train_images: the training images; left out of a patch model, which never holds what its
        density is fitted to.
      test_images: the test images.
      found: the evaluation after training.
      normal_scores: cross-validated scores of the training images; there may be none.
    """
    import numpy as np
    import tensorflow as tf

    from cutpaste_tf.report import projector

    parts = [("test", category.test, test_images, found.features, found.scores)]
    if found.normal_features is not None:
        scores = normal_scores if len(normal_scores) else [""] * len(category.train)
        parts.append(("train", category.train, train_images, found.normal_features, scores))
    total = sum(len(split) for _, split, *_ in parts)
    columns = {"type": [], "label": [], "split": [], "score": [], "path": []}
    features, pictures = [], []
    for part, split, images, of_part, scores in parts:
        chosen = split.spread(max(1, len(split) * projector.MOST // max(total, projector.MOST)))
        features.append(of_part[chosen])
        for i in chosen:
            label = "anomalous" if split.labels[i] else "normal"
            row = (split.defect_types[i], label, part, scores[i], split.names[i])
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            pictures.append(images.read(tf.constant([i]))[0].numpy())
    if pictures:
        folder = config.run_dir / "tensorboard" / "evaluation"
        projector.write(folder, np.concatenate(features), columns, pictures)


def draw_localization(config, test_split, test_images, maps, count: int = 24):  # noqa: ANN201
    """Draws test images with their masks and anomaly maps.

    Args:
      config: the run's settings.
      test_split: the test images' labels, types and masks.
      test_images: the test images.
      maps: their anomaly maps, an `evaluate.Maps`.
      count: how many images; spread over the types of defect.

    Returns:
      The figure.
    """
    import numpy as np
    import tensorflow as tf

    from cutpaste_tf.data import pipeline
    from cutpaste_tf.report import figures

    shown = test_split.examples(count)
    values = maps.read(shown)
    # One scale for all: from what is usual on normal pixels to nearly the largest.
    normal = np.flatnonzero(test_split.labels == 0)[:count]
    low = np.median(maps.read(normal)) if len(normal) else np.median(values)
    high = np.quantile(values, 0.999)
    name = "GradCAM" if config.gradcam else "patch heat map"
    return figures.localization(
        test_images.read(tf.constant(shown)).numpy(),
        np.stack([pipeline.read_mask(test_split.masks[i], config.image_size) for i in shown]),
        {name: (values, low, high)},
        f"{config.category}, {config.task}, seed {config.seed}",
    )


def _auroc(labels, scores):
    from cutpaste_tf import metrics

    return metrics.image_auroc(labels, scores)


def print_summary(results: Sequence[dict], runs: Sequence[Config]) -> None:
    """Prints a line for each of several runs, their mean, and the ensembles of a category's seeds.

    Args:
      results: the runs' results.
      runs: the runs' settings.
    """
    from cutpaste_tf import ensemble

    def percent(value):
        return "     -" if value is None else f"{100 * value:6.1f}"

    print(f"{'category':20s} {'seed':>4s}  AUROC  before training")
    for r in results:
        print(
            f"{r['category']:20s} {r['seed']:4d} {percent(r['image_auroc'])} "
            f"    {percent(r['untrained_image_auroc'])}"
        )
    seeds = {}
    for config in runs:
        seeds.setdefault(config.category, []).append(config.run_dir)
    for category, run_dirs in seeds.items():
        try:
            found = ensemble.of_runs(run_dirs) if len(run_dirs) > 1 else None
        except UserError as error:  # The runs stand for themselves all the same.
            print(f"warning: no ensemble: {error}", file=sys.stderr)
            continue
        if found is not None:
            print(f"{category:20s}  all {percent(_auroc(*found))}     (ensemble)")
    known = [r for r in results if r["image_auroc"] is not None]
    if known:
        mean = [
            percent(sum(r[name] for r in known) / len(known))
            for name in ("image_auroc", "untrained_image_auroc")
        ]
        print(f"{'mean':20s}      {mean[0]}     {mean[1]}")


if __name__ == "__main__":
    sys.exit(main())
