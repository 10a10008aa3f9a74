"""Anomaly maps in one pass: Gaussians on the vectors of a network's own feature maps.

The paper scores patches by a network of their own (Section 2.4). The network that scores an image
has maps of it, too, whose places see a part of it each; Gaussians of their vectors score them as
the paper's do patches.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from cutpaste_tf.config import Config
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.scoring import layers, upsample
from cutpaste_tf.scoring.places import PlacesScorer
from cutpaste_tf.scoring.scorer import Fit

# Pixels along a side that a place's vector is averaged over: 3 places of block3, one of those of
# coarser maps. Averaging all levels over 3 places costs 5 to 13 points of AUPRO.
AVERAGED = 24
# Added to the variances of each place, as a share of all places' mean: it keeps places that hardly
# vary, such as an empty background, from making much of little.
LEAST_VARIANCE = 0.03
# Of a map's places, those whose mean is the image's score: a defect covers more than one.
LARGEST = 0.02
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
            joined = [_averaged(maps[levels[0]], finest)]
            for level, places in zip(levels[1:], coarser, strict=True):
                joined.append(_brought_to(_averaged(maps[level], places), places, finest))
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

    def _fit(self, images, validate):
        gaussians, features, maps = self._fit_places(images, validate)
        return self._fit_pooled(images, features, validate, gaussians, maps)


def _averaged(maps, places):
    """Means over places and those around them; at the border over fewer."""
    side = AVERAGED // places[0].stride | 1  # An even number of places has no middle.
    return keras.layers.AveragePooling2D(side, strides=1, padding="same")(ops.cast(maps, "float32"))


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
