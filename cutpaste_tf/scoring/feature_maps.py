"""Anomaly maps in one pass: Gaussians on the vectors of a network's own feature maps.

The paper scores patches by a network of their own (Section 2.4). The network that scores an image
has maps of it, too, whose places see a part of it each; a density of their vectors, one for all
places or one for each (the two choices of Appendix A.5), scores them as the paper's does patches.
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from cutpaste_tf.data import pipeline
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models.backbone import Places
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import upsample
from cutpaste_tf.scoring.gaussians import GaussianStatistics, MapGaussians

_BATCH = 32
_HELD = 2**30  # bytes of normal images' vectors that are held rather than computed again
REACH = 1  # of a neighbourhood: a place and the eight around it
POOL = 3  # places along a side whose vectors are averaged before all else
# Of the Gaussian that a map's pixels are smoothed by, as a share of the image's smaller side: 4
# pixels of 256, as is usual with such maps.
DEVIATION = 1 / 64


def build_model(network: keras.Model, levels: Sequence[str]) -> keras.Model:
    """Builds what takes, in one pass, an image's features and the vectors of its feature maps.

    The model is from images, float32 [B, H, W, 3] in [0, 1], to a dict of the network's features,
    float32 [B, F], by their names, and of `vectors`, float32 [B, K, h, w, D]: of each of K networks
    the vectors of the levels' maps (the finest first) side by side, each averaged with those around
    it, at the finest map's places. All of Keras's own layers and operations.
    """
    images = keras.Input(network.input_shape[1:], name="images")
    networks = backbones.feature_maps(network)
    all_maps = [one(images) for one in networks]
    finest_places, *coarser_places = (backbones.places(networks[0].output[x]) for x in levels)
    outputs = {}
    for name in network.output:
        pooled = [keras.layers.GlobalAveragePooling2D(dtype="float32")(m[name]) for m in all_maps]
        outputs[name] = ops.concatenate(pooled, axis=-1) if len(pooled) > 1 else pooled[0]
    vectors = []
    for maps in all_maps:
        finest, *coarser = (_averaged(maps[level]) for level in levels)
        joined = [finest]
        for coarse, its_places in zip(coarser, coarser_places, strict=True):
            matrices = [
                upsample.between(fine.first + fine.stride * np.arange(fine.count), its)
                for fine, its in zip(finest_places, its_places, strict=True)
            ]
            joined.append(_brought_to(coarse, *(m.astype(np.float32) for m in matrices)))
        vectors.append(ops.concatenate(joined, axis=-1) if coarser else finest)
    return keras.Model(images, {**outputs, "vectors": ops.stack(vectors, axis=1)})


def places(network: keras.Model, levels: Sequence[str]) -> tuple[Places, Places]:
    """Returns where the finest map's places lie, along an image's height and its width."""
    return backbones.places(backbones.feature_maps(network)[0].output[levels[0]])


def _averaged(maps):
    """Means over places and those around them; at the border over fewer."""
    return keras.layers.AveragePooling2D(POOL, strides=1, padding="same")(ops.cast(maps, "float32"))


def _brought_to(maps, rows, columns):
    """Maps, [B, h, w, C], at other places along both axes: rows is [H, h], columns [W, w]."""
    height, width, channels = maps.shape[1:]
    x = ops.matmul(rows, ops.reshape(maps, (-1, height, width * channels)))
    x = ops.matmul(columns, ops.reshape(x, (-1, width, channels)))
    return ops.reshape(x, (-1, len(rows), len(columns), channels))


class MapEmbedder:
    """Computes features and maps' vectors, of length D, of un-augmented images, in inference mode.

    `grid` is K, h and w, as in `build_model`; `places` are the maps' along both axes, and `cells`
    the pixels that each is the nearest to, as in `upsample.cells`.
    """

    def __init__(self, network: keras.Model, levels: Sequence[str]):
        model = build_model(network, levels)
        self.places = places(network, levels)
        self.cells = upsample.cells(network.input_shape[1:3], self.places)
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
    """What was found of N normal images' inputs, of which each has K tiles.

    The Gaussians of the places' vectors, without `usual`; features, float32 [N * K, F] by name; and
    maps, float32 [N * K, h, w], of each image by Gaussians that were fitted without it: none of
    fewer than 4 images, or where nobody asks.
    """

    gaussians: MapGaussians
    features: dict[str, np.ndarray]
    maps: np.ndarray


def fit(
    embedder: MapEmbedder, images: pipeline.Images, locations: str, cross_validate: bool = True
) -> Fit:
    """Fits the Gaussians of normal images' maps; scores them five-fold cross-validated, if wanted.

    "shared" has one Gaussian for all places of a map; "separate" one for each; and "nearby" one for
    each of its own vectors and those around it.
    """
    size = images.inputs * int(np.prod(embedder.grid)) * embedder.dimensions * 4
    held = [] if cross_validate and size <= _HELD else None
    total, batches = _Statistics(embedder, locations), []
    for batch, vectors, seen in _batches(embedder, images):
        total.add(vectors, seen)
        batches.append(batch)
        if held is not None:
            held.append(vectors)
    vectors = np.concatenate(held) if held else None
    places, tiles = images.places(embedder.cells), images.preparation.count

    def of(part, inputs):
        """Yields the vectors of some images, and which of their places are looked at."""
        if vectors is not None:
            yield vectors[inputs], None if places is None else places[inputs]
            return
        for _, some, seen in _batches(embedder, images.subset(part)):
            yield some, seen

    parts = densities.held_out_parts(images.count) if cross_validate else []
    maps = np.zeros([images.inputs if parts else 0, *embedder.grid[1:]], np.float32)
    for part in parts:
        inputs = (part[:, None] * tiles + np.arange(tiles)).ravel()
        own = _Statistics(embedder, locations, like=total)
        for some, seen in of(part, inputs):
            own.add(some, seen)
        gaussians = total.without(own).fit()
        scored = [_looked_at(gaussians.score(some), seen) for some, seen in of(part, inputs)]
        maps[inputs] = np.concatenate(scored)
    return Fit(total.fit(), embedder.joined(batches), maps)


def _batches(embedder, images):
    """Yields batches' features, vectors, and which of the places are looked at; None: all."""
    places, done = images.places(embedder.cells), 0
    for batch in embedder(images):
        vectors = batch.pop("vectors")
        yield batch, vectors, None if places is None else places[done : done + len(vectors)]
        done += len(vectors)


