"""Thresholds from normal scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cutpaste_tf import threshold
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Drift, Threshold

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
        scores = rng.exponential(size=[4000, count + 1])
        above = [new > threshold.at_rate(others, rate) for *others, new in scores]
        deviation = np.sqrt(rate * (1 - rate) / len(above))
        assert np.mean(above) < rate + 4 * deviation
        assert np.mean(above) > rate - 1 / (count + 1) - 4 * deviation


def test_by_hand():
    scores = np.arange(1.0, 101.0)  # 100 of them
    assert threshold.at_rate(scores, 0.01) == 100.0  # the 99.99th, rounded up
    assert threshold.at_rate(scores, 0.05) == 96.0  # 101 * 0.95 = 95.95
    assert threshold.at_rate(np.arange(1.0, 100.0), 0.01) == 99.0  # 100 * 0.99, no rounding
    assert threshold.at_rate(np.arange(1.0, 100.0), 0.1) == 90.0
    assert threshold.at_rate([3.0], 0.5) == 3.0
    assert threshold.at_rate([1.0, 2.0, 3.0], 1 - 1e-12) == 1.0
    assert threshold.smallest_rate(99) == 0.01


def test_a_threshold_is_given_or_the_runs_own_or_at_a_rate():
    own, scores = Threshold(7.5, 0.02, 100), np.arange(1.0, 101.0)
    assert threshold.choose(own, scores, "x") == Threshold(7.5, 0.02, 100, median=50.5)
    assert threshold.choose(own, [], "x") == own
    given = threshold.choose(own, scores, "x", 3)
    assert given == Threshold(3.0, median=50.5)
    assert given.verdicts([1.0, 3.0, 3.5]) == ["normal", "normal", "anomalous"]
    at_rate = threshold.choose(own, scores, "x", false_positive_rate=0.05)
    assert at_rate == Threshold(96.0, 0.05, 100, 50.5) == threshold.by_normal(scores, 0.05)
    assert "given" in str(given)
    assert "0.05" in str(at_rate)
    assert "too few for rates below 0.0099" in str(Threshold(1.0, 0.001, 100))


def test_relative_scores_are_0_at_the_normal_median_and_1_at_the_threshold():
    one = Threshold(-1.0, median=-3.0)
    assert [one.relative(score) for score in (-3.0, -1.0, 3.0)] == [0.0, 1.0, 3.0]
    assert one.relative(np.array([-4.0, -2.0])).tolist() == [-0.5, 0.5]
    for without in (Threshold(-1.0), Threshold(-1.0, median=-1.0), Threshold(-1.0, median=2.0)):
        assert without.relative(5.0) is None


@pytest.mark.parametrize(
    ("given", "rate", "message"),
    [
        (1.0, 0.1, "leave one of them out"),
        (None, 0.1, "x: has no scores of normal images; give --threshold"),
        (None, None, "x: has no scores of normal images; give --threshold"),
    ],
)
def test_mistakes_about_thresholds_are_named(given, rate, message):
    with pytest.raises(UserError, match=message):
        threshold.choose(None, np.zeros([0]), "x", given, rate)


def last_answer(normal_scores, scores):
    """What is said after the last of some scores."""
    drift = Drift(normal_scores)
    return [drift.add(score) for score in scores][-1]


@pytest.mark.parametrize(("count", "num_normal"), [(20, 6), (20, 300), (49, 40)])
def test_half_of_the_images_may_be_defective_and_there_is_no_drift(count, num_normal):
    """The probability of a false alarm is as promised; it is Mann and Whitney's."""
    good = (count + 1) // 2
    draws = np.random.default_rng(0).lognormal(size=[2000, good + num_normal])
    defects = [1e9] * (count - good)
    alarms = [last_answer(draw[good:], [*draw[:good], *defects]) for draw in draws]
    samples = draws[:, :good], draws[:, good:]
    test = stats.mannwhitneyu(*samples, False, "greater", axis=1, method="asymptotic")
    np.testing.assert_array_equal(alarms, test.pvalue < 0.01)
    assert sum(alarms) <= stats.binom.ppf(0.9999, len(draws), 0.01)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-9, 9), max_size=60), st.lists(st.floats(-9, 9), max_size=80), st.data())
