"""Patch models: embeddings of all patches of an image, their density and scores (Appendix A.5)."""

import itertools
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf.data import pipeline
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring.gaussians import GaussianStatistics, LocationGaussians

_BATCH = 8  # images a step
_GROUP = 64  # images whose patches of a band are scored at once
_MEMORY = 2**28  # bytes that the largest feature map of a step may take, about
_SCATTER_MEMORY = 2**31  # bytes that the scatters of a band's locations may take


def patches_along(size: int, patch: int, stride: int) -> int:
    """Returns how many patches there are along an axis of `size` pixels."""
    return (size - patch) // stride + 1


def embed_patches(backbone: keras.Model, images: tf.Tensor, patch: int, stride: int) -> tf.Tensor:
    """Embeds all patches of images, each as an image of its own (Appendix A.5); XLA can compile it.

    From float32 [B, H, W, 3] in [0, 1], H and W static and no smaller than a patch, to the `pool`
    features, float32 [B, (H - patch) // stride + 1, (W - patch) // stride + 1, D].
    """
    rows, columns = (patches_along(side, patch, stride) for side in images.shape[1:3])
    patches = tf.image.extract_patches(
        images, [1, patch, patch, 1], [1, stride, stride, 1], [1, 1, 1, 1], "VALID"
    )
    features = backbone(tf.reshape(patches, [-1, patch, patch, 3]), training=False)["pool"]
    return tf.reshape(features, [-1, rows, columns, features.shape[-1]])


