"""What the three scorers share: they embed images, and turn tiles' scores into images' scores.

Each `Scorer` has an embedding, a Keras model from the network's inputs to vectors, and a head of
Keras's layers from vectors to scores and small maps, by what was fitted. Both together score images
in a run, in predictions and in an exported model.
"""

import abc
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.files import read_npz, write_npz
from cutpaste_tf.models import plain
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import layers
from cutpaste_tf.scoring.density import Density
from cutpaste_tf.scoring.gaussians import Gaussians
from cutpaste_tf.scoring.maps import Maps


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The anomaly scores of N images with K tiles each.

    Attributes:
      scores: float64 [N]; higher is more anomalous. An image has the largest score of its tiles;
        NaN if the network's features are not finite.
      by_kind: float64 [N] for each kind of --image_score that the run has.
      maps: the anomaly maps, if the run makes any.
      features: float32 [N, K, D] by name; in a patch model the means over each image's patches.
    """

    scores: np.ndarray
    by_kind: Mapping[str, np.ndarray]
    maps: Maps | None = None
    features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """What is fitted to un-augmented normal training images.

    Attributes:
      density: of the pooled features; None for a patch model.
      places: the Gaussians of patches or of feature maps' places, if the run has them.
      features: the normal images' features, as in `Scores`; empty for a loaded run.
      normal: the normal images' scores, cross-validated, if `fit` was asked for them.
    """

    density: Density | None
    places: Gaussians | None = None
    features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    normal: Scores | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays that scores depend on, by name."""
        pooled = self.density.arrays if self.density else {}
        places = vars(self.places) if self.places else {}
        return {
            **{f"pooled_{name}": array for name, array in pooled.items()},
            **{f"places_{name}": x for name, x in places.items() if x is not None},
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the arrays as .npz, whole or not at all."""
        write_npz(path, self.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike, config: Config) -> "Fit":
        """Reads what `save` wrote; a UserError if the file is damaged."""
        arrays = read_npz(path)
        pooled, places = (
            {name.removeprefix(p): a for name, a in arrays.items() if name.startswith(p)}
            for p in ("pooled_", "places_")
        )
        return cls(
            Density(config.main_density, pooled) if pooled else None,
            Gaussians(**places) if places else None,
        )


class Scorer(abc.ABC):
    """Fits densities to normal images and scores images by them.

    Args:
      config: the settings.
      network: each call uses its weights at that time, in float32, whatever it is trained in.

    Attributes:
      network: the network in float32.
      kind: the entry of `Scores.by_kind` that makes an image's score.
    """

    batch = 64  # inputs that are embedded at once

    def __init__(self, config: Config, network: keras.Model):
        self.config, self.network_in_training = config, network
        self.network, self.kind = plain.in_float32(network), config.image_score
        self._latest = None

    # What each scorer has of its own.

    @abc.abstractmethod
    def embedding(self, network: keras.Model) -> keras.Model:
        """Builds a model from images, float32 [B, h, w, 3] in [0, 1], to a dict of vectors.

        The dict has the network's features, [B, D], if the model computes them, and what the head
        takes.
        """

    @abc.abstractmethod
    def head(self, fit: Fit, dtype: str = "float64") -> Callable:
        """Returns a function from the embedding's dict, of arrays or tensors, to a dict of scores.

        The scores are `pooled`, [B], and `places`, the small maps, float32 [B, h', w'], or one of
        the two.
        """

    def enlarge(self, fit: Fit) -> Callable:
        """Returns a function that brings small maps to the inputs' size; see `Maps`."""
        del fit
        return self._enlarge

    cells = None  # of small maps' places, as `upsample.cells` returns them; None: no maps
    _score_of_map = (
        None  # tiles' scores, [N, K], by small maps, [N, K, h', w']; None: no such score
    )

    @abc.abstractmethod
    def _fit(self, images: pipeline.Images, validate: bool) -> Fit:
        """Does what `fit` says."""

    # What all scorers share.

    def fit(self, images: pipeline.Images, validate: bool = False) -> Fit:
        """Fits to normal images.

        Args:
          images: normal images, un-augmented, in order and without copies.
          validate: whether to score them too, each by a fit without it; this needs
            `density.LEAST_IMAGES` images.

        Raises:
          UserError: if the features are not finite, or the same for all images.
        """
        with self._precisely():
            return self._fit(images, validate and images.count >= densities.LEAST_IMAGES)

    def score(self, fit: Fit, images: pipeline.Images) -> Scores:
        """Scores images by what `fit` returned."""
        with self._precisely():
            head = self._head_of(fit)
            outputs = collect(
                {**self._features(batch), **head(batch)} for batch in self.embedded(images)
            )
            outputs = {name: images.split_tiles(values) for name, values in outputs.items()}
            return self._scores(fit, outputs, images)

    def embed(self, images: pipeline.Images) -> np.ndarray:
        """Embeds N images, float32 [N, D], by the mean over each image's tiles or patches."""
        with self._precisely():
            features = collect(self._features(batch) for batch in self.embedded(images))
        return images.split_tiles(features[self.config.features]).mean(axis=1)

    def embedded(
        self, images: pipeline.Images, rows: tuple[int, int] | None = None
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields the embedding's dict of one batch of inputs after the other.

        `rows` are the first and the last row of places, exclusive, if places are embedded in bands;
        None: all.
        """
        del rows
        for inputs, count in self._inputs(images):
            yield {name: values[:count] for name, values in self._embed(inputs).items()}

    def _inputs(self, images):
        """Yields batches of inputs, uint8 [B, h, w, 3], and how many of them belong to images.

        Without images, it yields one blank input, so that outputs have shapes: oneDNN's
        convolutions refuse empty batches.
        """
        tiles = images.preparation.count
        for batch in pipeline.evaluation_batches(images, max(1, self.batch // tiles)):
            inputs = tf.reshape(batch, [-1, *images.size, 3])
            count = len(inputs)
            yield inputs if count else tf.zeros([1, *images.size, 3], tf.uint8), count

    @functools.cached_property
    def _embed(self):
        signature = [tf.TensorSpec([None, *self.config.size, 3], tf.uint8)]
        embedding = self.embedding(self.network)

        @tf.function(input_signature=signature, autograph=False)
        def embed(images):
            return embedding(tf.cast(images, tf.float32) / 255.0, training=False)

        # TensorFlow would warn of one function that is traced again and again, for each scorer.
        return embed.get_concrete_function()

    def _features(self, batch):
        """The pooled features of an embedded batch."""
        return {name: batch[name] for name in self.network.output}

    def inside(self, images: pipeline.Images) -> np.ndarray | None:
        """Returns which places of small maps are in the region, bool [N, K, h', w']; None: all."""
        return None if self.cells is None else images.places(self.cells)

    def _fit_pooled(self, images, features, validate, gaussians=None, maps=None):
        """Fits to pooled features, [N, K, D] by name.

        `maps` are the images' small maps, each by Gaussians that were fitted without the image.
        """
        scored, kind = features[self.config.features], self.config.main_density
        fit = Fit(densities.fit(kind, scored[images.in_region]), gaussians, features)
        if not validate:
            return fit
        pooled = densities.cross_validated_scores(kind, scored, images.in_region)
        normal = self._scores(fit, {"pooled": pooled, "places": maps}, images)
        return dataclasses.replace(fit, normal=normal)

    def _head_of(self, fit):
        """Returns the head, which is made once for images that come one by one."""
        if self._latest is None or self._latest[0] is not fit:
            self._latest = fit, self.head(fit)
        return self._latest[1]

    def _scores(self, fit, outputs, images):
        """Makes `Scores` of the outputs of head and embedding, [N, K, ...]."""
        inside = self.inside(images)
        by_kind, places = self.by_image(outputs, inside, images.in_region)
        by_kind = {kind: np.asarray(values, np.float64) for kind, values in by_kind.items()}
        maps = None
        if places is not None:
            maps = Maps(np.asarray(places), inside, self.enlarge(fit), images)
        features = {n: outputs[n] for n in self.network.output if n in outputs}
        return Scores(by_kind[self.kind], by_kind, maps, features)

    def by_image(self, outputs: Mapping, inside: Any, in_region: Any) -> tuple[dict, Any]:
        """Returns images' scores by kind, [N], and the small maps, zero outside the region.

        Args:
          outputs: what the head returns, [N, K, ...].
          inside: as `Maps` takes it.
          in_region: which tiles show a part of the region, bool [N, K]; None: all.
        """
        by_tile = {name: outputs[name] for name in ("pooled",) if name in outputs}
        places = outputs.get("places")
        if places is not None and inside is not None:
            places = places * ops.cast(inside, "float32")
        if places is not None and self._score_of_map:
            by_tile["map"] = self._score_of_map(places)
        if in_region is not None:  # If no tile shows a part of it, all count.
            used = ops.logical_or(
                in_region, ops.logical_not(ops.any(in_region, axis=1, keepdims=True))
            )
            by_tile = {kind: ops.where(used, x, -1e30) for kind, x in by_tile.items()}
        return {kind: layers.largest(x, axis=1) for kind, x in by_tile.items()}, places

    @contextlib.contextmanager
    def _precisely(self):
        """Takes over the network's current weights, and keeps GPUs from using TF32.

        TF32's products have 11 bits. It changed pretrained embeddings by 0.3%, while float32 on a
        GPU was within 0.0002% of the CPU's. An inverse covariance amplifies such noise.
        """
        if self.network is not self.network_in_training:
            self.network.set_weights(self.network_in_training.get_weights())
        allowed = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(allowed)


def collect(batches: Iterator[Mapping]) -> dict[str, np.ndarray]:
    """Concatenates batches' arrays, by name."""
    batches = list(batches)
    return {n: np.concatenate([np.asarray(b[n]) for b in batches]) for n in batches[0]}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A network's results on a run's images.

    Attributes:
      fit: what was fitted to the training images.
      test: the test images' scores.
      pooled: float64 [N], the test images' scores by each of the network's features (Table 3).
    """

    fit: Fit
    test: Scores
    pooled: Mapping[str, np.ndarray]


def evaluate(
    scorer: Scorer,
    train_images: pipeline.Images,
    test_images: pipeline.Images,
    validate: bool = False,
) -> Evaluation:
    """Fits to the training images and scores the test images.

    Args:
      scorer: the network's scorer.
      train_images: as in `Scorer.fit`.
      test_images: images to score; there may be none.
      validate: as in `Scorer.fit`.

    Raises:
      UserError: if features are not finite, or the same for all training images.
    """
    fit = scorer.fit(train_images, validate)
    test = scorer.score(fit, test_images)
    densities.check_finite(test.scores)
    pooled = {scorer.config.features: test.by_kind.get("pooled", test.scores)}
    for name, features in fit.features.items():
        if name not in pooled:
            density = densities.fit(fit.density.kind, features[train_images.in_region])
            outputs = {"pooled": density.score(test.features[name])}
            by_kind, _ = scorer.by_image(outputs, None, test_images.in_region)
            pooled[name] = np.asarray(by_kind["pooled"])
    return Evaluation(fit, test, {name: pooled[name] for name in fit.features})
