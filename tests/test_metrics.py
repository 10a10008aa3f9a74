"""Metrics against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutpaste_tf import metrics


def pairs_won(labels, scores):
    """AUROC by its meaning: how often an anomalous image scores above a normal one."""
    bad = [s for label, s in zip(labels, scores, strict=True) if label]
    good = [s for label, s in zip(labels, scores, strict=True) if not label]
    return np.mean([1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(items):
    labels, scores = (np.array(column) for column in zip(*items, strict=True))
    expected = pairs_won(labels, scores) if 0 < labels.sum() < len(labels) else None
    assert metrics.image_auroc(labels, scores) == pytest.approx(expected)


def test_average_precision_by_hand():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    # Ranked: anomalous (precision 1/1), normal, anomalous (2/3), normal.
    assert metrics.image_ap(labels, scores) == pytest.approx((1 + 2 / 3) / 2)


def test_one_class_alone_has_no_metric():
    for labels in ([0, 0], [1, 1], []):
        scores = np.zeros(len(labels))
        assert metrics.image_auroc(np.array(labels), scores) is None
        assert metrics.image_ap(np.array(labels), scores) is None


def test_auroc_by_defect_type_is_against_all_normal_images():
    labels = np.array([0, 0, 1, 1, 1])
    scores = np.array([0.2, 0.4, 0.1, 0.3, 0.9])
    kinds = ["good", "good", "scratch", "dent", "dent"]
    assert metrics.auroc_by_defect_type(labels, scores, kinds) == {"dent": 0.75, "scratch": 0.0}
