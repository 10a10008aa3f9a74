"""Colour jitter against NumPy, PIL and values worked out by hand; the distribution of the draws."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from cutpaste_tf.augment import color

from . import reference

ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
SEED = tf.constant([5, 9])
DRAWS = 4800


def pixels_of(kind, rng, batch=24, number=60):
    """[batch, number, 3] of one kind; each image its own."""
    shape = (batch, number, 3)
    draw = {
        "mid-range": lambda: rng.uniform(0.35, 0.6, shape),
        "noise": lambda: rng.uniform(0.0, 1.0, shape),
        "bright": lambda: rng.uniform(0.8, 1.0, shape),  # clipped by every increase
        # Clipped by contrast and saturation at the lower end.
        "dark": lambda: rng.uniform(0.0, 0.3, shape) * rng.integers(0, 2, shape),
        "grey": lambda: rng.uniform(0.0, 1.0, shape)[..., :1].repeat(3, axis=2),
        # The corners of the RGB cube: black, white, primaries and their mixtures.
        "pure": lambda: rng.integers(0, 2, shape),
    }
    return draw[kind]().astype(np.float32)


def draw_jitter(rng, maximum, *, hue=True):
    """A jitter of every order, with factors and turns of both signs."""
    factors = rng.uniform(1.0 - maximum, 1.0 + maximum, (len(ORDERS), 3)).astype(np.float32)
    turn = rng.uniform(-min(maximum, 0.5), min(maximum, 0.5), len(ORDERS)).astype(np.float32)
    return color.Jitter(
        tf.constant(ORDERS), tf.constant(factors), tf.constant(turn) if hue else None
    )


def jittered_by_numpy(pixels, jitter, weights=None):
    return np.stack(
        [
            reference.jitter(
                pixels[i],
                jitter.order[i].numpy(),
                jitter.factors[i].numpy(),
                None if jitter.hue is None else float(jitter.hue[i]),
                None if weights is None else weights[i],
            )
            for i in range(len(pixels))
        ]
    )


HUE = pytest.mark.parametrize("hue", [True, False], ids=["hue", "no hue"])


@HUE
@pytest.mark.parametrize("maximum", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["mid-range", "noise", "bright", "dark", "grey", "pure"])
def test_every_order_equals_four_separate_steps(kind, maximum, hue):
    rng = np.random.default_rng(3)
    pixels, jitter = pixels_of(kind, rng), draw_jitter(rng, maximum, hue=hue)
    expected = jittered_by_numpy(pixels, jitter)
    np.testing.assert_allclose(color.apply(tf.constant(pixels), jitter), expected, atol=1e-5)
    if maximum == 0.0:
        np.testing.assert_allclose(expected, pixels, atol=1e-6)
    # Whole images are jittered as their pixels are.
    images = tf.constant(pixels.reshape(24, 6, 10, 3))
    np.testing.assert_allclose(
        color.apply_to_images(images, jitter), expected.reshape(images.shape), atol=1e-5
    )
    assert color.apply_to_images(images, None) is images


@HUE
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_contrast_refers_to_the_weighted_mean_grey(hue, scale):
    rng = np.random.default_rng(4)
    pixels, jitter = pixels_of("noise", rng), draw_jitter(rng, 0.5, hue=hue)
    weights = scale * rng.uniform(0.0, 2.0, pixels.shape[:2]).astype(np.float32)
    weights[rng.uniform(size=weights.shape) < 0.4] = 0.0  # as those of a list's padding
    actual = color.apply(tf.constant(pixels), jitter, tf.constant(weights))
    np.testing.assert_allclose(actual, jittered_by_numpy(pixels, jitter, weights), atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after", "jitter"),
    [
        ([[0.5, 0.2, 0.1]], [[0.6, 0.24, 0.12]], {"brightness": 1.2}),
        ([[1, 0, 0]], [[0.299] * 3], {"saturation": 0.0}),
        ([[0, 1, 0], [0, 0, 1]], [[0.3505] * 3] * 2, {"contrast": 0.0}),
        # A third of a circle: red to green, green to blue, blue to red; backwards the other way.
        (np.eye(3), np.eye(3)[[1, 2, 0]], {"hue": 1 / 3}),
        (np.eye(3), np.eye(3)[[2, 0, 1]], {"hue": -1 / 3}),
        # Half a circle: red to cyan; the same either way.
        ([[0.8, 0.2, 0.2]], [[0.2, 0.8, 0.8]], {"hue": 0.5}),
        ([[0.8, 0.2, 0.2]], [[0.2, 0.8, 0.8]], {"hue": -0.5}),
        # No clipping between brightness and contrast: 0.8 and 0.4 become 1.6 and 0.8, whose mean is
        # 1.2, then 1.4 and 1.0; clipped in between they would be 0.95 and 0.85.
        ([[0.8] * 3, [0.4] * 3], [[1.0] * 3] * 2, {"brightness": 2.0, "contrast": 0.5}),
        # Clipped before the hue is turned: twice (0.8, 0.4, 0) is (1, 0.8, 0) by then.
        ([[0.8, 0.4, 0]], [[0, 0.2, 1]], {"order": (0, 3, 1, 2), "brightness": 2.0, "hue": 0.5}),
    ],
)
def test_values_worked_out_by_hand(before, after, jitter):
    values = {"order": range(4), "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0} | jitter
    order, *factors, hue = values.values()
    jitter = color.Jitter(
        tf.constant([list(order)]), tf.constant([factors], tf.float32), tf.constant([float(hue)])
    )
    result = color.apply(tf.constant([before], tf.float32), jitter)[0]
    np.testing.assert_allclose(result, after, atol=1e-6)


@pytest.mark.parametrize(
    ("turn", "tolerance"), [(None, 3.0), (0.08, 7.0), (-0.08, 7.0)], ids=["no hue", "on", "back"]
)
def test_every_order_equals_pil_up_to_its_rounding(turn, tolerance):
    # PIL drops the fraction of a level after each step, so its results are up to three levels
    # lower; it keeps the hue in 1/255 of a circle, worth 2.6 levels of these pixels, and drops the
    # fraction of the saturation, too. A hue turned the wrong way is off by 15 levels on average.
    rng = np.random.default_rng(8)
    darkest = rng.integers(70, 130, (len(ORDERS), 1, 1, 1))  # so that mean greys differ
    images = (darkest + rng.integers(0, 70, (len(ORDERS), 12, 10, 3))).astype(np.uint8)
    factors = rng.uniform(0.9, 1.1, (len(ORDERS), 3)).astype(np.float32)
    turns = None if turn is None else tf.fill([len(ORDERS)], round(turn * 255) / 255)
    jitter = color.Jitter(tf.constant(ORDERS), tf.constant(factors), turns)
    pixels = tf.reshape(tf.cast(images, tf.float32) / 255.0, [len(ORDERS), -1, 3])
    actual = tf.reshape(color.apply(pixels, jitter), images.shape).numpy() * 255.0
    for i, order in enumerate(ORDERS):
        difference = actual[i] - reference.jitter_with_pil(images[i], order, factors[i], turn)
        assert np.abs(difference).max() <= tolerance
        assert -0.5 < difference.mean() < 2.0


@pytest.mark.parametrize("maximum", [0.1, 0.3])
def test_factors_and_hue_are_uniform_around_no_change_and_all_orders_as_frequent(maximum):
    jitter = color.sample(DRAWS, maximum, SEED)
    assert jitter.order.dtype == tf.int32
    reference.assert_equally_frequent(
        jitter.order.numpy() @ [1000, 100, 10, 1], ORDERS @ [1000, 100, 10, 1]
    )
    assert jitter.factors.shape == [DRAWS, 3]
    for k in range(3):
        reference.assert_uniform(jitter.factors[:, k], 1.0 - maximum, 1.0 + maximum)
    reference.assert_uniform(jitter.hue, -maximum, maximum)
    assert color.sample(3, maximum, SEED, hue=False).hue is None
