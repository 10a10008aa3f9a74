"""Anomaly maps as colours."""

import numpy as np
from conftest import pattern

from cutpaste_tf.draw.overlay import OUTLINE, Scale, heat_map, overlay
from cutpaste_tf.threshold import Threshold


def test_maps_on_the_scores_scale_are_dark_where_usual_and_brightest_from_the_threshold_on():
    values = Scale(low=2.0, high=8.0, absolute=True)(np.array([[0.0, 2.0], [4.0, 99.0]]), 99.0)
    np.testing.assert_allclose(values, [[0, 0], [0.5, 1]])
    for pixel_threshold, high, outlined in ((9.0, 9.0, True), (None, 7.0, False)):
        scale = Scale.of(3.0, None, pixel_threshold, Threshold(7.0))
        assert scale == Scale(3.0, high, True, outlined)
    assert Scale.of(None, np.array([2.0, 4.0, 9.0]), None, Threshold(1.0)).high == 8.0


def test_a_gradcam_map_is_as_bright_as_its_images_score():
    scale = Scale(low=2.0, high=6.0, absolute=False)
    weights = np.array([[0.0, 1.0], [2.0, 4.0]])
    for score, brightest in ((1.0, 0.0), (4.0, 0.5), (6.0, 1.0), (60.0, 1.0)):
        np.testing.assert_allclose(scale(weights, score), weights / 4.0 * brightest)
    assert np.isfinite(scale(np.zeros([2, 2]), 5.0)).all()


def test_an_overlay_is_the_heat_map_of_the_map_at_the_images_size():
    image = pattern(np.random.default_rng(1), 40)
    result = overlay(image, np.repeat([[0.0, 1.0]], 10, axis=0).repeat(5, axis=1))
    for columns, value in ((slice(0, 16), 0.0), (slice(24, 40), 1.0)):
        expected = heat_map(image[:, columns], np.full([40, 16], value))
        np.testing.assert_array_equal(result[:, columns], expected)


def test_a_line_goes_around_what_is_above_the_threshold_and_not_along_the_border():
    image = np.full([40, 40, 3], 128, np.uint8)
    values = np.full([40, 40], 0.5, np.float32)
    values[10:20, 10:20] = values[30:, 30:] = 1.0
    result = overlay(image, values, outlined=True)
    line = (result == OUTLINE).all(axis=-1)
    expected = values == 1.0
    expected[11:19, 11:19] = expected[31:, 31:] = False
    np.testing.assert_array_equal(line, expected)
    np.testing.assert_array_equal(result[~line], overlay(image, values)[~line])


def test_heat_maps_grow_lighter_with_the_score():
    image = np.full([1, 11, 3], 128, np.uint8)
    lightness = heat_map(image, np.linspace(0, 1, 11)[None]) @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness[0]) > 0).all()
