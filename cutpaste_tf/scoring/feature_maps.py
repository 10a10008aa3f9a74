"""Anomaly maps in one pass: Gaussians on the vectors of a network's own feature maps.

The paper scores patches by a network of their own (Section 2.4). Here the network that scores an
image also gives feature maps. Each place of these sees a part of the image, and Gaussians score its
vector as the paper's Gaussians score patches.
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

# A vector is the mean over a square of so many pixels a side: 3 places of block3, and one of
# coarser maps. With 3 places of every map, AUPRO is 4 to 7 points lower on bottle, pill and screw.
AVERAGED = 24
# This share of all places' mean variance is added to each place's variances. Without it, places
# that hardly vary, such as an empty background, would score small differences highly.
LEAST_VARIANCE = 0.03
# An image's score is the mean of this share of its map's places, the largest: a defect covers more
# than one place.
LARGEST = 0.02
# Places are compared with the nearest vectors of all places if the share of the vectors' variance
# that lies between places, times the number of places along a side (the border makes places
# differ), is below this. It is 0.8 to 2.6 on three textures at 128x128 to 256x256, and 4.1 to 30 on
# nine sets of parts.
PLACE_SHARE = 3.0
# The standard deviation of the Gaussian that smooths a map's pixels, as a share of the image's
# smaller side: 4 pixels of 256, as is usual with such maps.
DEVIATION = 1 / 64


class FeatureMapScorer(PlacesScorer):
    """Scores images by the places of feature maps, or by the density of pooled features.

    A vector joins the vectors of all levels at a place of the finest level's map; those of fine
    levels are means over the places around. Networks side by side have a map of vectors each. An
    image's score is the mean of its map's largest places.
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
        finest, *coarser = (
            backbones.places(self.config, networks[0].output[level]) for level in levels
        )
        outputs, vectors = {}, []
        pool = keras.layers.GlobalAveragePooling2D(dtype="float32")
        for name in network.output:
            outputs[name] = ops.concatenate([pool(m[name]) for m in all_maps], axis=-1)
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

    def _score_of_map(self, places):
        return layers.mean_of_largest(places, LARGEST)

    @functools.cached_property
    def _places(self):
        """Where the finest map's places lie along an image's height and width."""
        maps = backbones.feature_maps(self.network)[0].output[self.config.levels[0]]
        return backbones.places(self.config, maps)

    @functools.cached_property
    def cells(self) -> list[np.ndarray]:
        """See `Scorer`."""
        return upsample.cells(self.config.size, self._places)

    @functools.cached_property
    def _enlarge(self):
        return upsample.enlarger(self.config.size, self._places, DEVIATION)

    def share_between_places(self, images: pipeline.Images) -> float:
        """Returns the share of the vectors' variance that lies between places' means."""
        count, total, squares = 0, 0.0, 0.0
        with self._precisely():
            for batch in self.embedded(images):
                vectors = np.asarray(batch["vectors"], np.float64)
                # The zeros outside make places at the border differ.
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
    """Returns the settings' --location_density; if that is auto, chooses one by normal images.

    It is "nearest" if vectors hardly depend on their place, as in textures, and if parts lie
    anywhere.
    """
    # With a region or tiles, places differ in any case.
    if config.location_density != "auto" or config.masked or config.tiles != (1, 1):
        return config.map_locations
    few = images.subset(np.unique(np.linspace(0, images.count - 1, 100).astype(int)))
    scorer = FeatureMapScorer(dataclasses.replace(config, location_density="nearest"), network)
    _, height, width = scorer.grid
    alike = scorer.share_between_places(few) * math.sqrt(height * width) < PLACE_SHARE
    return "nearest" if alike else config.map_locations


def _averaged(maps, places):
    """Returns means over places and those around them; at the border over fewer."""
    side = AVERAGED // places[0].stride | 1  # odd, since an even number of places has no middle
    return keras.layers.AveragePooling2D(side, strides=1, padding="same")(ops.cast(maps, "float32"))


def _averaged_everywhere(maps, places):
    """Returns means over three by three places of any level, with zeros outside, as in PatchCore.

    A place at the border resembles few others; the zeros keep it from being far from all of them.
    """
    del places
    maps = keras.layers.ZeroPadding2D(1)(ops.cast(maps, "float32"))
    return keras.layers.AveragePooling2D(3, strides=1)(maps)


def _brought_to(maps, places, finest):
    """Interpolates maps, [B, h, w, C], with the given places, at the places of the finest map."""
    height, width, channels = maps.shape[1:]
    rows, columns = (
        upsample.between(fine.first + fine.stride * np.arange(fine.count), own).astype(np.float32)
        for fine, own in zip(finest, places, strict=True)
    )
    x = ops.matmul(rows, ops.reshape(maps, (-1, height, width * channels)))
    x = ops.matmul(columns, ops.reshape(x, (-1, width, channels)))
    return ops.reshape(x, (-1, len(rows), len(columns), channels))