def test_drift_is_of_the_latest_images_whatever_their_order_and_scale(normal, scores, data):
    drift = Drift(normal)
    answers = [drift.add(score) for score in scores]
    assert all((x is None) == (not normal or n < 20) for n, x in enumerate(answers, 1))
    if not scores or answers[-1] is None:
        return
    latest = data.draw(st.permutations(scores[-50:]))
    if len(latest) == 50:
        latest = scores + latest
    assert last_answer(normal, latest) == answers[-1]
    assert last_answer(np.multiply(8, normal), np.multiply(8, scores)) == answers[-1]
    # Higher scores are no less drift.
    assert last_answer(normal, np.add(scores, data.draw(st.floats(0, 9)))) >= answers[-1]


def test_another_lamp_is_drift_as_soon_as_there_are_twenty_images_and_ends_with_it():
    """As on woven fabric: 94% of other normal images are above the threshold of 5%."""
    rng = np.random.default_rng(0)
    drift = Drift(rng.normal(size=300))
    answers = [drift.add(score) for score in [*rng.normal(3.2, 1, 100), *rng.normal(size=50)]]
    assert answers[19:101] == [True] * 82
    assert answers.index(False, 20) < 125
    assert answers[125:] == [False] * 25


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: np.sqrt(rng.chisquare(50, 300)),  # distances
        lambda rng: rng.chisquare(50, 300),
        lambda rng: -300.0 + rng.normal(size=300),  # negative log densities
    ],
)
def test_odd_images_are_found_whatever_the_kind_of_scores(draw):
    falsely = 0
    for seed in range(50):
        scores = draw(np.random.default_rng(seed))
        falsely += len(threshold.odd(scores))
        median, upper = np.quantile(scores, [0.5, 0.75])
        scores[[7, 200]] = upper + np.array([9.0, 12.0]) * (upper - median)
        assert threshold.odd(scores)[:2].tolist() == [200, 7]
        assert threshold.odd(3.0 * scores - 5.0).tolist() == threshold.odd(scores).tolist()
        # The rule "robust" chooses thresholds without them.
        usual = np.delete(scores, threshold.odd(scores))
        chosen = threshold.by_normal(scores, 0.01)
        assert chosen.value == threshold.at_rate(usual, 0.01) < median + 9.0 * (upper - median)
        assert (chosen.num_normal, chosen.median) == (len(usual), np.median(scores))
        assert threshold.by_normal(scores, 0.001, "conformal").value == scores[200]
    assert falsely <= 5
    assert len(threshold.odd(np.array([1.0]))) == 0


def test_an_ensemble_is_standardised_by_the_normal_scores_alone():
    normal = np.array([1.0, 2.0, 4.0, 7.0])
    scores = threshold.ensemble([np.array([3.5, 9.0])], [normal])
    np.testing.assert_allclose(scores, stats.zmap([3.5, 9.0], normal, ddof=1))
    # Equal normal scores do not divide by zero.
    scores = threshold.ensemble([np.array([2.0, 3.0])], [np.full(5, 2.0)])
    assert np.isfinite(scores).all()
    assert scores[0] == 0 < scores[1]


@settings(deadline=None, derandomize=True)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_an_ensemble_does_not_depend_on_the_runs_scales(scale, shift):
    rng = np.random.default_rng(0)
    scores, normal = rng.normal(size=(3, 20)), rng.normal(size=(3, 10))
    expected = threshold.ensemble(list(scores), list(normal))
    moved = threshold.ensemble(
        [scores[0] * scale + shift, *scores[1:]], [normal[0] * scale + shift, *normal[1:]]
    )
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)
