"""GradCAM on an image-level detector (Section 4.2).

Selvaraju et al. (ICCV 2017) weight the last feature maps by the mean gradient of a class's logit.
Here the gradient is that of Equation 2's negative log density, half the squared Mahalanobis
distance of the image to the normal features. So the map shows what makes an image anomalous, not
what the proxy task's classifier takes for a pasted patch, and the more so the more anomalous it is:
the distance's own gradient is as long for a normal image as for a defective one.
"""

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf.data import pipeline
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import upsample

_BATCH = 16


class GradCam:
    """Makes anomaly maps of images, by the density of one of a backbone's features.

    Each feature is averaged over space by a layer of its own name. `enlarge` brings maps to the
    images' size, as `upsample.enlarger` does.
    """

    def __init__(self, backbone: keras.Model, feature: str, density: densities.GaussianDensity):
        self.density, size = density, backbone.input_shape[1:3]
        maps = keras.Model(backbone.input, backbone.get_layer(feature).input)
        self.enlarge = upsample.enlarger(size, backbones.places(backbone.get_layer(feature).input))
        mean, precision, unit_length = density.mean, density.precision, density.unit_length
        signature = [tf.TensorSpec([None, *size, 3], tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)
        def explain(images):
            features = maps(tf.cast(images, tf.float32) / 255.0, training=False)
            features = tf.cast(features, tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(features)
                # In float64, as the density is.
                pooled = tf.reduce_mean(tf.cast(features, tf.float64), axis=[1, 2])
                if unit_length:
                    pooled = tf.math.l2_normalize(pooled, axis=1)
                centred = pooled - mean
                negative_log = 0.5 * tf.reduce_sum((centred @ precision) * centred, axis=1)
            gradient = tape.gradient(negative_log, features)
            weights = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)
            return tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))

        self._explain = explain

    def __call__(self, images: pipeline.Images) -> np.ndarray:
        """Returns float32 [N, h, w], at the resolution of the feature maps, of N images."""
        batches = pipeline.evaluation_batches(images, _BATCH)
        maps = [self._explain(batch).numpy() for batch in batches]
        return np.concatenate(maps) if maps else np.zeros([0, 1, 1], np.float32)
