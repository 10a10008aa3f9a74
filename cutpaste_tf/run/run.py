"""One run, from its images to its results, in the order of the paper's Section 2."""

import dataclasses
import pathlib
from collections.abc import Callable

import keras
import numpy as np
from PIL import Image

from cutpaste_tf import machine, run_folder
from cutpaste_tf.choices import TEST_ANOMALIES
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode, pipeline, region
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.files import replacing, say
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models import weights
from cutpaste_tf.run import pictures, results, synthetic_tests
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.detector import make_scorer
from cutpaste_tf.scoring.pooled import PooledScorer
from cutpaste_tf.scoring.scorer import Evaluation, evaluate
from cutpaste_tf.train import classifier, loop


def train_and_evaluate(config: Config, all_images: Category) -> dict:
    """Trains and evaluates one category with one seed.

    Args:
      config: the run's settings; the run's folder must exist.
      all_images: what `data.load` returned.

    Returns:
      The results, as in results.json.

    Raises:
      UserError: for a mistake that the user can correct.
    """

    def log(text):
        say(f"[{config.category} seed {config.seed}] {text}")

    run_dir = config.run_dir
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)

    # 1. The images. All are decoded once, so that a broken image is found before the training.
    bits = pipeline.filled_bits(all_images.train)
    roi = _region(config, all_images.train, bits, log)
    preparation = Preparation.of(config, roi, bits)
    train_images = pipeline.prepare(all_images.train, preparation)
    test_images = pipeline.prepare(all_images.test, preparation)
    labels = all_images.test.labels
    log(
        f"{len(all_images.train)} images to train on, {len(all_images.test)} to test "
        f"({int(labels.sum())} anomalous), on {machine.device()}"
    )
    for note in all_images.notes:
        log(note)
    in_region = train_images.in_region
    category, train_images = pipeline.without_copies(all_images, train_images, test_images)
    if warning := results.check_images(config, train_images, in_region):
        log(warning)
    measurable = 0 < labels.sum() < len(labels)
    if not measurable:
        log("the test images are not both normal and anomalous: metrics will be null")

    # 2. The network, and its evaluation before the training.
    model = classifier.build_classifier(config)
    # A mistake that was found above leaves no files.
    run_folder.begin(config, all_images)
    if roi is not None:
        with replacing(run_dir / run_folder.ROI) as temporary:
            Image.fromarray(roi.astype(np.uint8) * 255).save(temporary, "png")
    scorer = make_scorer(config, model.backbone, train_images)
    if config.location_density == "auto" and scorer.config.location_density == "nearest":
        log("all places look alike, as in textures: the run takes --location_density=nearest")
    config = _with_earlier_densities(config)
    test_sets, digits = synthetic_tests.make_test_sets(
        _test_anomalies(config), labels, test_images, config.seed
    )
    if digits is not None:
        log(f"test anomalies mnist: made from {digits}")
    validate, untrained, untrained_on_sets = bool(config.false_positive_rate), None, {}
    # A patch model scores thousands of patches per image; an untrained one is not worth the hours.
    if not config.patch_size or not config.steps:
        # Only the final network needs cross-validation, which gives the run's threshold.
        untrained = evaluate(scorer, train_images, test_images, validate and not config.steps)
        untrained_on_sets = synthetic_tests.measure_test_sets(scorer, untrained, labels, test_sets)

    # 3. Self-supervised training on the proxy task (Section 2.1).
    if config.keep_pretrained:
        pretrained = _kept_pretrained(model.backbone, run_dir)
        both = backbones.side_by_side(pretrained, model.backbone)
        scorer = make_scorer(scorer.config, both)
    # During the training, image AUROC by pooled features is enough: maps take too long.
    quick_scorer = scorer
    if not config.patch_size:
        quick_scorer = PooledScorer(config, scorer.network_in_training, gradcam=False)

    def aurocs():
        pooled = evaluate(quick_scorer, train_images, test_images).pooled
        by_name = {name: metrics.image_auroc(labels, scores) for name, scores in pooled.items()}
        # With several features, each of them has an entry of its own, too.
        several = {f"image_auroc_{name}": x for name, x in by_name.items() if len(by_name) > 1}
        return {"image_auroc": by_name[config.features], **several}

    summary = loop.train(model, train_images, config, run_dir, aurocs if measurable else None, log)

    # 4. The density of the normal features, and the anomaly scores (Section 2.3).
    trained, trained_on_sets = untrained, untrained_on_sets
    if config.steps:
        trained = evaluate(scorer, train_images, test_images, validate)
        trained_on_sets = synthetic_tests.measure_test_sets(scorer, trained, labels, test_sets)
    normal_scores = write_densities_and_scores(config, run_dir, category, trained)

    # 5. Pictures and results. results.json is last: its presence means that the run is finished.
    pictures.draw_figures(
        config, category, train_images, test_images, trained, untrained, normal_scores
    )
    collected = results.collect_results(
        config,
        category,
        len(all_images.train),
        trained,
        untrained,
        test_images,
        normal_scores,
        summary,
    )
    if test_sets:
        collected["image_auroc_by_test_anomalies"] = trained_on_sets
        collected["untrained_image_auroc_by_test_anomalies"] = untrained_on_sets
        collected["test_anomalies_digits"] = digits
    collected["sha256"] = run_folder.checksums(run_dir, config)
    run_folder.write_results(run_dir, collected)
    for line in [*results.result_lines(collected), *results.verdict_lines(collected, run_dir)]:
        log(line)
    log(f"written to {run_dir}")
    return collected


