"""Tests of a run on synthetic anomalies against normal test images (Section 5.3, Table 6)."""

from collections.abc import Mapping, Sequence

import numpy as np

from cutpaste_tf.data import pipeline, synthetic
from cutpaste_tf.data.split import Split
from cutpaste_tf.run.results import pixel_metrics
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.scorer import Evaluation, Scorer


def make_test_sets(
    kinds: Sequence[str], split: Split, images: pipeline.Images, seed: int
) -> tuple[dict[str, synthetic.Anomalies], str | None]:
    """Makes synthetic anomalies from the normal test images (Section 5.3).

    Args:
      kinds: some of `choices.TEST_ANOMALIES`.
      split: the test images' names and labels.
      images: the test images.
      seed: the seed of the anomalies.

    Returns:
      The anomalies by kind, and the source of the digits if "mnist" is among the kinds.

    Raises:
      UserError: if there are no normal test images.
    """
    digits, origin = synthetic.digits() if "mnist" in kinds else (None, None)
    normals = np.flatnonzero(split.labels == 0)
    names, normal_images = split.subset(normals), images.subset(normals)
    made = {kind: synthetic.make(kind, names, normal_images, seed, digits) for kind in kinds}
    return made, origin


def measure_test_sets(
    scorer: Scorer,
    evaluation: Evaluation,
    split: Split,
    test_sets: Mapping[str, synthetic.Anomalies],
) -> dict[str, tuple[float, float | None]]:
    """Measures synthetic anomalies against the normal test images.

    Returns image AUROC and, if there are maps, pixel AUROC, by kind.
    """
    normals = np.flatnonzero(split.labels == 0)
    normal_scores = evaluation.test.scores[normals]
    measured = {}
    for kind, anomalies in test_sets.items():
        scored = scorer.score(evaluation.fit, anomalies.images)
        labels = np.concatenate([np.zeros(len(normals), np.int64), anomalies.split.labels])
        auroc = metrics.image_auroc(labels, np.concatenate([normal_scores, scored.scores]))
        pixel_auroc = None
        if scored.maps is not None:
            masks = [None] * len(normals) + list(anomalies.split.masks)
            types = ["good"] * len(normals) + list(anomalies.split.defect_types)
            both = Split([""] * len(masks), [""] * len(masks), types, masks)
            maps = evaluation.test.maps.subset(normals).joined(scored.maps)
            pixel_auroc = pixel_metrics(maps, both)["pixel_auroc"]
        measured[kind] = auroc, pixel_auroc
    return measured


def synthetic_results(
    before: Mapping[str, tuple[float, float | None]],
    after: Mapping[str, tuple[float, float | None]],
    digits: str | None,
) -> dict:
    """Collects the entries of results.json on synthetic anomalies, if there are any."""
    if not after:
        return {}
    results = {}
    for place, name in enumerate(("image_auroc", "pixel_auroc")):
        for prefix, measured in (("", after), ("untrained_", before)):
            values = {kind: both[place] for kind, both in measured.items()}
            if any(value is not None for value in values.values()):
                results[f"{prefix}{name}_by_test_anomalies"] = values
    return results | ({"test_anomalies_digits": digits} if digits else {})
