"""The whole of scoring, from pixels to score and map, as one Keras model to export."""

import keras
import numpy as np
from keras import ops

from cutpaste_tf.config import GAUSSIANS
from cutpaste_tf.detector import Detector
from cutpaste_tf.localize import feature_maps, patch, upsample
from cutpaste_tf.models.plain import as_keras


def build_scorer(
    detector: Detector, *, portable: bool = False, precise: bool = True
) -> keras.Model:
    """Builds the whole of scoring as one Keras model, of Keras's own layers and operations alone.

    Args:
      detector: the run.
      portable: whether to use only what other formats than TensorFlow's have too.
      precise: whether the density is computed in float64, as the run does; else in float32.

    Returns:
      A model from images, uint8 [B, H, W, 3], to a dict of `score`, float32 [B], and, where the run
      makes maps, `map`, float32 [B, S, S].
    """
    # Who loads the file has no layers of this package.
    config, network = detector.config, as_keras(detector.backbone)
    images = keras.Input([None, None, 3], dtype="uint8", name="images")
    pixels = _resized(images, config.image_size, portable)
    if config.patch_size:
        score, anomaly_map = _score_patches(detector, network, pixels, precise)
    elif config.maps == "features":
        score, anomaly_map = _score_feature_maps(detector, network, pixels, precise)
    elif config.maps == "gradcam":
        maps = keras.Model(network.input, network.get_layer(config.features).input)(pixels)
        maps = ops.cast(maps, "float32")
        pooled = ops.mean(maps, axis=(1, 2))
        score, gradient = _mahalanobis(detector.density, pooled, precise, gradient=True)
        places = maps.shape[1] * maps.shape[2]
        weights = ops.reshape(gradient / places, (-1, 1, 1, maps.shape[3]))
        explained = ops.relu(ops.sum(weights * maps, axis=-1))
        anomaly_map = _enlarged(
            explained, *(upsample.bilinear_matrix(config.image_size, n).T for n in maps.shape[1:3])
        )
    else:
        score = _score_pooled(detector, network(pixels)[config.features], precise)
        anomaly_map = None
    outputs = {"score": ops.cast(score, "float32")}
    if anomaly_map is not None:
        outputs["map"] = anomaly_map
    return keras.Model(images, outputs, name="scorer")


def with_optional_threshold(model: keras.Model, default: float) -> keras.Model:
    """Adds a threshold to what `build_scorer` returned, and the verdict.

    Args:
      model: from `build_scorer`.
      default: the threshold where None is given.

    Returns:
      A model from `images` and `threshold`, float32 [1] or [B] or None, to `score`, `verdict` and,
      if there is one, `map`.
    """
    images = model.input
    threshold = keras.Input(batch_shape=[None], dtype="float32", name="threshold", optional=True)
    score = model.output["score"]

    # What is built of Keras's layers and operations loads anywhere, but few of them take None. This
    # one computes x * scale + offset, and x alone where both are None: 0 becomes the threshold or
    # stays 0, and -1 becomes 0 or stays -1.
    def given(x):
        x, zeros, ones = ops.full_like(score, x), ops.zeros_like(score), ops.ones_like(score)
        return ops.batch_normalization(x, zeros, ones, -1, threshold, threshold, epsilon=0.0)

    absent = given(-1.0) < -0.5
    used = ops.where(absent, ops.full_like(score, float(np.float32(default))), given(0.0))
    outputs = {**model.output, "verdict": ops.greater(score, used)}
    return keras.Model({"images": images, "threshold": threshold}, outputs, name="detector")


def _resized(images, size, portable):
    """`pipeline.resize` and scaling to [0, 1], for images of any size."""
    x = ops.cast(images, "float32")
    if portable:
        x = ops.transpose(x, (0, 3, 1, 2))
        ones = ops.ones_like(x[:1, 0])
        x = ops.matmul(_antialiasing(ones[:, :, 0], size), x)
        x = ops.matmul(x, ops.transpose(_antialiasing(ones[:, 0], size)))
        x = ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, size, size, 3))
    else:
        x = ops.image.resize(x, (size, size), antialias=True)
    return ops.clip(ops.round(x), 0.0, 255.0) / 255.0


