"""The whole of scoring, from pixels to score and map, as one Keras model to export."""

import itertools

import keras
import numpy as np
from keras import ops

from cutpaste_tf.choices import GAUSSIANS
from cutpaste_tf.data.preparation import FILL
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models.plain import as_keras
from cutpaste_tf.scoring import feature_maps, patch, upsample
from cutpaste_tf.scoring.detector import Detector


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
      makes maps, `map`, float32 [B, H', W'], as high and wide as the canvas.
    """
    # Who loads the file has no layers of this package.
    network = as_keras(detector.backbone)
    images = keras.Input([None, None, 3], dtype="uint8", name="images")
    pixels, region = _on_canvas(images, detector.preparation, portable)
    if detector.preparation.count == 1:
        score, anomaly_map = _score_inputs(detector, network, pixels, region, precise)
    else:
        score, anomaly_map = _score_tiles(detector, network, pixels, region, precise)
    outputs = {"score": ops.cast(score, "float32")}
    if anomaly_map is not None:
        outputs["map"] = anomaly_map
        if region is not None:
            outputs["map"] = anomaly_map * ops.cast(region, "float32")
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


def _on_canvas(images, preparation, portable):
    """`Preparation.on_canvas` and scaling to [0, 1], for images of any size.

    Returns them, and what of a canvas is looked at, bool [1, H', W'] or None.
    """
    x = ops.cast(images, "float32")
    canvas = preparation.canvas
    # Nothing else in the graph knows the numbers of pixels, and there may be no images.
    ones = [ops.sum(ops.zeros_like(side), axis=0) + 1.0 for side in (x[:, :, 0, 0], x[:, 0, :, 0])]
    firsts, lengths = _place(ones, preparation)
    on_canvas = [*zip(canvas, firsts, lengths, strict=True)]
    if preparation.roi is not None:
        roi = _roi(preparation.roi)
        own = roi([ops.cumsum(axis) - 0.5 for axis in ones], [ops.sum(axis) for axis in ones])
        x = ops.where(own, x, float(FILL))
    if preparation.resize == "squash" and not portable:
        x = ops.image.resize(x, canvas, antialias=True)
    else:
        rows, columns = (
            _antialiasing(each, *axis) for each, axis in zip(ones, on_canvas, strict=True)
        )
        x = ops.matmul(ops.matmul(rows, ops.transpose(x, (0, 3, 1, 2))), ops.transpose(columns))
        x = ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, *canvas, 3))
    x = ops.clip(ops.round(x), 0.0, 255.0)
    region = None
    if preparation.resize == "pad":
        rows, columns = (_inside(*axis) for axis in on_canvas)
        region = ops.logical_and(rows, ops.transpose(columns))
    if preparation.roi is not None:
        shown = roi([_middles_within(*axis) for axis in on_canvas], lengths)
        x = ops.where(shown, x, float(FILL))
        region = shown[..., 0] if region is None else ops.logical_and(shown[..., 0], region)
    return x / 255.0, region if region is None else ops.expand_dims(region, 0)


def _place(ones, preparation):
    """`Preparation.place`: where the image begins along either axis, and how long it is."""
    canvas = [float(side) for side in preparation.canvas]
    sides = [ops.sum(axis) for axis in ones]
    if preparation.resize == "squash":  # Tensors too, so that all of it is in the graph.
        return [0.0 * side for side in sides], canvas
    scale = ops.minimum(*(of / its for of, its in zip(canvas, sides, strict=True)))
    lengths = [ops.maximum(ops.round(side * scale), 1.0) for side in sides]
    gaps = [of - length for of, length in zip(canvas, lengths, strict=True)]
    return [ops.floor(gap / 2.0) for gap in gaps], lengths


def _antialiasing(ones, size, first, length):
    """tf.image.resize's weights along one axis of n pixels as a matrix, [size, n].

    There are n ones. On the canvas, of `size` pixels, the image begins at `first` and takes
    `length`.
    """
    # The kernel is a triangle, as wide as the pixels of the smaller of both images.
    scale = ops.sum(ones) / length
    centers = ops.multiply(scale, _middles_within(size, first, length))
    distances = ops.abs(ops.cumsum(ops.expand_dims(ones, 0), axis=1) - 0.5 - centers) / ops.maximum(
        scale, 1.0
    )
    weights = ops.relu(1.0 - distances)
    return weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-6)


def _middles(size, first):
    """How far a canvas's pixels are in an image that begins at `first`, float32 [size, 1]."""
    return ops.subtract(np.arange(size, dtype=np.float32)[:, None] + 0.5, first)


def _middles_within(size, first, length):
    """Likewise; beyond the image its border goes on."""
    return ops.minimum(ops.maximum(_middles(size, first), 0.5), length - 0.5)


def _inside(size, first, length):
    """Which of a canvas's pixels along an axis show the image, bool [size, 1]."""
    middles = _middles(size, first)
    return ops.logical_and(middles > 0.0, middles < length)


