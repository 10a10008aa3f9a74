"""Scores whole images by the density of pooled features, with GradCAM's maps if asked for.

Selvaraju et al. (ICCV 2017) weight the last feature maps by the mean gradient of a class's logit.
Here (Section 4.2) the gradient is that of Equation 2's negative log density, half the squared
Mahalanobis distance of the image to the normal features. So the map shows what makes the image
anomalous, and its values grow with the distance. The gradient of the distance itself would be as
long for a normal image as for a defective one.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from cutpaste_tf.config import Config
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.scoring import upsample
from cutpaste_tf.scoring.scorer import Fit, Scorer, collect


class PooledScorer(Scorer):
    """Scores images by the density of their pooled features.

    `gradcam` says whether to make maps; None: as the settings say.
    """

    def __init__(self, config: Config, network: keras.Model, gradcam: bool | None = None):
        super().__init__(config, network)
        self.kind = "pooled"
        self._gradcam = config.maps == "gradcam" if gradcam is None else gradcam

    def embedding(self, network: keras.Model) -> keras.Model:
        """See `Scorer`."""
        if not self._gradcam:
            return network
        maps = network.get_layer(self.config.features).input
        return keras.Model(network.input, {**network.output, "maps": maps})

    def head(self, fit: Fit, dtype: str = "float64") -> Callable:
        """See `Scorer`."""
        layer, feature = fit.density.layer(dtype), self.config.features

        def head(embedded):
            scored = layer(ops.cast(embedded[feature], dtype))
            if not self._gradcam:
                return {"pooled": scored["score"]}
            maps = ops.cast(embedded["maps"], "float32")
            height, width, channels = maps.shape[1:]
            # The feature is the mean over the places.
            weights = ops.cast(scored["slope"], "float32") / (height * width)
            weighted = maps * ops.reshape(weights, (-1, 1, 1, channels))
            return {"pooled": scored["score"], "places": ops.relu(ops.sum(weighted, axis=-1))}

        return head

    @functools.cached_property
    def _places(self):
        return backbones.places(self.config, self.network.get_layer(self.config.features).input)

    @functools.cached_property
    def cells(self) -> list[np.ndarray] | None:
        """See `Scorer`."""
        return upsample.cells(self.config.size, self._places) if self._gradcam else None

    @functools.cached_property
    def _enlarge(self):
        return upsample.enlarger(self.config.size, self._places)

    def _fit(self, images, validate):
        features = collect(self._features(batch) for batch in self.embedded(images))
        features = {name: images.split_tiles(values) for name, values in features.items()}
        return self._fit_pooled(images, features, validate)
