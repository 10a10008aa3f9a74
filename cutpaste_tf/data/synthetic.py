"""Test sets of synthetic anomalies, made from the normal test images (Section 5.3, Table 6).

There are seven kinds: a digit, a square, an ellipse or a heart of one random colour, and the last
three cut out of a photograph. Digits are MNIST's, the paper's [29], if TensorFlow Datasets has or
can get them, and otherwise scikit-learn's of 8x8 pixels; the results say which. The photographs are
the two that come with scikit-learn: the paper does not say which natural images it takes.
"""

import numpy as np
import tensorflow as tf
from PIL import Image

from cutpaste_tf.augment import random, shapes
from cutpaste_tf.choices import TEST_ANOMALIES
from cutpaste_tf.data import download, pipeline
from cutpaste_tf.files import UserError

MNIST, SMALL_DIGITS = "MNIST", "scikit-learn's digits, 8x8"
_MNIST_SERVER = "storage.googleapis.com"
_BATCH = 64
_NATURAL = "_natural"


def make(
    kind: str, images: pipeline.Images, seed: int, digits: tf.Tensor | None = None
) -> pipeline.Images:
    """Pastes anomalies, one of `TEST_ANOMALIES`, on normal images; "mnist" needs `digits`.

    The same seed and images give the same anomalies.
    """
    if not images.count:
        raise UserError(
            f"--test_anomalies={kind}: needs normal test images, and there are none; put some into "
            "test/good"
        )
    shape, natural = kind.removesuffix(_NATURAL), kind.endswith(_NATURAL)
    photographs = _photographs(images.size) if natural else None
    kind_seed = tf.constant([seed, TEST_ANOMALIES.index(kind)], tf.int32)
    pictures = tf.TensorSpec([None, *images.size, 3], tf.uint8)

    @tf.function(input_signature=[pictures, tf.TensorSpec([], tf.int32)], autograph=False)
    def paste(batch, start):
        batch = tf.cast(batch, tf.float32) / 255.0
        seed = tf.random.fold_in(kind_seed, start, alg="philox")
        mask_seed, filling_seed = random.split(seed, 2)
        name = "digit" if shape == "mnist" else shape
        mask = shapes.masks(name, batch, mask_seed, digits=digits)
        if natural:
            filling = shapes.photograph_crops(batch, photographs, filling_seed)
        else:
            filling = random.uniform([tf.shape(batch)[0], 1, 1, 3], filling_seed, 0.0, 1.0)
        pasted = tf.where(mask[..., None], filling, batch)
        return tf.cast(tf.round(pasted * 255.0), tf.uint8)

    stored = np.empty([images.count, *images.size, 3], np.uint8)
    # TensorFlow would warn of one function that is traced again and again, once for each kind.
    paste = paste.get_concrete_function()
    for start, batch in enumerate(pipeline.evaluation_batches(images, _BATCH)):
        here = slice(start * _BATCH, start * _BATCH + len(batch))
        stored[here] = paste(batch[:, 0], tf.constant(start)).numpy()
    return pipeline.Images(images.count, images.preparation, tf.constant(stored[:, None]))


def digits() -> tuple[tf.Tensor, str]:
    """Returns digits, float32 [M, h, w] in [0, 1], bright on dark, and their name."""
    splits = download.read("mnist", _MNIST_SERVER, "", "test")
    if splits is not None:
        images = splits[0]["image"]
        return tf.constant(images[..., 0].astype(np.float32) / 255.0), MNIST
    import sklearn.datasets

    small = sklearn.datasets.load_digits().images
    return tf.constant(small.astype(np.float32) / 16.0), SMALL_DIGITS


def _photographs(size):
    """scikit-learn's photographs, float32 [2, h, w, 3] in [0, 1], at least as large as `size`."""
    import sklearn.datasets

    photographs = []
    for photograph in sklearn.datasets.load_sample_images().images:
        image = Image.fromarray(photograph)
        scale = max(1.0, 1.5 * max(size) / min(image.size))
        image = image.resize([round(scale * x) for x in image.size], Image.Resampling.BICUBIC)
        photographs.append(np.asarray(image, np.float32) / 255.0)
    return tf.constant(np.stack(photographs))