def _roi(roi):
    """`Preparation.own_region`: a function of pixels' middles and images' lengths along both axes.

    It returns bool [H, W, 1].
    """
    # Looked up: images are too large for products with matrices that only choose.
    table = keras.layers.Embedding(*roi.shape, trainable=False, name="region_of_interest")
    table.build([None])
    table.set_weights([roi.astype(np.float32)])

    def looked_up(middles, lengths):
        rows, columns = (
            ops.cast(ops.floor(ops.reshape(at, [-1]) * count / length), "int32")
            for at, count, length in zip(middles, roi.shape, lengths, strict=True)
        )
        return ops.expand_dims(ops.take(table(rows), columns, axis=1) > 0.5, -1)

    return looked_up


def _score_tiles(detector, network, pixels, region, precise):
    """The largest tile's score, [B], and the tiles' maps joined; a row of tiles at a time."""
    preparation = detector.preparation
    (rows, columns), (height, width) = preparation.tiles, preparation.size
    if region is None:  # All of it; computed, as ONNX's converter takes no constant that is true.
        region = ops.sum(ops.zeros_like(pixels[..., 0]), axis=0, keepdims=True) < 1.0
    inputs = [keras.Input([height, width, 3]), keras.Input([height, width], dtype="bool")]
    score, anomaly_map = _score_inputs(detector, network, *inputs, precise)
    outputs = {"score": score} | ({} if anomaly_map is None else {"map": anomaly_map})
    scorer = keras.Model(inputs, outputs, name="tile_scorer")

    def tile(canvas, top, left):
        return canvas[:, top : top + height, left : left + width]

    corners, scores, strips = preparation.corners, [], []
    none = ops.zeros_like(pixels[:, :1, :1, 0]) > 0.0  # of each image
    for row in range(rows):
        here = corners[row * columns : (row + 1) * columns]
        seen = [tile(region, *at) for at in here]
        tiles = ops.concatenate([tile(pixels, *at) for at in here], axis=0)
        scored = scorer([tiles, ops.concatenate([ops.logical_or(x, none) for x in seen], axis=0)])
        row_scores = ops.reshape(ops.cast(scored["score"], "float32"), (columns, -1))
        for column in range(columns):  # A tile with nothing to look at has no say.
            least = float(np.finfo(np.float32).min)
            scores.append(ops.where(ops.any(seen[column]), row_scores[column], least))
        if "map" in scored:
            maps = ops.reshape(scored["map"], (columns, -1, *scored["map"].shape[1:]))
            maps = [maps[column] for column in range(columns)]
            strips.append(_joined(maps, 2, width, preparation.common[1]))
    score = ops.max(ops.stack(scores, axis=0), axis=0)
    return score, _joined(strips, 1, height, preparation.common[0]) if strips else None


def _joined(parts, axis, side, common):
    """`Preparation.join` along one axis."""
    rising = (np.arange(common, dtype=np.float32) + 0.5) / common
    rising = rising[:, None] if axis == 1 else rising
    falling = rising[::-1].copy()

    def cut(part, start, stop):
        return part[:, start:stop] if axis == 1 else part[:, :, start:stop]

    pieces = [cut(parts[0], 0, side - common)]
    for before, part in itertools.pairwise(parts):
        pieces.append(cut(before, side - common, side) * falling + cut(part, 0, common) * rising)
        pieces.append(cut(part, common, side - common))
    pieces.append(cut(parts[-1], side - common, side))
    return ops.concatenate(pieces, axis=axis)


def _score_inputs(detector, network, pixels, region, precise):
    """Scores, [B], and maps, float32 [B, h, w] or None, of a network's inputs."""
    config = detector.config
    if config.patch_size:
        return _score_patches(detector, network, pixels, precise)
    if config.maps == "none":
        return _score_pooled(detector, network(pixels)[config.features], precise), None
    if config.maps == "features":
        outputs = feature_maps.build_model(network, config.levels)(pixels)
        pooled = _score_pooled(detector, outputs[config.features], precise)
        places = feature_maps.places(network, config.levels)
        return _score_feature_maps(detector, outputs["vectors"], places, pooled, region, precise)
    small = network.get_layer(config.features).input
    maps = ops.cast(keras.Model(network.input, small)(pixels), "float32")
    pooled = ops.mean(maps, axis=(1, 2))
    score, gradient = _mahalanobis(detector.density, pooled, precise, gradient=True)
    count = maps.shape[1] * maps.shape[2]
    weights = ops.reshape(gradient / count, (-1, 1, 1, maps.shape[3]))
    explained = ops.relu(ops.sum(weights * maps, axis=-1))
    places = backbones.places(small)
    seen = _seen_places(region, config.size, places)
    return score, _enlarged(explained, seen, *upsample.enlargements(config.size, places))


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


