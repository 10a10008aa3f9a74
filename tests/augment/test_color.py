"""Colour jitter against NumPy, PIL and values known by heart; what it draws."""

import itertools

import matplotlib.colors
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
    if kind == "mid-range":
        pixels = rng.uniform(0.35, 0.6, shape)
    elif kind == "noise":
        pixels = rng.uniform(0.0, 1.0, shape)
    elif kind == "bright":  # clipped by every increase
        pixels = rng.uniform(0.8, 1.0, shape)
    elif kind == "dark":  # clipped by contrast and saturation at the lower end
        pixels = np.where(rng.uniform(size=shape) < 0.5, 0.0, rng.uniform(0.0, 0.3, shape))
        pixels[:, 0] = 1.0
    elif kind == "grey":
        pixels = np.repeat(rng.uniform(0.0, 1.0, (batch, number, 1)), 3, axis=2)
    elif kind == "pure":  # the corners of the RGB cube: black, white, primaries and their mixtures
        pixels = rng.integers(0, 2, shape).astype(float)
    return pixels.astype(np.float32)


def draw_jitter(rng, maximum, *, hue=True):
    """A jitter of every order, with factors and turns of both signs."""
    factors = rng.uniform(1.0 - maximum, 1.0 + maximum, (len(ORDERS), 3)).astype(np.float32)
    turn = rng.uniform(-min(maximum, 0.5), min(maximum, 0.5), len(ORDERS)).astype(np.float32)
    return color.Jitter(
        tf.constant(ORDERS), tf.constant(factors), tf.constant(turn) if hue else None
    )


def expected_of(pixels, jitter, weights=None):
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


