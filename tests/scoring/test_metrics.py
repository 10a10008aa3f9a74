"""Metrics against counting by hand."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from cutpaste_tf.scoring import metrics


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


def compute(maps, masks, **options):
    scores = metrics.PixelScores()
    for one, mask in zip(maps, masks, strict=True):
        scores.add(one, mask)
    return scores.compute(**options)


def overlap_curve(maps, masks, counted=True):
    """False positive rate and mean overlap of the regions at every threshold, by counting."""
    regions = []
    for number, mask in enumerate(masks):
        left = {tuple(p) for p in np.argwhere(mask)}
        while left:
            region, border = set(), [left.pop()]
            while border:
                y, x = border.pop()
                region.add((y, x))
                near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
                left -= near
                border += near
            regions.append([maps[number][p] for p in region])
    normal = maps[~masks & counted]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        overlap = np.mean([np.mean(np.array(r) >= threshold) for r in regions])
        points.append((np.mean(normal >= threshold), overlap))
    return np.array(points).T


def area_by_small_steps(rates, heights, limit):
    """Under the straight lines between the points; points with the same rate have no area."""
    total = 0.0
    for x0, x1, y0, y1 in zip(rates[:-1], rates[1:], heights[:-1], heights[1:], strict=True):
        if x1 == x0 or x0 >= limit:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        total += (end - x0) * (y0 + y_end) / 2
    return total / limit


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    values=st.sampled_from([2, 5, 90000]),  # up to 2**17 each whole number has a bin
    share=st.sampled_from([0.05, 0.3, 0.7]),
    limit=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_pixel_metrics_against_counting_and_scikit_learn(seed, values, share, limit):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, values, (3, 7, 6)).astype(np.float32)
    masks = rng.random((3, 7, 6)) < share
    masks[1] = False
    masks[0, 0, 0], masks[0, 6, 5] = True, False
    maps += masks * np.float32(values // 3)
    found = compute(maps, masks, limit=limit)
    labels, scores = masks.ravel(), maps.ravel()
    auroc = sklearn.metrics.roc_auc_score(labels, scores)
    assert found["pixel_auroc"] == pytest.approx(auroc)
    ap = sklearn.metrics.average_precision_score(labels, scores)
    assert found["pixel_ap"] == pytest.approx(ap)
    expected = area_by_small_steps(*overlap_curve(maps, masks), limit)
    assert found["pixel_aupro"] == pytest.approx(expected)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.5, 0.9]))
def test_pixels_outside_the_region_of_interest_do_not_count(seed, share):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 5, (3, 7, 6)).astype(np.float32)
    masks, regions = rng.random((3, 7, 6)) < 0.3, rng.random((3, 7, 6)) < share
    masks[0, 0, 0], masks[0, 6, 5] = True, False
    regions[0, 0, 0] = regions[0, 6, 5] = True
    scores = metrics.PixelScores()
    for parts in zip(maps, masks, regions, strict=True):
        scores.add(*parts)
    found = scores.compute()
    labels, values = masks[regions], maps[regions]
    assert found["pixel_auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, values))
    ap = sklearn.metrics.average_precision_score(labels, values)
    assert found["pixel_ap"] == pytest.approx(ap)
    # Of a defect the part inside counts, which may be several.
    curve = overlap_curve(maps, masks & regions, regions)
    expected = area_by_small_steps(*curve, 0.3)
    assert found["pixel_aupro"] == pytest.approx(expected)


def ranks(maps):
    """Scores in the same order, each of which has a bin of its own."""
    return np.unique(maps, return_inverse=True)[1].reshape(maps.shape)


@settings(deadline=None, derandomize=True, max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    deviation=st.sampled_from([0.1, 3.0]),
    share=st.sampled_from([0.001, 0.1]),
)
def test_metrics_of_any_scores_are_nearly_those_of_their_ranks(seed, deviation, share):
    rng = np.random.default_rng(seed)
    maps = rng.normal(1.0, deviation, [4, 60, 50]).astype(np.float32)
    maps[0, :9] = 0.0
    masks = rng.random(maps.shape) < share
    masks[1] = False
    masks[0, :2, :3] = masks[2, 5] = True
    maps += masks * np.float32(deviation)
    assert compute(maps, masks) == pytest.approx(compute(ranks(maps), masks), abs=1e-4)
    # To the last bit where no two scores are near, of whatever sign.
    maps = np.round(8.0 * maps)
    assert compute(maps, masks) == compute(ranks(maps), masks)


@pytest.mark.parametrize(("others", "limit"), [(7, 0.3), (0, 1.0)])
def test_aupro_is_nothing_if_the_defect_is_found_only_after_the_limit(others, limit):
    scores = np.array([[3.0, 3.0, 3.0, 2.0, *[1.0] * others]])
    assert compute([scores], [scores == 2.0], limit=limit)["pixel_aupro"] == 0.0


def test_aupro_counts_each_region_alike():
    mask = np.zeros([20, 20], bool)
    mask[:10, :10] = True  # found
    mask[15, 15] = True  # one pixel, missed
    scores = mask.astype(np.float32)
    scores[15, 15] = 0.0
    found = compute([scores], [mask])
    # Overlap 1/2 without any false positive; from there on a line to (1, 1).
    assert found["pixel_aupro"] == pytest.approx((0.5 + 0.65) / 2)
    assert found["pixel_auroc"] == pytest.approx((100 + 0.5) / 101)


def test_regions_that_touch_at_a_corner_are_one():
    mask = np.zeros([8, 8], bool)
    mask[0:2, 0:2] = mask[2:6, 2:6] = True
    scores = np.zeros([8, 8], np.float32)
    scores[2:6, 2:6] = 1.0
    # 16 of 20 pixels of the one region.
    assert compute([scores], [mask], limit=1.0)["pixel_aupro"] == pytest.approx((0.8 + 1.0) / 2)


def test_pixel_metrics_are_missing_where_they_have_no_meaning():
    nothing = {"pixel_auroc": None, "pixel_ap": None, "pixel_aupro": None}
    blank, full = np.zeros([4, 4], bool), np.ones([4, 4], bool)
    assert compute([], []) == nothing
    assert compute([np.ones([4, 4])], [blank]) == nothing
    assert compute([np.ones([4, 4])], [full]) == nothing
    with pytest.raises(ValueError, match="finite"):
        compute([np.full([4, 4], np.nan)], [blank])
    with pytest.raises(ValueError, match="must be"):
        compute([np.ones([4, 5])], [blank])
