"""Anomaly maps in one pass: Gaussians on the vectors of a network's own feature maps.

The paper scores patches by a network of their own (Section 2.4). The network that scores an image
has maps of it, too, whose places see a part of it each; a density of their vectors, one for all
places or one for each (the two choices of Appendix A.5), scores them as the paper's does patches.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from cutpaste_tf import density as densities
from cutpaste_tf.data import pipeline
from cutpaste_tf.localize import upsample
from cutpaste_tf.models import backbone as backbones

_BATCH = 32
_HELD = 2**30  # bytes of normal images' vectors that are held rather than computed again
REACH = 1  # of a neighbourhood: a place and the eight around it
POOL = 3  # places along a side whose vectors are averaged before all else
# Of the Gaussian that a map's pixels are smoothed by, as a share of the image's side: 4 pixels of
# 256, as is usual with such maps.
DEVIATION = 1 / 64


def build_model(network: keras.Model, backbone: str, levels: Sequence[str]) -> keras.Model:
    """Builds what takes, in one pass, an image's features and the vectors of its feature maps.

    Args:
      network: as `backbones.build_backbone` or `backbones.side_by_side` returns.
      backbone: --backbone.
      levels: the blocks whose maps are taken, the finest first.

    Returns:
      A model from images, float32 [B, H, W, 3] in [0, 1], to a dict of the network's features,
      float32 [B, F], by their names, and of `vectors`, float32 [B, K, h, w, D]: of each of K
      networks the maps' vectors side by side, each averaged with those around it, at the finest
      map's places. All of Keras's own layers and operations.
    """
    images = keras.Input(network.input_shape[1:], name="images")
    size = network.input_shape[1]
    all_maps = [one(images) for one in backbones.feature_maps(network)]
    outputs = {}
    for name in network.output:
        pooled = [keras.layers.GlobalAveragePooling2D(dtype="float32")(m[name]) for m in all_maps]
        outputs[name] = ops.concatenate(pooled, axis=-1) if len(pooled) > 1 else pooled[0]
    vectors = []
    for maps in all_maps:
        finest, *coarser = (_averaged(maps[level]) for level in levels)
        count, step = finest.shape[1], stride(size, finest.shape[1])
        at = backbones.first_place(backbone, step) + step * np.arange(count)
        joined = [finest]
        for coarse in coarser:
            width = stride(size, coarse.shape[1])
            first = backbones.first_place(backbone, width)
            joined.append(_brought_to(coarse, upsample.between(at, first, width, coarse.shape[1])))
        vectors.append(ops.concatenate(joined, axis=-1) if coarser else finest)
    return keras.Model(images, {**outputs, "vectors": ops.stack(vectors, axis=1)})


def stride(size: int, count: int) -> int:
    """Returns the pixels from one of `count` places to the next, a power of two."""
    return 2 ** round(np.log2(size / count))


def _averaged(maps):
    """Means over places and those around them; at the border over fewer."""
    return keras.layers.AveragePooling2D(POOL, strides=1, padding="same")(ops.cast(maps, "float32"))


def _brought_to(maps, matrix):
    """Maps, [B, h, w, C], at other places along both axes: matrix is [H, h]."""
    matrix = matrix.astype(np.float32)
    count, side, channels = len(matrix), maps.shape[1], maps.shape[3]
    x = ops.matmul(matrix, ops.reshape(maps, (-1, side, side * channels)))
    x = ops.matmul(matrix, ops.reshape(x, (-1, side, channels)))
    return ops.reshape(x, (-1, count, count, channels))


def enlargement(size: int, backbone: str, count: int) -> np.ndarray:
    """Returns as a matrix, float64 [size, count], how a map's places become pixels."""
    step = stride(size, count)
    first = backbones.first_place(backbone, step)
    return upsample.smooth_enlargement(size, first, step, count, DEVIATION * size)