def single(order=(0, 1, 2, 3), brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    return color.Jitter(
        tf.constant([order], tf.int32),
        tf.constant([[brightness, contrast, saturation]], tf.float32),
        tf.constant([hue], tf.float32),
    )


@pytest.mark.parametrize("hue", [True, False], ids=["hue", "no hue"])
@pytest.mark.parametrize("maximum", [0.1, 0.5])
@pytest.mark.parametrize("kind", ["mid-range", "noise", "bright", "dark", "grey", "pure"])
def test_every_order_equals_four_separate_steps(kind, maximum, hue):
    rng = np.random.default_rng(3)
    pixels, jitter = pixels_of(kind, rng), draw_jitter(rng, maximum, hue=hue)
    actual = color.apply(tf.constant(pixels), jitter)
    np.testing.assert_allclose(actual, expected_of(pixels, jitter), rtol=0, atol=1e-5)


def test_the_place_of_the_hue_in_the_order_matters():
    # The blends have no clipping among themselves and so commute; which of them come before the
    # hue, where values are clipped, tells orders apart. Were these results alike, the comparison
    # above would pass for any order.
    pixels = np.repeat(pixels_of("noise", np.random.default_rng(3), batch=1), len(ORDERS), axis=0)
    same = color.Jitter(
        tf.constant(ORDERS), tf.constant([[1.4, 0.6, 1.5]] * len(ORDERS)), tf.fill([24], 0.2)
    )
    results = color.apply(tf.constant(pixels), same).numpy()
    before_hue = [frozenset(order[: list(order).index(color.HUE)]) for order in ORDERS]
    for one, other in itertools.combinations(range(len(ORDERS)), 2):
        difference = np.abs(results[one] - results[other]).max()
        if before_hue[one] == before_hue[other]:
            assert difference < 1e-5
        else:
            assert difference > 1e-2


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("hue", [True, False], ids=["hue", "no hue"])
def test_contrast_refers_to_the_weighted_mean_grey(hue, scale):
    rng = np.random.default_rng(4)
    pixels, jitter = pixels_of("noise", rng), draw_jitter(rng, 0.5, hue=hue)
    weights = scale * rng.uniform(0.0, 2.0, pixels.shape[:2]).astype(np.float32)
    actual = color.apply(tf.constant(pixels), jitter, tf.constant(weights))
    np.testing.assert_allclose(actual, expected_of(pixels, jitter, weights), rtol=0, atol=1e-5)


def test_pixels_of_weight_zero_do_not_touch_the_others():
    # A patch's list is padded to a fixed length; the padding must not shift its mean grey.
    rng = np.random.default_rng(5)
    pixels, jitter = pixels_of("mid-range", rng), draw_jitter(rng, 0.5)
    inside = rng.uniform(size=pixels.shape[:2]) < 0.4
    other = np.where(inside[..., None], pixels, 1.0).astype(np.float32)
    weights = tf.constant(inside, tf.float32)
    actual = color.apply(tf.constant(other), jitter, weights).numpy()
    for i, mask in enumerate(inside):
        alone = reference.jitter(
            pixels[i][mask], ORDERS[i], jitter.factors[i].numpy(), float(jitter.hue[i])
        )
        np.testing.assert_allclose(actual[i][mask], alone, rtol=0, atol=1e-5)


def test_known_values():
    # Worked out by hand, so that they do not depend on the reference.
    def turned(rgb, **kwargs):
        return color.apply(tf.constant([rgb], tf.float32), single(**kwargs)).numpy()[0]

    np.testing.assert_allclose(turned([[0.5, 0.2, 0.1]], brightness=1.2), [[0.6, 0.24, 0.12]], 1e-6)
    np.testing.assert_allclose(turned([[1.0, 0.0, 0.0]], saturation=0.0), [[0.299] * 3], 1e-6)
    np.testing.assert_allclose(
        turned([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], contrast=0.0), [[0.3505] * 3] * 2, 1e-6
    )
    # A third of a circle: red to green, green to blue, blue to red; backwards the other way round.
    primaries = np.eye(3)
    np.testing.assert_allclose(turned(primaries, hue=1 / 3), primaries[[1, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(turned(primaries, hue=-1 / 3), primaries[[2, 0, 1]], atol=1e-6)
    # Half a circle: red to cyan; the same either way.
    np.testing.assert_allclose(turned([[0.8, 0.2, 0.2]], hue=0.5), [[0.2, 0.8, 0.8]], atol=1e-6)
    np.testing.assert_allclose(turned([[0.8, 0.2, 0.2]], hue=-0.5), [[0.2, 0.8, 0.8]], atol=1e-6)


def test_no_clipping_between_brightness_and_contrast():
    # 0.8 and 0.4 become 1.6 and 0.8, whose mean is 1.2, then 1.4 and 1.0; clipped in between they
    # would be 0.95 and 0.85.
    pixels = tf.constant([[[0.8] * 3, [0.4] * 3]])
    result = color.apply(pixels, single((0, 1, 2, 3), brightness=2.0, contrast=0.5)).numpy()
    np.testing.assert_allclose(result[0, :, 0], [1.0, 1.0], atol=1e-6)


def test_clipped_before_the_hue_is_turned():
    # Twice (0.8, 0.4, 0) is (1, 0.8, 0) by then; half a circle on it is (0, 0.2, 1).
    pixels = tf.constant([[[0.8, 0.4, 0.0]]])
    result = color.apply(pixels, single((0, 3, 1, 2), brightness=2.0, hue=0.5)).numpy()
    np.testing.assert_allclose(result[0, 0], [0.0, 0.2, 1.0], atol=1e-6)


@pytest.mark.parametrize("kind", ["noise", "grey", "pure"])
def test_neutral_jitter_changes_nothing(kind):
    pixels = pixels_of(kind, np.random.default_rng(6))
    neutral = color.Jitter(tf.constant(ORDERS), tf.ones([24, 3]), tf.zeros([24]))
    np.testing.assert_allclose(color.apply(tf.constant(pixels), neutral), pixels, atol=1e-6)


@pytest.mark.parametrize("hue", [True, False], ids=["hue", "no hue"])
def test_greys_stay_grey(hue):
    rng = np.random.default_rng(7)
    jitter = draw_jitter(rng, 0.5, hue=hue)
    result = color.apply(tf.constant(pixels_of("grey", rng)), jitter).numpy()
    assert np.ptp(result, axis=2).max() < 1e-6


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


def test_pixels_may_come_in_any_order():
    rng = np.random.default_rng(9)
    pixels, jitter = pixels_of("noise", rng), draw_jitter(rng, 0.3)
    shuffle = rng.permutation(pixels.shape[1])
    np.testing.assert_allclose(
        color.apply(tf.constant(pixels[:, shuffle]), jitter),
        color.apply(tf.constant(pixels), jitter).numpy()[:, shuffle],
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
def test_apply_keeps_dtype_shape_and_range(dtype):
    rng = np.random.default_rng(10)
    pixels = tf.cast(pixels_of("noise", rng), dtype)
    jitter = draw_jitter(rng, 0.5)
    result = color.apply(pixels, jitter)
    assert result.dtype == dtype
    assert result.shape == pixels.shape
    assert 0.0 <= result.numpy().min() <= result.numpy().max() <= 1.0
    # float16 is the storage only: the result is as good as its rounding to 11 bits.
    expected = expected_of(pixels.numpy(), jitter)
    np.testing.assert_allclose(result, expected, atol=1e-3 if dtype == tf.float16 else 1e-5)


def test_all_orders_are_equally_frequent():
    order = color.sample(DRAWS, 0.1, SEED).order
    assert order.dtype == tf.int32
    reference.assert_equally_frequent(
        order.numpy() @ [1000, 100, 10, 1], ORDERS @ [1000, 100, 10, 1]
    )


@pytest.mark.parametrize("maximum", [0.1, 0.3])
def test_factors_and_hue_are_uniform_around_no_change(maximum):
    jitter = color.sample(DRAWS, maximum, SEED)
    assert jitter.factors.shape == [DRAWS, 3]
    assert jitter.hue.shape == [DRAWS]
    for k in range(3):
        reference.assert_uniform(jitter.factors[:, k], 1.0 - maximum, 1.0 + maximum)
    reference.assert_uniform(jitter.hue, -maximum, maximum)


def test_order_factors_and_hue_are_unrelated():
    jitter = color.sample(DRAWS, 0.1, SEED)
    place = np.argsort(jitter.order, axis=1)
    series = [*place.T[:3], *tf.unstack(jitter.factors, axis=1), jitter.hue]
    for i, j in itertools.combinations(range(len(series)), 2):
        if j >= 3:  # the places of two transformations exclude each other
            reference.assert_unrelated(series[i], series[j])


def test_order_factors_and_hue_of_a_single_image_are_unrelated():
    # Streams that share a seed but not a shape fall into step in the first image only.
    @tf.function  # a graph, for speed
    def draws():
        def draw(step):
            jitter = color.sample(1, 0.1, tf.stack([4, step]))
            place = tf.cast(tf.argsort(jitter.order[0]), tf.float32)
            return tf.concat([place[:3], jitter.factors[0], jitter.hue], 0)

        return tf.map_fn(draw, tf.range(1000), fn_output_signature=tf.float32)

    series = draws().numpy().T
    for i, j in itertools.product(range(6), range(3, 7)):
        if i < j:
            reference.assert_unrelated(series[i], series[j])


def test_maximum_zero_draws_a_jitter_that_changes_nothing():
    jitter = color.sample(10, 0.0, SEED)
    assert np.all(jitter.factors == 1.0)
    assert np.all(jitter.hue == 0.0)


def test_without_hue_none_is_drawn():
    assert color.sample(3, 0.1, SEED, hue=False).hue is None


def jitter_images(images, maximum, hue=True):
    return color.apply_to_images(images, color.sample(len(images), maximum, SEED, hue=hue))


def test_images_without_jitter_are_as_they_are():
    images = tf.random.stateless_uniform([2, 8, 8, 3], SEED)
    assert np.array_equal(color.apply_to_images(images, None), images)


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
def test_jitter_images_keeps_shape_and_dtype(dtype):
    images = tf.cast(tf.random.stateless_uniform([2, 9, 7, 3], SEED), dtype)
    result = jitter_images(images, 0.3)
    assert result.dtype == dtype
    assert result.shape == images.shape
    assert 0.0 <= result.numpy().min() <= result.numpy().max() <= 1.0


@pytest.mark.parametrize("hue", [True, False], ids=["hue", "no hue"])
def test_jitter_images_turns_each_image_by_its_own_hue_or_none(hue):
    # Blends with greys keep the hue, so what it turns by shows in the result. The same picture
    # throughout, so that only the draw makes a difference; no clipping at these values.
    rng = np.random.default_rng(11)
    images = np.repeat(rng.uniform(0.4, 0.6, (1, 9, 7, 3)), 6, axis=0).astype(np.float32)
    result = jitter_images(tf.constant(images), 0.1, hue).numpy()
    before, after = (
        matplotlib.colors.rgb_to_hsv(i.astype(float))[..., 0] for i in (images, result)
    )
    turn = (after - before + 0.5) % 1.0 - 0.5
    each = np.median(turn, axis=(1, 2))
    np.testing.assert_allclose(turn, np.broadcast_to(each[:, None, None], turn.shape), atol=1e-3)
    if hue:
        assert np.abs(each).max() <= 0.1 + 1e-4
        assert np.ptp(each) > 0.02
    else:
        np.testing.assert_allclose(each, 0.0, atol=1e-4)
    # Every image has a jitter of its own.
    assert all(
        np.abs(result[i] - result[j]).max() > 1e-3 for i, j in itertools.combinations(range(6), 2)
    )


def test_jitter_images_keeps_pixels_in_place():
    # One grey map per image without hue and on grey input: the brighter pixel stays the brighter.
    levels = np.random.default_rng(12).permutation(63).reshape(9, 7) / 62.0
    images = np.repeat((0.3 + 0.4 * levels)[None, ..., None], 3, axis=3).repeat(4, axis=0)
    result = jitter_images(tf.constant(images, tf.float32), 0.1, hue=False).numpy()
    for image in result:
        assert np.array_equal(np.argsort(image[..., 0].ravel()), np.argsort(levels.ravel()))