class PatchEmbedder:
    """Embeds all patches of images, by bands of rows so that memory stays bounded.

    Lengths are in pixels. An image has `rows` x `columns` patches, P x Q; a band is its first and
    last row of them (exclusive). Where each location has a density of its own, `separate`, bands
    are no higher than the scatters of their locations allow.
    """

    def __init__(
        self,
        backbone: keras.Model,
        size: tuple[int, int],
        patch: int,
        stride: int,
        separate: bool = False,
    ):
        self.rows, self.columns = (patches_along(side, patch, stride) for side in size)
        self.dimensions = backbone.output["pool"].shape[-1]
        self._stride = stride
        # The first layer's map is the largest.
        stem = backbone.get_layer("stem_conv")
        row = self.columns * (patch / stem.strides[0]) ** 2 * stem.filters * 4
        height = min(self.rows, max(1, int(_MEMORY / row)))
        if separate:
            scatters = self.columns * self.dimensions**2 * 8
            height = min(height, max(1, _SCATTER_MEMORY // scatters))
        self.batch = min(_BATCH, max(1, int(_MEMORY / (row * height))))
        starts = list(range(0, self.rows, height))
        self.bands = [(first, min(first + height, self.rows)) for first in starts]
        self._height = height
        self._pixels = (height - 1) * stride + patch
        signature = [tf.TensorSpec([None, self._pixels, size[1], 3], tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)
        def embed(images):
            return embed_patches(backbone, tf.cast(images, tf.float32) / 255.0, patch, stride)

        self._embed = embed

    def __call__(self, images: tf.Tensor, band: tuple[int, int]) -> np.ndarray:
        """Embeds a band of images, uint8 [B, H, W, 3]: float32 [B, rows of the band, Q, D]."""
        first, last = band
        # The last band is as high as the others, for the sake of one graph; what it has twice goes.
        start = min(first, self.rows - self._height)
        top = start * self._stride
        embeddings = self._embed(images[:, top : top + self._pixels]).numpy()
        return embeddings[:, first - start : last - start]

    def embeddings(self, images: pipeline.Images, band: tuple[int, int]) -> Iterator[np.ndarray]:
        """Yields a band's embeddings of all images in order, float32 [B, rows, Q, D] at a time."""
        for batch in pipeline.evaluation_batches(images, self.batch):
            yield self(batch, band)


def fit(embedder: PatchEmbedder, images: pipeline.Images, separate: bool) -> LocationGaussians:
    """Fits densities of the patches of normal images, holding no more than a batch of embeddings.

    Each location has a Gaussian of its own, row by row, for aligned objects, or all share one, for
    textures and objects in any pose (Appendix A.5). Embeddings that are not finite, or all images'
    the same but for rounding, are a UserError.
    """
    if not separate:
        return gather(embedder, images, [np.ones([images.count], bool)])[0].fit()
    # Filled band by band, rather than joined: at the paper's settings there are 3.4 GB of them.
    total, dims = embedder.rows * embedder.columns, embedder.dimensions
    mean, level = np.zeros([total, dims]), np.zeros([total])
    whitener = np.zeros([total, dims, dims], np.float32)
    vary = False  # A band of background alone need not.
    for first, last in embedder.bands:
        part = slice(first * embedder.columns, last * embedder.columns)
        statistics = GaussianStatistics((last - first) * embedder.columns, dims)
        for embeddings in embedder.embeddings(images, (first, last)):
            statistics.update(embeddings.reshape(len(embeddings), -1, dims))
        fitted, vary = statistics.fit(), vary or statistics.vary
        mean[part], whitener[part], level[part] = fitted.mean, fitted.whitener, fitted.level
    densities.check_variation(vary)
    return LocationGaussians(mean, whitener, level)


def gather(
    embedder: PatchEmbedder,
    images: pipeline.Images,
    chosen: Sequence[np.ndarray],
) -> list[GaussianStatistics]:
    """Gathers in a single pass what one Gaussian for all locations needs to know.

    Returns the statistics of each choice, bool [N], of N normal images; a UserError as in `fit`.
    """
    statistics = [GaussianStatistics(1, embedder.dimensions) for _ in chosen]
    for band in embedder.bands:
        done = 0
        for embeddings in embedder.embeddings(images, band):
            for each, used in zip(statistics, chosen, strict=True):
                chosen_embeddings = embeddings[used[done : done + len(embeddings)]]
                each.update(chosen_embeddings.reshape(-1, 1, embedder.dimensions))
            done += len(embeddings)
    densities.check_variation(all(each.vary for each in statistics))
    return statistics


def cross_validated_scores(
    embedder: PatchEmbedder, images: pipeline.Images, separate: bool
) -> np.ndarray:
    """Scores normal images by densities that were fitted without them.

    Returns the images' largest patch scores, float64 [N]; none of fewer than 4 images.
    """
    parts = densities.held_out_parts(images.count)
    chosen = [~np.isin(np.arange(images.count), held_out) for held_out in parts]
    if separate:  # A part at a time: several at once would not fit into memory.
        fitted = (fit(embedder, images.subset(np.flatnonzero(others)), True) for others in chosen)
    else:
        fitted = [gathered.fit() for gathered in gather(embedder, images, chosen)]
    scores = np.zeros([images.count if parts else 0])
    for held_out, gaussians in zip(parts, fitted, strict=True):
        maps, _ = score(embedder, gaussians, images.subset(held_out))
        scores[held_out] = image_scores(maps)
    return scores


def score(
    embedder: PatchEmbedder, gaussians: LocationGaussians, images: pipeline.Images
) -> tuple[np.ndarray, np.ndarray]:
    """Returns patches' Mahalanobis distances, float32 [N, P, Q], and embeddings' means, [N, D]."""
    maps = np.zeros([images.count, embedder.rows, embedder.columns], np.float32)
    means = np.zeros([images.count, embedder.dimensions])
    done, batches = 0, iter(pipeline.evaluation_batches(images, embedder.batch))
    # Many images for each reading of the Gaussians: at the paper's settings these are 3.4 GB.
    while group := list(itertools.islice(batches, max(1, _GROUP // embedder.batch))):
        count = sum(map(len, group))
        for first, last in embedder.bands:
            embeddings = np.concatenate([embedder(batch, (first, last)) for batch in group])
            flat = embeddings.reshape(count, -1, embedder.dimensions)
            scores = gaussians.score(flat, first * embedder.columns)
            maps[done : done + count, first:last] = scores.reshape(embeddings.shape[:3])
            means[done : done + count] += embeddings.sum(axis=(1, 2), dtype=np.float64)
        done += count
    return maps, (means / (embedder.rows * embedder.columns)).astype(np.float32)


def mean_embeddings(embedder: PatchEmbedder, images: pipeline.Images) -> np.ndarray:
    """Returns float32 [N, D]: for each of N images the mean of its patches' embeddings."""
    totals = np.zeros([images.count, embedder.dimensions])
    for band in embedder.bands:
        done = 0
        for embeddings in embedder.embeddings(images, band):
            totals[done : done + len(embeddings)] += embeddings.sum(axis=(1, 2), dtype=np.float64)
            done += len(embeddings)
    return (totals / (embedder.rows * embedder.columns)).astype(np.float32)


def image_scores(maps: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: the largest score in each of N maps, [N, P, Q] (Figure 1)."""
    return maps.max(axis=(1, 2), initial=0.0).astype(np.float64)
