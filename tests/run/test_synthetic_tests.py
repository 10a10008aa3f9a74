"""Scores of synthetic anomalies."""

import numpy as np
import pytest
import sklearn.metrics

from cutpaste_tf.data import folder, pipeline
from cutpaste_tf.run import synthetic_tests
from cutpaste_tf.scoring.detector import Detector
from cutpaste_tf.scoring.scorer import Evaluation


def test_synthetic_anomalies_are_scored_beside_the_normal_test_images(localized):
    run_dir, data, _ = localized
    detector = Detector.load(run_dir)
    test = folder.load(data).test
    images = pipeline.prepare(test, 64)
    made, digits = synthetic_tests.make_test_sets(
        ["square", "heart_natural"], test.labels, images, 0
    )
    assert digits is None
    assert list(made) == ["square", "heart_natural"]
    found = detector.evaluate(images)
    evaluation = Evaluation(detector.fit, found, {})
    results = synthetic_tests.measure_test_sets(detector.scorer, evaluation, test.labels, made)
    normals = np.flatnonzero(test.labels == 0)
    for kind, auroc in results.items():
        alone = detector.evaluate(list(made[kind].stored[:, 0].numpy()))
        scores = np.concatenate([found.scores[normals], alone.scores])
        labels = np.repeat([0, 1], len(normals))
        assert auroc == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
