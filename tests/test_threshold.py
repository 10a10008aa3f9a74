"""Thresholds from normal scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutpaste_tf import threshold

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(SCORES, st.floats(0.001, 0.999))
def test_no_more_normal_scores_are_above_than_the_rate_allows(scores, rate):
    value = threshold.at_rate(scores, rate)
    assert value in scores
    assert np.mean(np.array(scores) > value) <= rate
    # Nor is it any larger than it must be: the next smaller score would be above the rate.
    smaller = [s for s in scores if s < value]
    if smaller and rate >= threshold.smallest_rate(len(scores)):
        count = len(scores)
        at_most = sum(s <= max(smaller) for s in scores)
        assert at_most < (count + 1) * (1 - rate)


def test_a_new_normal_image_is_above_at_most_at_the_rate():
    # Exchangeable scores: of n + 1, any is as likely to be the new one.
    rng = np.random.default_rng(0)
    for count, rate in ((19, 0.1), (99, 0.01), (40, 0.2)):
        found = []
        for _ in range(4000):
            *known, new = rng.exponential(size=count + 1)
            found.append(new > threshold.at_rate(known, rate))
        deviation = np.sqrt(rate * (1 - rate) / len(found))
        assert np.mean(found) < rate + 4 * deviation
        assert np.mean(found) > rate - 1 / (count + 1) - 4 * deviation


def test_by_hand():
    scores = np.arange(1.0, 101.0)  # 100 of them
    assert threshold.at_rate(scores, 0.01) == 100.0  # the 99.99th, rounded up
    assert threshold.at_rate(scores, 0.05) == 96.0  # 101 * 0.95 = 95.95
    assert threshold.at_rate(np.arange(1.0, 100.0), 0.01) == 99.0  # 100 * 0.99, no rounding
    assert threshold.at_rate(np.arange(1.0, 100.0), 0.1) == 90.0
    assert threshold.at_rate([3.0], 0.5) == 3.0
    assert threshold.at_rate([1.0, 2.0, 3.0], 1 - 1e-12) == 1.0
    assert threshold.smallest_rate(99) == 0.01


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(ValueError, match="false-positive rate"):
        threshold.at_rate([1.0, 2.0], rate)
    with pytest.raises(ValueError, match="needs scores"):
        threshold.at_rate([], 0.1)


def test_a_score_that_is_the_threshold_is_normal():
    assert threshold.Threshold(2.0).verdicts([1.0, 2.0, 2.5]) == ["normal", "normal", "anomalous"]
