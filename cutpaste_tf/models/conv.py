"""ResNet-18's convolutions, with kernel gradients that are quick on small feature maps."""

import keras
import tensorflow as tf

# The largest side of small maps. On two CPU cores oneDNN took 100 ms and more for the gradient of a
# 3x3 kernel from 512 to 512 channels on 96 maps of 2x2, and nine products of matrices 21 ms. From
# 16x16 on, products gain nothing.
SMALL = 8


@keras.saving.register_keras_serializable("cutpaste_tf")
class Convolution(keras.layers.Conv2D):
    """Keras's convolution, but on a CPU, products make a 3x3 kernel's gradient on small maps."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves inputs, [B, H, W, C], with a kernel, [h, w, C, D]."""
        small = all(side is not None and side <= SMALL for side in inputs.shape[1:3])
        plain = (self.kernel_size, self.strides) == ((3, 3), (1, 1))
        # cuDNN is quick on small maps, and the products would add half precision imprecisely.
        precise = inputs.dtype == tf.float32 and not tf.config.list_logical_devices("GPU")
        if small and plain and precise:
            return _convolve(inputs, tf.convert_to_tensor(kernel))
        return super().convolution_op(inputs, kernel)


@tf.custom_gradient
def _convolve(inputs, kernel):
    """Convolves with stride 1 and zeros around the maps."""

    def gradients(upstream):
        input_gradient = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), 1, "SAME")
        return input_gradient, _kernel_gradient(inputs, upstream, kernel.shape)

    return tf.nn.conv2d(inputs, kernel, 1, "SAME"), gradients


def _kernel_gradient(inputs, upstream, shape):
    """Multiplies the inputs under each position of the kernel by the outputs' gradients."""
    height, width = inputs.shape[1:3]
    products = []
    for row in range(shape[0]):
        for column in range(shape[1]):
            # The position's distance from the kernel's middle; beyond the border there are zeros.
            down, right = row - shape[0] // 2, column - shape[1] // 2
            top, left = max(0, -down), max(0, -right)
            bottom, end = min(height, height - down), min(width, width - right)
            if top >= bottom or left >= end:
                products.append(tf.zeros(shape[2:], inputs.dtype))
                continue
            covered = inputs[:, top + down : bottom + down, left + right : end + right]
            covered = tf.reshape(covered, [-1, shape[2]])
            gradients = tf.reshape(upstream[:, top:bottom, left:end], [-1, shape[3]])
            products.append(tf.matmul(covered, gradients, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)