def _antialiasing(ones, size):
    """tf.image.resize's weights along one axis as a matrix, [size, n].

    Args:
      ones: n of them, float32 [1, n]: nothing else in the graph knows the number of pixels.
      size: the wanted number of pixels.
    """
    # The kernel is a triangle, as wide as the pixels of the smaller of both images.
    scale = ops.sum(ones, axis=1, keepdims=True) / size
    centers = ops.multiply(scale, np.arange(size, dtype=np.float32)[:, None] + 0.5)
    distances = ops.abs(ops.cumsum(ones, axis=1) - 0.5 - centers) / ops.maximum(scale, 1.0)
    weights = ops.relu(1.0 - distances)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _constant(matrix, name, dtype="float32"):
    """A layer that multiplies by a matrix, [n, m], kept among the model's weights."""
    layer = keras.layers.Dense(
        matrix.shape[1], use_bias=False, trainable=False, dtype=dtype, name=name
    )
    layer.build([None, matrix.shape[0]])
    layer.set_weights([matrix])
    return layer


def _centered(features, mean, dtype, name="center"):
    """Subtracts a mean, [n], from features, [B, n]; it is kept among the model's weights."""
    layer = keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=0.0, trainable=False, dtype=dtype, name=name
    )
    layer.build([None, len(mean)])
    layer.set_weights([mean, np.ones_like(mean)])
    return layer(ops.cast(features, dtype), training=False)


def _score_pooled(detector, features, precise):
    """Scores, [B], of pooled features, [B, D]."""
    kinds = {"kde": _kernel_density, **dict.fromkeys(GAUSSIANS, _mahalanobis)}
    score_by = kinds.get(detector.config.main_density, _mixture)
    return score_by(detector.density, features, precise)


def _score_feature_maps(detector, network, pixels, precise):
    """Scores, [B], as --image_score has them, and anomaly maps, float32 [B, S, S]."""
    config, density = detector.config, detector.map_density
    maps, height, width = density.grid
    model = feature_maps.build_model(network, config.backbone, config.levels)
    outputs = model(pixels)
    places, dims = height * width, density.shape[1]
    if len(density.gaussians.mean) == maps:
        vectors = ops.reshape(outputs["vectors"], (-1, maps, places, dims))
        parts = [
            _location_distances(density.gaussians.take([k]), vectors[:, k], precise, f"_{k}")
            for k in range(maps)
        ]
        distances = ops.stack(parts, axis=1)
    else:
        vectors = ops.reshape(outputs["vectors"], (-1, maps * places, dims))
        distances = _location_distances(density.gaussians, vectors, precise)
        distances = ops.reshape(distances, (-1, maps, places))
    distances = ops.sqrt(ops.sum(ops.square(distances), axis=1))
    enlargement = feature_maps.enlargement(config.image_size, config.backbone, height).T
    anomaly_map = _enlarged(ops.reshape(distances, (-1, height, width)), enlargement, enlargement)
    largest = ops.max(distances, axis=-1)
    if config.image_score == "map":
        return largest, anomaly_map
    pooled = ops.cast(_score_pooled(detector, outputs[config.features], precise), "float32")
    if config.image_score == "pooled":
        return pooled, anomaly_map
    (mean, deviation), (map_mean, map_deviation) = density.usual.tolist()
    both = (pooled - mean) / deviation + (largest - map_mean) / map_deviation
    return both / 2.0, anomaly_map


def _mahalanobis(density, features, precise, gradient=False):
    """Distances, [B], and, if asked for, the negative log density's gradient, float32 [B, D]."""
    dtype = "float64" if precise else "float32"
    if density.unit_length:
        features, length = _unit(ops.cast(features, dtype))
    # The distance is the length of a vector: less is lost than where squares are subtracted.
    values, vectors = np.linalg.eigh((density.precision + density.precision.T) / 2.0)
    whitener = vectors * np.sqrt(np.maximum(values, 0.0))
    centred = _centered(features, density.mean, dtype)
    white = _constant(whitener, "whiten", dtype)(centred)
    distance = ops.sqrt(ops.sum(ops.square(white), axis=-1))
    if not gradient:
        return distance
    slope = _constant(whitener.T, "gradient", dtype)(white)
    if density.unit_length:  # Along the feature itself nothing changes.
        along = ops.sum(slope * features, axis=-1, keepdims=True)
        slope = (slope - along * features) / length
    return distance, ops.cast(slope, "float32")


def _unit(features):
    """Features of unit length, and the lengths that they had, [B, 1]."""
    length = ops.sqrt(ops.sum(ops.square(features), axis=-1, keepdims=True))
    length = ops.maximum(length, 1e-12)
    return features / length, length


