"""Tests of a run on synthetic anomalies against normal test images (Section 5.3, Table 6)."""

from collections.abc import Mapping, Sequence

import numpy as np

from cutpaste_tf.data import pipeline, synthetic
from cutpaste_tf.scoring import metrics
from cutpaste_tf.scoring.scorer import Evaluation, Scorer


def make_test_sets(
    kinds: Sequence[str], labels: np.ndarray, images: pipeline.Images, seed: int
) -> tuple[dict[str, pipeline.Images], str | None]:
    """Makes synthetic anomalies from the normal test images (Section 5.3).

    `kinds` are some of `choices.TEST_ANOMALIES`; `labels`, [N], belong to the test images. Returns
    the anomalies by kind, and the source of the digits if "mnist" is a kind. A UserError says that
    there are no normal test images.
    """
    digits, origin = synthetic.digits() if "mnist" in kinds else (None, None)
    normal = images.subset(np.flatnonzero(labels == 0))
    made = {kind: synthetic.make(kind, normal, seed, digits) for kind in kinds}
    return made, origin


def measure_test_sets(
    scorer: Scorer,
    evaluation: Evaluation,
    labels: np.ndarray,
    test_sets: Mapping[str, pipeline.Images],
) -> dict[str, float]:
    """Returns image AUROC, by kind, of synthetic anomalies against the normal test images."""
    normal_scores = evaluation.test.scores[labels == 0]
    measured = {}
    for kind, images in test_sets.items():
        scores = np.concatenate([normal_scores, scorer.score(evaluation.fit, images).scores])
        measured[kind] = metrics.image_auroc(np.arange(len(scores)) >= len(normal_scores), scores)
    return measured
