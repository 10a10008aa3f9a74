"""GradCAM of the anomaly score against the gradient written out."""

import keras
import numpy as np
import pytest

from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import normal
from cutpaste_tf.models.efficientnet import efficientnet
from cutpaste_tf.models.resnet import resnet18
from cutpaste_tf.scoring import density, gradcam

SIZE = 64


@pytest.fixture(scope="module")
def images():
    arrays = list(np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8))
    return pipeline.prepare(normal([str(i) for i in range(20)], arrays), SIZE)


def expected_map(features, fitted):
    """Equation 2's gradient by hand: P (f - m), spread evenly over the places."""
    pooled = features.astype(np.float64).mean((1, 2))
    if fitted.kind == "gmm":
        length = np.linalg.norm(pooled, axis=1)[:, None]
        unit = pooled / length
        gradient = (unit - fitted.mean) @ fitted.precision
        # What is along the feature is lost when it is brought to unit length.
        gradient = (gradient - unit * np.sum(gradient * unit, axis=1)[:, None]) / length
    else:
        gradient = (pooled - fitted.mean) @ fitted.precision
    weights = gradient / (features.shape[1] * features.shape[2])
    return np.maximum(np.einsum("nc,nhwc->nhw", weights, features), 0.0)


@pytest.mark.parametrize(
    ("make", "feature", "kind"),
    [
        (lambda: resnet18(SIZE, width=0.125), "pool", "gde"),
        (lambda: resnet18(SIZE, width=0.125), "pool", "gmm"),
        pytest.param(
            lambda: efficientnet("efficientnet_b0", SIZE), "pool", "gde", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: efficientnet("efficientnet_b0", SIZE), "level8", "gde", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.usefixtures("shallow_efficientnet")
def test_maps_are_weighted_by_the_negative_log_densitys_gradient(make, feature, kind, images):
    keras.utils.set_random_seed(0)
    backbone = make()
    batch = images.stored.numpy().astype(np.float32) / 255.0
    if "efficientnet" in backbone.name:
        trunk = backbone.get_layer("trunk")
        features = trunk(backbone.get_layer("normalize")(batch))[feature].numpy()
    else:
        maps = keras.Model(backbone.input, backbone.get_layer("conv5_block2_out").output)
        features = maps.predict(batch, verbose=0)
    fitted = density.make(kind).fit(backbone.predict(batch[:12], verbose=0)[feature])
    found = gradcam.GradCam(backbone, feature, fitted)(images)
    expected = expected_map(features, fitted)
    assert found.shape == (20, 2, 2)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_a_map_rises_where_a_defect_is(images):
    """On a network that averages colours: red is normal, a green square is not."""
    inputs = keras.Input([SIZE, SIZE, 3])
    x = keras.layers.AveragePooling2D(8)(inputs)
    backbone = keras.Model(inputs, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})
    rng = np.random.default_rng(1)
    arrays = [np.zeros([SIZE, SIZE, 3], np.uint8) for _ in range(10)]
    for array in arrays:
        array[..., 0] = rng.integers(180, 250)
        array[..., 1] = rng.integers(0, 20)
    arrays[-1][16:32, 40:56, 1] = 255
    split = pipeline.prepare(normal([str(i) for i in range(10)], arrays), SIZE)
    features = backbone.predict(split.stored.numpy()[:9] / 255.0, verbose=0)["pool"]
    fitted = density.GaussianDensity().fit(features)
    cam = gradcam.GradCam(backbone, "pool", fitted)
    full = cam.enlarge(cam(split)[-1:]).numpy()[0]
    defect = np.zeros([SIZE, SIZE], bool)
    defect[16:32, 40:56] = True
    assert full[20:28, 44:52].min() > full[~defect].max()


def test_no_images_have_no_maps():
    backbone = resnet18(32, width=0.0625)
    fitted = density.GaussianDensity().fit(np.random.default_rng(0).normal(size=(9, 32)))
    empty = pipeline.of_arrays([], 32)
    assert len(gradcam.GradCam(backbone, "pool", fitted)(empty)) == 0


def test_a_map_of_resnet18_is_enlarged_around_its_places_first_pixels():
    fitted = density.GaussianDensity().fit(np.random.default_rng(0).normal(size=(9, 32)))
    maps = np.zeros([1, 3, 4], np.float32)
    maps[0, 1, 2] = 1.0
    full = gradcam.GradCam(resnet18((96, 97), width=0.0625), "pool", fitted).enlarge(maps).numpy()
    np.testing.assert_array_equal(np.argwhere(full[0] == 1.0), [[32, 64]])