def _looked_at(maps, places):
    """Maps that are zero at places, bool of the same shape, that are not looked at."""
    return maps if places is None else np.where(places, maps, np.float32(0.0))


class _Statistics:
    """What is added of inputs' vectors, and the Gaussians that become of it."""

    def __init__(self, embedder, locations, like=None):
        self._grid, self.locations = embedder.grid, locations
        count = embedder.grid[0] if locations == "shared" else int(np.prod(embedder.grid))
        self._statistics = GaussianStatistics(
            count, embedder.dimensions, None if like is None else like._statistics
        )

    def add(self, vectors, places):
        """Adds vectors, [n, K, h, w, D], and which places are looked at, bool [n, h, w] or None."""
        if self.locations != "shared":
            self._statistics.update(vectors.reshape(len(vectors), -1, vectors.shape[-1]))
            return
        vectors = np.moveaxis(vectors, 1, 3)
        seen = np.ones(vectors.shape[:3], bool) if places is None else places
        self._statistics.update(vectors[seen])

    def without(self, part):
        """Returns what was added but for a part, which was made like this."""
        rest = copy.copy(self)
        rest._statistics = self._statistics.without(part._statistics)
        return rest

    def fit(self):
        """Returns the Gaussians."""
        return MapGaussians(self._gaussians(), self._grid, np.zeros([0, 2]))

    def _gaussians(self):
        if self.locations != "nearby":
            return self._statistics.fit()
        maps, height, width = self._grid
        reach = min(REACH, (min(height, width) - 1) // 2)
        fitted = self._statistics.of_neighbourhoods(self._grid, reach).fit()
        # At the border a place has the nearest neighbourhood that lies in the map as a whole.
        rows, columns = (
            np.clip(np.arange(n) - reach, 0, n - 1 - 2 * reach) for n in (height, width)
        )
        of_map = rows[:, None] * (width - 2 * reach) + columns
        each = np.arange(maps)[:, None, None] * (height - 2 * reach) * (width - 2 * reach)
        return fitted.take((each + of_map).ravel())


def score(
    embedder: MapEmbedder, gaussians: MapGaussians, images: pipeline.Images
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Computes features, float32 [N * K, F] by name, and anomaly maps, float32 [N * K, h, w].

    The maps of N images with K tiles each; they are zero at places that are not looked at.
    """
    batches, maps = [], [np.zeros([0, *embedder.grid[1:]], np.float32)]
    for batch in embedder(images):
        maps.append(gaussians.score(batch.pop("vectors")))
        batches.append(batch)
    return embedder.joined(batches), _looked_at(np.concatenate(maps), images.places(embedder.cells))
