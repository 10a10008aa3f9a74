"""A run's results: what results.json holds, and the lines that are printed."""

import dataclasses
import os
from collections.abc import Iterator, Mapping

import numpy as np

from cutpaste_tf import machine
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import mask_of_size
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.maps import Maps
from cutpaste_tf.scoring.scorer import Evaluation
from cutpaste_tf.train import loop
from cutpaste_tf.train.epochs import Collapse

# With fewer normal images, cross-validated scores are too high, and the threshold misses defects.
# In a simulation (Gaussian features of 128 dimensions, --density=gde, a rate of 0.01) a threshold
# from 40 images finds all defects, from 20 images 86%, from 8 images 54% and from 4 images 11%.
_FEW_IMAGES = 20
_NAMED = 5  # how many training images that stand out are printed by name


def pixel_metrics(maps: Maps | None, split: Split) -> dict[str, float | None]:
    """Compares anomaly maps with the defects' masks, pixel by pixel, at the images' own sizes.

    Each map is resized bilinearly to its image; masks are not resized. Pixels outside the region of
    interest and anomalous images without a mask are left out. Without any maps or masks, each
    metric is None.
    """
    compared = [i for i in range(len(split)) if split.labels[i] == 0 or split.masks[i] is not None]
    if maps is None or all(split.masks[i] is None for i in compared):
        return dict.fromkeys(metrics.PIXEL_METRICS)
    images = maps.images
    pixels = metrics.PixelScores()
    for i, anomaly_map in zip(compared, maps.at_own_sizes(compared), strict=True):
        size = images.own_size(i)
        region = images.preparation.own_region(*size)
        pixels.add(anomaly_map, mask_of_size(split.masks[i], size), region)
    return pixels.compute()


def collect_results(
    config: Config,
    category: Category,
    num_train: int,
    trained: Evaluation,
    untrained: Evaluation | None,
    images: pipeline.Images,
    normal_scores: np.ndarray,
    summary: loop.TrainingSummary,
) -> dict:
    """Collects what results.json holds; metrics are fractions, None where they are not defined.

    `image_auroc` and all metrics without a suffix belong to the feature of --features and the score
    of --image_score. `image_auroc_by_feature` has the pooled scores of all features, before and
    after the training (Table 3). `image_auroc_by_score` has all scores of the feature of
    --features. With --keep_pretrained the trained evaluation has both networks side by side.
    """
    return {
        "dataset": config.dataset,
        "category": config.category,
        "seed": config.seed,
        "task": config.task,
        "backbone": config.backbone,
        "features": config.features,
        "steps": config.steps,
        "bit_depth": images.preparation.bits,
        "num_train": num_train,
        **measure(config, category, trained, untrained, normal_scores),
        "proxy_accuracy": summary.proxy_accuracy,
        "collapse": summary.collapse and dataclasses.asdict(summary.collapse),
        "train_seconds": round(summary.seconds, 1),
        "images_per_second": round(summary.images_per_second, 1),
        "device": machine.device(),
        "versions": machine.versions(),
    }


def measure(
    config: Config,
    category: Category,
    trained: Evaluation,
    untrained: Evaluation | None,
    normal_scores: np.ndarray,
) -> dict:
    """Measures the test images, the thresholds and the odd training images, for results.json.

    The category is without copies. `untrained` is None if the network was evaluated only after the
    training. `normal_scores` are the normal images' cross-validated scores, [N]; empty without a
    threshold.
    """
    split = category.test
    # Without a training there is only the first stage.
    before, after = stage_names(config)
    stages = {before: untrained, after: trained} if config.steps else {before: trained}
    stages = {name: evaluation for name, evaluation in stages.items() if evaluation}

    def auroc(scores):
        return metrics.image_auroc(split.labels, scores)

    def by_stage(scores_of):
        return {stage: auroc(scores_of(evaluation)) for stage, evaluation in stages.items()}

    test, normal = trained.test, trained.fit.normal
    pixels = initial_pixels = pixel_metrics(test.maps, split)
    if untrained is not trained:
        initial_pixels = pixel_metrics(untrained and untrained.test.maps, split)
    by_score = {}
    if len(test.by_kind) > 1:
        by_score = {kind: by_stage(lambda x, k=kind: x.test.by_kind[k]) for kind in test.by_kind}
    by_density = auroc_by_density(config, trained, split.labels)
    normal_maps = normal and normal.maps
    return {
        "num_test": len(split),
        "image_auroc": auroc(test.scores),
        "image_ap": metrics.image_ap(split.labels, test.scores),
        **pixels,
        **threshold_results(config, normal_scores, split.labels, test.scores),
        "odd_images": odd_images(category.train, normal_scores),
        "pixel_threshold": pixel_threshold(config, normal_maps),
        "untrained_image_auroc": untrained and auroc(untrained.test.scores),
        **{f"untrained_{name}": value for name, value in initial_pixels.items()},
        "image_auroc_by_feature": {
            name: by_stage(lambda x, n=name: x.pooled[n]) for name in trained.pooled
        },
        "image_score": config.image_score,
        "image_auroc_by_score": by_score,
        "image_auroc_by_defect_type": metrics.auroc_by_defect_type(
            split.labels, test.scores, split.defect_types
        ),
        **({"image_auroc_by_density": by_density} if by_density else {}),
    }