def _kernel_density(density, features, precise):
    """Negative log-densities, [B]."""
    dtype = "float64" if precise else "float32"
    count, dims = density.features.shape
    inverse = density.bandwidth**-2
    x, _ = _unit(ops.cast(features, dtype))
    products = _constant(density.features.T * inverse, "kernels", dtype)(x)
    # -|x - y|^2 / 2h^2 with both of length one.
    log_sum = ops.logsumexp(products, axis=-1) - inverse
    normaliser = np.log(count) + dims * (np.log(density.bandwidth) + 0.5 * np.log(2.0 * np.pi))
    return float(normaliser) - log_sum


def _mixture(density, features, precise):
    """Negative log-densities, [B]."""
    dtype = "float64" if precise else "float32"
    logs = []
    for number, constant in enumerate(density.constants):
        centred = _centered(features, density.mean[number], dtype, f"center_{number}")
        white = _constant(density.whitener[number], f"whiten_{number}", dtype)(centred)
        logs.append(float(constant) - 0.5 * ops.sum(ops.square(white), axis=-1))
    return -ops.logsumexp(ops.stack(logs, axis=-1), axis=-1)


def _score_patches(detector, network, pixels, precise):
    """The largest patch's distances, [B], and anomaly maps, float32 [B, S, S]."""
    config, density = detector.config, detector.density
    size, side, stride = config.image_size, config.dense_patch, config.dense_stride
    count, dims = patch.patches_along(size, side, stride), density.shape[1]
    at = (np.arange(count)[:, None] * stride + np.arange(side)).ravel().astype(np.int32)
    x = ops.take(ops.take(pixels, at, axis=1), at, axis=2)
    x = ops.transpose(ops.reshape(x, (-1, count, side, count, side, 3)), (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, side, side, 3))
    features = ops.reshape(network(x)["pool"], (-1, count * count, dims))
    distances = _location_distances(density, features, precise)
    level = float(np.mean(density.level))
    spread = upsample.receptive_field_matrix(size, side, stride).T
    grid = ops.reshape(distances, (-1, count, count))
    squared = _enlarged(ops.square(grid) - level**2, spread, spread) + level**2
    return ops.max(distances, axis=-1), ops.sqrt(ops.maximum(squared, 0.0))


def _location_distances(density, vectors, precise, suffix=""):
    """Distances, float32 [B, L], of vectors, [B, L, D], by one Gaussian or one for each place."""
    dtype = "float64" if precise else "float32"
    locations, dims = vectors.shape[1:]
    if len(density.mean) == 1:
        flat = ops.reshape(vectors, (-1, dims))
        centred = _centered(flat, density.mean[0], dtype, f"center{suffix}_places")
        white = _constant(density.whitener[0].T, f"whiten{suffix}_places", dtype)(centred)
        white = ops.reshape(white, (-1, locations, dims))
    else:
        flat = ops.reshape(vectors, (-1, locations * dims))
        flat = _centered(flat, density.mean.ravel(), dtype, "center_places")
        # Locations first: a batch of products of matrices, which every format has.
        centred = ops.reshape(ops.cast(flat, "float32"), (-1, locations, dims))
        whiten = keras.layers.EinsumDense(
            "lbd,lde->lbe", [None, dims], trainable=False, dtype="float32", name="whiten_places"
        )
        whiten.build([locations, None, dims])
        whiten.set_weights([density.whitener.transpose(0, 2, 1)])
        white = ops.transpose(whiten(ops.transpose(centred, (1, 0, 2))), (1, 0, 2))
    return ops.cast(ops.sqrt(ops.sum(ops.square(white), axis=-1)), "float32")


def _enlarged(maps, rows, columns):
    """Multiplies maps, [B, h, w], by [h, S] from one side and [w, S] from the other."""
    # As matrices: products of anything else become a dozen operations in TensorFlow Lite.
    (height, size), width = rows.shape, len(columns)
    maps = _constant(columns, "columns")(ops.reshape(maps, (-1, width)))
    maps = ops.transpose(ops.reshape(maps, (-1, height, size)), (0, 2, 1))
    maps = _constant(rows, "rows")(ops.reshape(maps, (-1, height)))
    return ops.transpose(ops.reshape(maps, (-1, size, size)), (0, 2, 1))