def write_densities_and_scores(
    config: Config, run_dir: pathlib.Path, category: Category, evaluation: Evaluation
) -> np.ndarray:
    """Writes the densities, embeddings and scores of an evaluation into a run's folder.

    The category is without copies. Returns the normal images' cross-validated scores, float64 [N];
    empty without a threshold.
    """
    fit = evaluation.fit
    normal_scores = fit.normal.scores if fit.normal else np.zeros([0])
    fit.save(run_dir / run_folder.DENSITY)
    embeddings = fit.features[config.features].mean(axis=1)
    run_folder.write_embeddings(run_dir, category.train.names, embeddings)
    run_folder.write_scores(run_dir, category.test, evaluation.test.scores)
    run_folder.write_normal_scores(run_dir, category.train.names, normal_scores)
    return normal_scores


def _region(
    config: Config, train: Split, bits: int, log: Callable[[str], None]
) -> np.ndarray | None:
    """The region of interest; a resumed run keeps the region that it began with."""
    path = config.run_dir / run_folder.ROI
    if path.is_file() and run_folder.has_trained(config):
        return decode.read_mask(path)
    roi = region.find(config, train, bits)
    if roi is None:
        return None
    share = "no fixed background was found: all" if roi.all() else f"{100 * roi.mean():.0f}%"
    log(f"region of interest: {share} of the image")
    return roi


def _kept_pretrained(backbone: keras.Model, run_dir: pathlib.Path) -> keras.Model:
    """A copy of the network before the training; a resumed run keeps the one that it began with."""
    pretrained = backbones.copy_network(backbone)
    path = run_dir / run_folder.PRETRAINED_WEIGHTS
    if path.is_file():  # The file of --weights may have changed since the run began.
        weights.load(pretrained, path)
    else:
        path.parent.mkdir(exist_ok=True)
        weights.save(pretrained, path)
    return pretrained


def _with_earlier_densities(config: Config) -> Config:
    """The settings, with the densities of an earlier evaluation added."""
    names = dict.fromkeys([*config.density.split(","), *run_folder.evaluated_by(config, "density")])
    return dataclasses.replace(config, density=",".join(names))


def _test_anomalies(config: Config) -> list[str]:
    """The kinds of synthetic anomalies to test on, with those of an earlier evaluation."""
    asked = {*config.synthetic_tests, *run_folder.evaluated_by(config, "test_anomalies")}
    return [kind for kind in TEST_ANOMALIES if kind in asked]
