"""GradCAM of the anomaly score against the gradient written out."""

import keras
import numpy as np
import pytest
from conftest import SETTINGS

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.models.efficientnet import efficientnet
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.scoring.pooled import PooledScorer

SIZE = 64


def scorer_of(network, **settings):
    return PooledScorer(Config(**SETTINGS, image_size=SIZE, maps="gradcam", **settings), network)


@pytest.fixture(scope="module")
def images():
    arrays = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
    return pipeline.of_arrays(arrays, SIZE)


def expected_map(maps, density):
    """Equation 2's gradient by hand: P (f - m), spread evenly over the places."""
    pooled = maps.astype(np.float64).mean((1, 2))
    mean, whitener = density.arrays["mean"], density.arrays["whitener"]
    if density.kind == "gmm":
        length = np.linalg.norm(pooled, axis=1)[:, None]
        unit = pooled / length
        gradient = (unit - mean) @ whitener @ whitener.T
        # What is along the feature is lost when it is brought to unit length.
        gradient = (gradient - unit * np.sum(gradient * unit, axis=1)[:, None]) / length
    else:
        gradient = (pooled - mean) @ whitener @ whitener.T
    weights = gradient / (maps.shape[1] * maps.shape[2])
    return np.maximum(np.einsum("nc,nhwc->nhw", weights, maps), 0.0)


@pytest.mark.parametrize(
    ("name", "feature", "kind"),
    [
        ("resnet18", "pool", "gde"),
        ("resnet18", "pool", "gmm"),
        pytest.param("efficientnet_b0", "level8", "gde", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("shallow_efficientnet")
def test_maps_are_weighted_by_the_negative_log_densitys_gradient(name, feature, kind, images):
    keras.utils.set_random_seed(0)
    batch = images.stored.numpy()[:, 0].astype(np.float32) / 255.0
    if name == "resnet18":
        network = resnet18(SIZE, width=0.125)
        layer = network.get_layer("conv5")
        maps = keras.Model(network.input, layer.output).predict(batch, verbose=0)
        settings = {}
    else:
        network = efficientnet(name, SIZE)
        maps = network.get_layer("trunk")(network.get_layer("normalize")(batch))[feature].numpy()
        settings = {"backbone": name, "features": feature}
    scorer = scorer_of(network, **settings, density=kind)
    fit = scorer.fit(images.subset(range(12)))
    found = scorer.score(fit, images).maps.small
    expected = expected_map(maps, fit.density)
    assert found.shape == (20, 1, 2, 2)
    assert expected.max() > 0
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_a_map_rises_where_a_defect_is():
    """On a network that averages colours around places: red is normal, a green square is not."""
    inputs = keras.Input([SIZE, SIZE, 3])
    x = keras.layers.AveragePooling2D(9, strides=8)(keras.layers.ZeroPadding2D(4)(inputs))
    network = keras.Model(inputs, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})
    arrays = np.zeros([10, SIZE, SIZE, 3], np.uint8)
    rng = np.random.default_rng(1)
    arrays[..., 0] = rng.integers(180, 250, (10, 1, 1))
    arrays[..., 1] = rng.integers(0, 20, (10, 1, 1))
    arrays[-1, 16:32, 40:56, 1] = 255
    images, scorer = pipeline.of_arrays(arrays, SIZE), scorer_of(network)
    (full,) = scorer.score(scorer.fit(images.subset(range(9))), images).maps.read([9])
    defect = np.zeros([SIZE, SIZE], bool)
    defect[16:32, 40:56] = True
    assert full[20:28, 44:52].min() > full[~defect].max()


def test_a_map_of_resnet18_is_enlarged_around_its_places_first_pixels():
    network = resnet18((96, 97), width=0.0625)
    scorer = PooledScorer(Config(**SETTINGS, image_size=(96, 97), maps="gradcam"), network)
    maps = np.zeros([1, 1, 3, 4], np.float32)
    maps[0, 0, 1, 2] = 1.0
    full = np.asarray(scorer.enlarge(None)(maps))[0, 0]
    np.testing.assert_array_equal(np.argwhere(full == 1.0), [[32, 64]])