def _score_feature_maps(detector, vectors, places, pooled, region, precise):
    """Scores, [B], as --image_score has them, and anomaly maps, float32 [B, h, w]."""
    config, density = detector.config, detector.map_density
    maps, height, width = density.grid
    gaussians = density.gaussians
    count, dims = height * width, vectors.shape[-1]
    if len(gaussians.mean) == maps:
        vectors = ops.reshape(vectors, (-1, maps, count, dims))
        parts = [
            _location_distances(gaussians.take([k]), vectors[:, k], precise, f"_{k}")
            for k in range(maps)
        ]
        distances = ops.stack(parts, axis=1)
    else:
        vectors = ops.reshape(vectors, (-1, maps * count, dims))
        distances = _location_distances(gaussians, vectors, precise)
        distances = ops.reshape(distances, (-1, maps, count))
    distances = ops.reshape(ops.sqrt(ops.sum(ops.square(distances), axis=1)), (-1, height, width))
    seen = _seen_places(region, config.size, places)
    if seen is not None:
        distances = distances * seen
    matrices = upsample.enlargements(config.size, places, feature_maps.DEVIATION)
    anomaly_map = _enlarged(distances, seen, *matrices)
    largest = ops.max(distances, axis=(1, 2))
    if config.image_score == "map":
        return largest, anomaly_map
    if config.image_score == "pooled":
        return pooled, anomaly_map
    (mean, deviation), (map_mean, map_deviation) = density.usual.tolist()
    pooled = ops.cast(pooled, "float32")
    both = (pooled - mean) / deviation + (largest - map_mean) / map_deviation
    return both / 2.0, anomaly_map


def _seen_places(region, size, places):
    """`pipeline.Images.places`, float32 [.., h, w], of a region, bool [.., H, W]; None: all."""
    if region is None:
        return None
    rows, columns = (cell.astype(np.float32) for cell in upsample.cells(size, places))
    near = ops.matmul(ops.matmul(rows, ops.cast(region, "float32")), columns.T.copy())
    return ops.cast(near > 0.5, "float32")


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
    mixture, logs = density.mixture, []
    for number, weight in enumerate(mixture.weights_):
        whitener = mixture.precisions_cholesky_[number]
        centred = _centered(features, mixture.means_[number], dtype, f"center_{number}")
        white = _constant(whitener, f"whiten_{number}", dtype)(centred)
        constant = np.log(weight) + np.log(np.diagonal(whitener)).sum()
        constant -= 0.5 * len(whitener) * np.log(2.0 * np.pi)
        logs.append(float(constant) - 0.5 * ops.sum(ops.square(white), axis=-1))
    return -ops.logsumexp(ops.stack(logs, axis=-1), axis=-1)


def _score_patches(detector, network, pixels, precise):
    """The largest patch's distances, [B], and anomaly maps, float32 [B, S, S]."""
    config, density = detector.config, detector.density
    side, stride, dims = config.dense_patch, config.dense_stride, density.mean.shape[1]
    rows, columns = (patch.patches_along(length, side, stride) for length in config.size)
    x = pixels
    for axis, count in ((1, rows), (2, columns)):
        at = (np.arange(count)[:, None] * stride + np.arange(side)).ravel().astype(np.int32)
        x = ops.take(x, at, axis=axis)
    x = ops.transpose(ops.reshape(x, (-1, rows, side, columns, side, 3)), (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, side, side, 3))
    features = ops.reshape(network(x)["pool"], (-1, rows * columns, dims))
    distances = _location_distances(density, features, precise)
    level = float(np.mean(density.level))
    spread = (upsample.receptive_field_matrix(length, side, stride) for length in config.size)
    grid = ops.reshape(distances, (-1, rows, columns))
    squared = _product(ops.square(grid) - level**2, *spread) + level**2
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
        flat = _centered(flat, density.mean.ravel(), dtype, f"center{suffix}_places")
        # Locations first: a batch of products of matrices, which every format has.
        centred = ops.reshape(ops.cast(flat, "float32"), (-1, locations, dims))
        whiten = keras.layers.EinsumDense(
            "lbd,lde->lbe",
            [None, dims],
            trainable=False,
            dtype="float32",
            name=f"whiten{suffix}_places",
        )
        whiten.build([locations, None, dims])
        whiten.set_weights([density.whitener.transpose(0, 2, 1)])
        white = ops.transpose(whiten(ops.transpose(centred, (1, 0, 2))), (1, 0, 2))
    return ops.cast(ops.sqrt(ops.sum(ops.square(white), axis=-1)), "float32")


def _enlarged(maps, seen, rows, columns):
    """What `upsample.enlarger` does with maps, [B, h, w], of whose places some are looked at."""
    if seen is None:
        return _product(maps, rows, columns)
    weights = ops.maximum(_product(seen, rows, columns, "_of_seen"), upsample.LEAST_WEIGHT)
    return _product(maps * seen, rows, columns) / weights


def _product(maps, rows, columns, suffix=""):
    """Multiplies maps, [B, h, w], by [H, h] from one side and [W, w] from the other."""
    # As matrices: products of anything else become a dozen operations in TensorFlow Lite.
    (high, height), (wide, width) = rows.shape, columns.shape
    maps = _constant(columns.T, f"columns{suffix}")(ops.reshape(maps, (-1, width)))
    maps = ops.transpose(ops.reshape(maps, (-1, height, wide)), (0, 2, 1))
    maps = _constant(rows.T, f"rows{suffix}")(ops.reshape(maps, (-1, height)))
    return ops.transpose(ops.reshape(maps, (-1, wide, high)), (0, 2, 1))
