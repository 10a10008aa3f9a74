"""Batch normalisation by one operation of TensorFlow; Keras 3 uses a dozen.

Keras computes moments and normalises in separate passes over the feature maps. TensorFlow's fused
operation is cuDNN's on a GPU and oneDNN's on a CPU, and keeps less for the backward pass. In
inference TensorFlow merges it, and the activation after it, into the convolution before it.
"""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("cutpaste_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation of maps: the same weights, and the same results but for rounding.

    With `synchronized`, Keras's own call does the work, over all devices.
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalises inputs, [B, H, W, C], over all but their channels."""
        if self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        if not (training and self.trainable):
            return self._fused(inputs, self.moving_mean, self.moving_variance, False)[0]
        outputs, mean, variance, *_ = self._fused(inputs, [], [], True)
        # The operation returns an unbiased estimate; Keras averages the batches' own variances.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        variance *= (count - 1.0) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return outputs

    def _fused(self, inputs, mean, variance, training):
        # Inputs and outputs may have half precision; everything between is float32.
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=training,
        )
