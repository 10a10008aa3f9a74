"""Anomaly maps in one pass: Gaussians on the vectors of a network's own feature maps.

The paper scores patches by a network of their own (Section 2.4). The network that scores an image
has maps of it, too, whose places see a part of it each; Gaussians of their vectors score them as
the paper's do patches.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.scoring import layers, upsample
from cutpaste_tf.scoring.places import PlacesScorer
from cutpaste_tf.scoring.scorer import Fit

# Pixels along a side that a place's vector is averaged over: 3 places of block3, one of those of
# coarser maps. Over 3 places of all, AUPRO is 4 to 7 points lower on bottle, pill and screw.
AVERAGED = 24
# Added to the variances of each place, as a share of all places' mean: it keeps places that hardly
# vary, such as an empty background, from making much of little.
LEAST_VARIANCE = 0.03
# Of a map's places, those whose mean is the image's score: a defect covers more than one.
LARGEST = 0.02
# Of the vectors' variance, the share that lies between places, below which places are compared with
# the nearest vectors: times the places along a side, as the border makes them differ. It is 0.8 to
# 2.6 on three textures at 128x128 to 256x256, and 4.1 to 30 on nine sets of parts.
PLACE_SHARE = 3.0
# Of the Gaussian that a map's pixels are smoothed by, as a share of the image's smaller side: 4
# pixels of 256, as is usual with such maps.
DEVIATION = 1 / 64


class FeatureMapScorer(PlacesScorer):
    """Scores images by the places of feature maps, or by the density of pooled features.

    The vectors are those of the levels' maps side by side, fine ones averaged with those around
    them, at the places of the finest map; there is a map for each of the networks that are side by
    side. A map's score is the mean of its largest places.
    """

    batch = 32
    least_variance = LEAST_VARIANCE

    def __init__(self, config: Config, network: keras.Model):
        super().__init__(config, network)
        self.locations = config.map_locations

    def embedding(self, network: keras.Model) -> keras.Model:
        """See `Scorer`."""
        images = keras.Input(network.input_shape[1:], name="images")
        networks = backbones.feature_maps(network)
        all_maps = [one(images) for one in networks]
        levels = self.config.levels
        finest, *coarser = (backbones.places(networks[0].output[level]) for level in levels)
        outputs, vectors = {}, []
        for name in network.output:
            pooled = [
                keras.layers.GlobalAveragePooling2D(dtype="float32")(m[name]) for m in all_maps
            ]
            outputs[name] = ops.concatenate(pooled, axis=-1) if len(pooled) > 1 else pooled[0]
        for maps in all_maps:
            average = _averaged_everywhere if self.locations == "nearest" else _averaged
            joined = [average(maps[levels[0]], finest)]
            for level, places in zip(levels[1:], coarser, strict=True):
                joined.append(_brought_to(average(maps[level], places), places, finest))
            vectors.append(ops.concatenate(joined, axis=-1) if coarser else joined[0])
        return keras.Model(images, {**outputs, "vectors": ops.stack(vectors, axis=1)})

    def head(self, fit: Fit, dtype: str = "float64") -> Callable:
        """See `Scorer`."""
        places, layer = super().head(fit, dtype), fit.density.layer(dtype)

        def head(embedded):
            pooled = layer(ops.cast(embedded[self.config.features], dtype))["score"]
            return {"pooled": pooled, **places(embedded)}

        return head

    def _of_map(self, places):
        return layers.mean_of_largest(places, LARGEST)

    @functools.cached_property
    def _places(self):
        """Where the finest map's places lie, along an image's height and its width."""
        return backbones.places(
            backbones.feature_maps(self.network)[0].output[self.config.levels[0]]
        )

    @functools.cached_property
    def cells(self) -> list[np.ndarray]:
        """See `Scorer`."""
        return upsample.cells(self.config.size, self._places)

    @functools.cached_property
    def _enlarge(self):
        return upsample.enlarger(self.config.size, self._places, DEVIATION)

    def share_between_places(self, images: pipeline.Images) -> float:
        """Returns the share of the vectors' variance that lies between the means of places."""
        count, total, squares = 0, 0.0, 0.0
        with self._precisely():
            for batch in self.embedded(images):
                vectors = np.asarray(batch["vectors"], np.float64)
                # At the border the zeros outside make places differ.
                rows, columns = (slice(n // 8, n - n // 8) for n in vectors.shape[2:4])
                vectors = vectors[:, :, rows, columns]
                count, total = count + len(vectors), total + vectors.sum(axis=0)
                squares = squares + np.square(vectors).sum(axis=0)
        axes = (1, 2)
        within = np.mean(squares - total**2 / count, axis=axes) / max(count - 1, 1)
        variance = np.mean(squares, axis=axes) / count - (np.mean(total, axis=axes) / count) ** 2
        return float(1.0 - within.sum() / max(variance.sum(), 1e-30))

    def _fit(self, images, validate):
        gaussians, features, maps = self._fit_places(images, validate)
        return self._fit_pooled(images, features, validate, gaussians, maps)


def chosen_locations(config: Config, network: keras.Model, images: pipeline.Images) -> str:
    """Chooses which normal vectors places are compared with, where the settings leave it open.

    Args:
      config: the settings.
      network: the network.
      images: normal images.

    Returns:
      A value of --location_density other than auto. It is "nearest" where it hardly matters to a
      vector at which place it is, as in textures and where parts lie anywhere.
    """
    # In a region, and within tiles, places differ in any case.
    if config.location_density != "auto" or config.masked or config.tiles != (1, 1):
        return config.map_locations
    few = images.subset(np.unique(np.linspace(0, images.count - 1, 100).astype(int)))
    scorer = FeatureMapScorer(dataclasses.replace(config, location_density="nearest"), network)
    _, height, width = scorer.grid
    alike = scorer.share_between_places(few) * math.sqrt(height * width) < PLACE_SHARE
    return "nearest" if alike else config.map_locations


def _averaged(maps, places):
    """Means over places and those around them; at the border over fewer."""
    side = AVERAGED // places[0].stride | 1  # An even number of places has no middle.
    return keras.layers.AveragePooling2D(side, strides=1, padding="same")(ops.cast(maps, "float32"))


def _averaged_everywhere(maps, places):
    """Means over three by three places of any level, zeros outside counted, as in PatchCore.

    A place at the border has few like it; the zeros keep it from being far from all of them.
    """
    del places
    maps = keras.layers.ZeroPadding2D(1)(ops.cast(maps, "float32"))
    return keras.layers.AveragePooling2D(3, strides=1)(maps)


def _brought_to(maps, places, finest):
    """Maps, [B, h, w, C], whose places lie as given, at the places of the finest maps."""
    height, width, channels = maps.shape[1:]
    rows, columns = (
        upsample.between(fine.first + fine.stride * np.arange(fine.count), own).astype(np.float32)
        for fine, own in zip(finest, places, strict=True)
    )
    x = ops.matmul(rows, ops.reshape(maps, (-1, height, width * channels)))
    x = ops.matmul(columns, ops.reshape(x, (-1, width, channels)))
    return ops.reshape(x, (-1, len(rows), len(columns), channels))