def threshold_results(
    config: Config, normal_scores: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> dict:
    """Chooses thresholds by normal scores, and measures them on labelled test images.

    The run's own threshold is the one at --false_positive_rate. Test labels, [N], and scores, [N],
    choose none.
    """
    rate = config.false_positive_rate
    normal_scores = thresholds.without_odd(normal_scores, config.threshold_rule)

    def at(rate):
        value = thresholds.at_rate(normal_scores, rate) if len(normal_scores) else None

        def share(label):
            part = scores[labels == label]
            return float(np.mean(part > value)) if value is not None and len(part) else None

        return {
            "false_positive_rate": rate,
            "threshold": value,
            "test_false_positive_rate": share(0),
            "test_true_positive_rate": share(1),
        }

    return {
        **at(rate),
        "num_normal_scores": len(normal_scores),
        "threshold_rule": config.threshold_rule,
        "thresholds": [at(x) for x in sorted({rate, *thresholds.RATES}) if len(normal_scores)],
    }


def odd_images(train: Split, normal_scores: np.ndarray) -> list[str]:
    """Returns the names of the training images that stand out, the highest score first."""
    return [train.names[i] for i in thresholds.odd(normal_scores)]


def pixel_threshold(config: Config, normal_maps: Maps | None) -> float | None:
    """Chooses the score above which a pixel is anomalous; None for a rate of 0, or without maps.

    The rate is the share of normal images whose cross-validated map has such a pixel.
    """
    rate = config.false_positive_rate
    if not normal_maps or not rate:
        return None
    return thresholds.by_normal(normal_maps.peaks, rate, config.threshold_rule).value


def check_images(config: Config, images: pipeline.Images, in_region: np.ndarray) -> str | None:
    """Checks that the training images suffice; returns the line of a warning, or None.

    `images` are without copies; `in_region`, bool [N, K], has the copies too. A UserError says that
    there are fewer than `density.LEAST_IMAGES` images, or that some show nothing of the region of
    interest.
    """
    least, count, total = densities.LEAST_IMAGES, images.count, len(in_region)
    if blank := int((~in_region.any(axis=1)).sum()):
        raise UserError(
            f"--roi={config.roi}: {blank} of {total} normal training images show nothing of the "
            f"region at {config.flag('image_size')} with --resize={config.resize}; make the "
            "region or the size larger"
        )
    if count < least:
        if count == 1 < total:
            message = f"all {total} normal training images are the same image"
        else:
            copies = f", of which {count} are different" if count < total else ""
            message = f"normal training images: {total}{copies}"
        raise UserError(
            f"--category={config.category}: {message}; at least {least} different ones are needed, "
            "so that a density of three others can score each of them"
        )
    if config.false_positive_rate and count < _FEW_IMAGES:
        return (
            f"warning: {count} normal training images are few; with fewer than {_FEW_IMAGES} the "
            "threshold is so high that many defects pass as normal"
        )
    return None


def auroc_by_density(config: Config, evaluation: Evaluation, labels: np.ndarray) -> dict:
    """Measures all densities that --density names, on the same features (Section 2.3).

    Returns image AUROC by density, None where it cannot be measured; empty for a single density.
    """
    results = {config.main_density: metrics.image_auroc(labels, evaluation.pooled[config.features])}
    # With --tiles there is only one density.
    train, test = (x.features[config.features][:, 0] for x in (evaluation.fit, evaluation.test))
    for kind in config.density.split(",")[1:]:
        scores = densities.fit(kind, train).score(test)
        results[kind] = metrics.image_auroc(labels, scores)
    return results if len(results) > 1 else {}


def stage_names(config: Config) -> tuple[str, str]:
    """Returns the names of the network before and after the training."""
    return ("untrained", "trained") if config.weights == "none" else ("pretrained", "finetuned")


def result_lines(results: Mapping) -> list[str]:
    """Returns lines of text: a run's metrics."""
    lines = []
    if results["image_auroc"] is not None:
        lines.append(_auroc_line(results))
        by_feature = results["image_auroc_by_feature"]
        for what, parts in (
            ("feature", by_feature),
            ("score", results.get("image_auroc_by_score", {})),
        ):
            if len(parts) > 1:
                texts = (f"{name} {_before_and_after(x)}" for name, x in parts.items())
                lines.append(f"image AUROC by {what}: {', '.join(texts)}")
    if results.get("collapse"):
        lines.append(f"warning: {Collapse(**results['collapse'])}")
    for density, auroc in results.get("image_auroc_by_density", {}).items():
        if auroc is not None:
            lines.append(f"density {density}: image AUROC {100 * auroc:.1f}")
    for kind, auroc in results.get("image_auroc_by_test_anomalies", {}).items():
        before = results.get("untrained_image_auroc_by_test_anomalies", {}).get(kind)
        untrained = "" if before is None else f" (untrained {100 * before:.1f})"
        lines.append(f"test anomalies {kind}: image AUROC {100 * auroc:.1f}{untrained}")
    return lines


def _auroc_line(results):
    by_stage = results["image_auroc_by_feature"][results["features"]]
    by_stage = results.get("image_auroc_by_score", {}).get(results.get("image_score"), by_stage)
    parts = [_before_and_after(by_stage), f"AP {100 * results['image_ap']:.1f}"]
    for name, text in (("pixel_auroc", "pixel AUROC"), ("pixel_aupro", "AUPRO")):
        if results[name] is not None:
            values = [results[f"untrained_{name}"], results[name]][-len(by_stage) :]
            parts.append(f"{text} {_before_and_after(dict(zip(by_stage, values, strict=True)))}")
    return f"image AUROC {', '.join(parts)}, trained for {results['train_seconds']:.0f} s"


def _before_and_after(by_stage):
    """Text of a metric by stage, such as "92.6 (pretrained 90.1)"."""
    (initial, before), *after = by_stage.items()
    first = f"{initial} {100 * before:.1f}"
    return f"{100 * after[0][1]:.1f} ({first})" if after else first


def verdict_lines(results: Mapping, run_dir: str | os.PathLike) -> Iterator[str]:
    """Yields lines of text: a run's thresholds, and the training images that stand out."""
    count, entries = results["num_normal_scores"], results["thresholds"]
    if not entries:
        return
    least, note = thresholds.smallest_rate(count), ""
    if entries[0]["false_positive_rate"] < least:
        note = f", too few for rates below {100 * least:.2g}%"
    if results["threshold_rule"] == "robust" and results["odd_images"]:
        note += f", without {len(results['odd_images'])} that stand out"
    yield f"thresholds by the scores of {count} normal training images{note}:"
    headings = {
        "false_positive_rate": "false-positive rate",
        "threshold": "threshold",
        "test_false_positive_rate": "normal test images above it",
        "test_true_positive_rate": "anomalous ones",
    }
    headings = {n: heading for n, heading in headings.items() if entries[0][n] is not None}
    yield "  ".join(headings.values())
    for entry in entries:
        cells = {n: f"{100 * entry[n]:.3g}%" for n in headings}
        cells["threshold"] = f"{entry['threshold']:.4g}"
        row = "  ".join(f"{cells[n]:>{len(heading)}}" for n, heading in headings.items())
        own = entry["false_positive_rate"] == results["false_positive_rate"]
        yield row + ("  (this run's)" if own else "")
    if odd := results["odd_images"]:
        more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
        yield (
            f"training images that stand out: {', '.join(odd[:_NAMED])}{more}; if "
            f"{run_dir}/figures/normal_images.png shows a bad part, remove it by python -m "
            f"cutpaste_tf.refit --run={run_dir} --drop=NAME --output=DIR"
        )