def enlarger(size: int, backbone: str, count: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from maps, float32 [N, count, count], to [N, size, size]."""
    matrix = tf.constant(enlargement(size, backbone, count), tf.float32)
    return lambda maps: tf.matmul(tf.matmul(matrix, maps), matrix, transpose_b=True)


class MapEmbedder:
    """Computes features and maps' vectors of un-augmented images, in inference mode.

    Args:
      network: as in `build_model`.
      backbone: likewise.
      levels: likewise.

    Attributes:
      grid: K, h and w.
      dimensions: length of the vectors, D.
    """

    def __init__(self, network: keras.Model, backbone: str, levels: Sequence[str]):
        model = build_model(network, backbone, levels)
        *grid, self.dimensions = model.output["vectors"].shape[1:]
        self.grid = tuple(grid)
        self._features = {name: x.shape[-1] for name, x in network.output.items()}
        signature = [tf.TensorSpec([None, *network.input_shape[1:]], tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)
        def embed(images):
            return model(tf.cast(images, tf.float32) / 255.0, training=False)

        self._embed = embed

    def __call__(self, images: pipeline.Images) -> Iterator[dict[str, np.ndarray]]:
        """Yields features, float32 [B, F], by name, and `vectors`, [B, K, h, w, D], in order."""
        for batch in pipeline.evaluation_batches(images, _BATCH):
            yield {name: values.numpy() for name, values in self._embed(batch).items()}

    def joined(self, batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns the features, float32 [N, F], by name, of what this yielded; of nothing too."""
        none = {name: np.zeros([0, size], np.float32) for name, size in self._features.items()}
        return {n: np.concatenate([none[n], *(batch[n] for batch in batches)]) for n in none}


@dataclasses.dataclass(frozen=True)
class Fit:
    """What was found of normal images.

    Attributes:
      gaussians: of the places' vectors; without `usual`.
      features: float32 [N, F] by name.
      maps: float32 [N, h, w], of each image by Gaussians that were fitted without it; none where
        there are fewer than 4 images, or nobody asks.
    """

    gaussians: densities.MapGaussians
    features: dict[str, np.ndarray]
    maps: np.ndarray


def fit(
    embedder: MapEmbedder, images: pipeline.Images, locations: str, cross_validate: bool = True
) -> Fit:
    """Fits the Gaussians of normal images' maps, and scores them five-fold cross-validated.

    Args:
      embedder: the network.
      images: un-augmented normal images.
      locations: "shared" has one Gaussian for all places of a map; "separate" one for each; and
        "nearby" one for each of its own vectors and those around it.
      cross_validate: whether to score them at all.

    Returns:
      What was found.
    """
    size = images.count * int(np.prod(embedder.grid)) * embedder.dimensions * 4
    held = [] if cross_validate and size <= _HELD else None
    total, batches = _statistics(embedder, locations), []
    for batch in embedder(images):
        vectors = batch.pop("vectors")
        _add(total, vectors, locations)
        batches.append(batch)
        if held is not None:
            held.append(vectors)
    vectors = None if held is None else np.concatenate(held)

    def of(part):
        if vectors is not None:
            return [vectors[part]]
        return (batch["vectors"] for batch in embedder(images.subset(part)))

    parts = densities.held_out_parts(images.count) if cross_validate else []
    maps = np.zeros([images.count if parts else 0, *embedder.grid[1:]], np.float32)
    for part in parts:
        own = _statistics(embedder, locations, like=total)
        for some in of(part):
            _add(own, some, locations)
        others = _gaussians(total.without(own), embedder.grid, locations)
        maps[part] = np.concatenate([others.score(some) for some in of(part)])
    return Fit(_gaussians(total, embedder.grid, locations), embedder.joined(batches), maps)


def _statistics(embedder, locations, like=None):
    count = embedder.grid[0] if locations == "shared" else int(np.prod(embedder.grid))
    return densities.GaussianStatistics(count, embedder.dimensions, like)


def _add(statistics, vectors, locations):
    """Adds vectors, [N, K, h, w, D]."""
    if locations == "shared":
        vectors = np.moveaxis(vectors, 1, 3)
        statistics.update(vectors.reshape(-1, *vectors.shape[3:]))
    else:
        statistics.update(vectors.reshape(len(vectors), -1, vectors.shape[-1]))


def _gaussians(statistics, grid, locations):
    """What was added becomes Gaussians."""
    if locations == "nearby":
        maps, height, width = grid
        reach = min(REACH, (min(height, width) - 1) // 2)
        fitted = statistics.of_neighbourhoods(grid, reach).fit()
        # At the border a place has the nearest neighbourhood that lies in the map as a whole.
        rows, columns = (np.clip(np.arange(n) - reach, 0, n - 1 - 2 * reach) for n in grid[1:])
        of_map = rows[:, None] * (width - 2 * reach) + columns
        each = np.arange(maps)[:, None, None] * (height - 2 * reach) * (width - 2 * reach)
        fitted = fitted.take((each + of_map).ravel())
    else:
        fitted = statistics.fit()
    return densities.MapGaussians(fitted, grid, np.zeros([0, 2]))


def score(
    embedder: MapEmbedder, gaussians: densities.MapGaussians, images: pipeline.Images
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes features and anomaly maps in one pass.

    Args:
      embedder: the network.
      gaussians: what `fit` found.
      images: N images.

    Returns:
      Features, float32 [N, F], by name, and maps, float32 [N, h, w].
    """
    batches, maps = [], [np.zeros([0, *embedder.grid[1:]], np.float32)]
    for batch in embedder(images):
        maps.append(gaussians.score(batch.pop("vectors")))
        batches.append(batch)
    return embedder.joined(batches), np.concatenate(maps)
