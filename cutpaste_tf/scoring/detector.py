"""A trained network with its density: it embeds images, scores them and makes anomaly maps."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf import run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode, pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models import plain, weights
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring import feature_maps, gradcam, patch, upsample
from cutpaste_tf.scoring.gaussians import LocationGaussians, MapGaussians
from cutpaste_tf.scoring.maps import Maps

_EMBED_BATCH = 64


class Embedder:
    """Computes a backbone's features, [B, D] by name, of un-augmented images, in inference mode."""

    def __init__(self, backbone: keras.Model):
        signature = [tf.TensorSpec([None, *backbone.input_shape[1:]], tf.uint8)]

        @tf.function(input_signature=signature)
        def embed(images):
            return backbone(tf.cast(images, tf.float32) / 255.0, training=False)

        self._embed = embed
        self.dimensions = {name: x.shape[-1] for name, x in backbone.output.items()}

    def __call__(self, images: pipeline.Images) -> dict[str, np.ndarray]:
        """Returns the features, each float32 [N, D], of N images, in their order."""
        features = {name: [np.zeros([0, d], np.float32)] for name, d in self.dimensions.items()}
        for batch in pipeline.evaluation_batches(images, _EMBED_BATCH):
            for name, values in self._embed(batch).items():
                features[name].append(values.numpy())
        return {name: np.concatenate(values) for name, values in features.items()}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A fitted density and the scores of the test images.

    Attributes:
      density: fitted on the un-augmented normal training images alone.
      scores: float64 [N] anomaly scores of the test images; higher is more anomalous. With
        --maps=features they are what --image_score names. An image of several tiles has its
        largest tile's.
      maps: of the test images, where the run makes any.
      normal_features: float32 [M * K, D], of the training images' K tiles; None of a patch model,
        whose embeddings are never held.
      features: float32 [N * K, D], of the test images' tiles; of a patch model the mean of each
        one's patches.
      map_density: with --maps=features, the Gaussians of the feature maps' places.
      by_kind: with --maps=features, float64 [N] of each kind of --image_score.
      normal_by_kind: likewise of the normal training images, cross-validated; none of too few.
      normal_maps: likewise, the maps of the normal training images.
    """

    density: densities.Density
    scores: np.ndarray
    maps: Maps | None = None
    normal_features: np.ndarray | None = None
    features: np.ndarray | None = None
    map_density: MapGaussians | None = None
    by_kind: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    normal_by_kind: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    normal_maps: Maps | None = None

    @property
    def normal_peaks(self) -> np.ndarray:
        """The largest pixel of each of the normal maps, float64 [M]; none where there are none."""
        return np.zeros([0]) if self.normal_maps is None else self.normal_maps.peaks


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keeps GPUs from TF32, whose products have 11 bits, while it is entered.

    On pretrained features it moved each embedding by 0.3%, where float32 on a GPU was within
    0.0002% of the CPU's; an inverse covariance makes more of such noise than of the signal.
    """
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)


def _precisely(method):
    """Has an evaluator's method compute in float32, by the network's present weights."""

    @functools.wraps(method)
    def precise(self, *arguments, **options):
        if self._backbone is not self._source:
            self._backbone.set_weights(self._source.get_weights())
        with full_precision():
            return method(self, *arguments, **options)

    return precise


class Evaluator:
    """Fits the density and scores images, as the settings have it.

    Args:
      config: the settings.
      backbone: the network; it is evaluated as it is at the time of each call, and in float32
        whatever it is trained in.
    """

    def __init__(self, config: Config, backbone: keras.Model):
        self._config, self._source, self._gradcam = config, backbone, None
        self._backbone = backbone = plain.in_float32(backbone)
        if config.patch_size:
            sizes = (config.size, config.dense_patch, config.dense_stride)
            self._embedder = patch.PatchEmbedder(backbone, *sizes, config.separate_locations)
            self._upsample = upsample.receptive_field_upsampler(*sizes[1:])
        else:
            self._embedder = Embedder(backbone)
        if config.maps == "features":
            self._map_embedder = feature_maps.MapEmbedder(backbone, config.levels)
            places = self._map_embedder.places
            self._enlarge = upsample.enlarger(config.size, places, feature_maps.DEVIATION)

    @_precisely
    def __call__(
        self, train_images: pipeline.Images, test_images: pipeline.Images, maps: bool = True
    ) -> dict[str, Evaluation]:
        """Fits a density of each feature on the training images and scores the test images.

        Args:
          train_images: normal images, un-augmented.
          test_images: images to score; there may be none.
          maps: whether to make the anomaly maps that --maps asks for; without those of features
            scores are of the pooled features. A patch model makes its own in any case.

        Returns:
          Density, scores and maps, by the feature's name.

        Raises:
          UserError: if the features are not finite, or those of all training images the same.
        """
        config = self._config
        if config.patch_size:
            density = patch.fit(self._embedder, train_images, config.separate_locations)
            return {config.features: self._score_patches(density, test_images)}
        gaussians = None
        if config.maps == "features" and maps:
            # Cross-validated where a threshold or a score is of it.
            validated = bool(config.false_positive_rate) or config.image_score == "both"
            fit = feature_maps.fit(
                self._map_embedder, train_images, config.map_locations, validated
            )
            normal_features, gaussians = fit.features, fit.gaussians
        else:
            normal_features = self._embedder(train_images)
        test_features, small = self._features(test_images, gaussians)
        evaluations = {}
        for name, features in normal_features.items():
            density = densities.make(config.main_density).fit(features[train_images.seen.ravel()])
            normal, of_maps, explain = {"normal_features": features}, None, False
            if name == config.features:
                of_maps, explain = gaussians, config.maps == "gradcam" and maps
            if of_maps is not None:
                normal["normal_by_kind"] = self._normal_by_kind(
                    features, patch.image_scores(fit.maps), train_images.seen, gaussians
                )
                normal["normal_maps"] = Maps(fit.maps, self._enlarge, train_images)
            found = self._evaluation(
                density, test_features[name], test_images, explain, of_maps, small
            )
            evaluations[name] = dataclasses.replace(found, **normal)
        return evaluations

    def _features(self, images, gaussians):
        """Features by name and, by the Gaussians of feature maps, the maps of images' tiles."""
        if gaussians is None:
            return self._embedder(images), None
        return feature_maps.score(self._map_embedder, gaussians, images)

    def _cross_validated(self, features, seen):
        """Scores normal images' tiles, [N * K, D], by densities that were fitted without the image.

        Those are fitted to tiles that hold anything to look at, seen [N, K].
        """
        features = features.reshape(*seen.shape, features.shape[-1])
        kind = self._config.main_density
        return densities.cross_validated_scores(kind, features, seen).ravel()

    def _normal_by_kind(self, features, largest, seen, gaussians):
        """Normal images' cross-validated scores by kind; the Gaussians learn what is usual.

        Of features, [N * K, D], the maps' largest, [N * K], and seen, [N, K].
        """
        if not len(largest):
            return {"pooled": largest, "map": largest}
        pooled = self._cross_validated(features, seen)
        parts = np.stack([pooled, largest])
        usual = parts[:, seen.ravel()]
        mean, deviation = usual.mean(axis=1), usual.std(axis=1) + 1e-12
        # Of scores that are all alike the rounding is no deviation.
        deviation = np.maximum(deviation, 1e-6 * np.abs(mean))
        gaussians.usual = np.stack([mean, deviation], axis=1)
        by_kind = {"pooled": pooled, "map": largest, "both": gaussians.combine(*parts)}
        return {kind: _largest(scores, seen) for kind, scores in by_kind.items()}

    def _evaluation(self, density, features, images, explain, gaussians, small):
        """Scores images by pooled features and, where there are Gaussians, by their maps too."""
        by_kind, seen = {"pooled": density.score(features)}, images.seen
        if gaussians is None:
            explained = self._explain(density, images) if explain else None
            scores = _largest(by_kind["pooled"], seen)
            return Evaluation(density, scores, explained, features=features)
        by_kind["map"] = patch.image_scores(small)
        if len(gaussians.usual):
            by_kind["both"] = gaussians.combine(by_kind["pooled"], by_kind["map"])
        by_kind = {kind: _largest(scores, seen) for kind, scores in by_kind.items()}
        return Evaluation(
            density,
            by_kind[self._config.image_score],
            Maps(small, self._enlarge, images),
            features=features,
            map_density=gaussians,
            by_kind=by_kind,
        )

    @_precisely
    def score(
        self,
        density: densities.Density,
        images: pipeline.Images,
        maps: bool | None = None,
        map_density: MapGaussians | None = None,
    ) -> Evaluation:
        """Scores images by a density that was fitted before.

        Args:
          density: the fitted density.
          images: the images.
          maps: whether to make maps, by GradCAM where the settings have none; as the settings have
            it by default.
          map_density: the Gaussians of the places, with --maps=features.

        Returns:
          The evaluation.
        """
        if self._config.patch_size:
            return self._score_patches(density, images)
        features, small = self._features(images, map_density)
        explain = self._config.maps == "gradcam" if maps is None else maps
        features = features[self._config.features]
        return self._evaluation(density, features, images, explain, map_density, small)

    @_precisely
    def embed(self, images: pipeline.Images) -> np.ndarray:
        """Embeds N images, float32 [N, D]: by the mean over each one's patches or tiles."""
        if self._config.patch_size:
            return patch.mean_embeddings(self._embedder, images)
        features = self._embedder(images)[self._config.features]
        tiles = images.preparation.count
        return features if tiles == 1 else features.reshape(images.count, tiles, -1).mean(axis=1)

    @_precisely
    def normal_scores(self, train_images: pipeline.Images, evaluation: Evaluation) -> np.ndarray:
        """Scores the training images by densities that were fitted without them.

        Args:
          train_images: as in the call that returned `evaluation`.
          evaluation: by the network as it is.

        Returns:
          float64 [N], five-fold cross-validated; empty where there are fewer than 4 images.
        """
        if self._config.patch_size:
            separate = self._config.separate_locations
            return patch.cross_validated_scores(self._embedder, train_images, separate)
        if evaluation.normal_by_kind:
            return evaluation.normal_by_kind.get(self._config.image_score, np.zeros([0]))
        seen = train_images.seen
        return _largest(self._cross_validated(evaluation.normal_features, seen), seen)

    def _score_patches(self, density: LocationGaussians, images: pipeline.Images) -> Evaluation:
        """Scores images by their patches; an image's score is its largest patch's (Figure 1)."""
        small, means = patch.score(self._embedder, density, images)
        level = float(np.mean(density.level))
        maps = Maps(small, lambda part, _: self._upsample(part, level), images)
        return Evaluation(density, patch.image_scores(small), maps, features=means)

    def _explain(self, density: densities.GaussianDensity, images: pipeline.Images) -> Maps:
        """Makes maps of an image-level model by GradCAM."""
        if self._gradcam is None or self._gradcam.density is not density:
            self._gradcam = gradcam.GradCam(self._backbone, self._config.features, density)
        return Maps(self._gradcam(images), self._gradcam.enlarge, images)


def _largest(scores, seen):
    """An image's score is its largest tile's, of those that hold anything to look at, [N, K]."""
    tiles = seen.shape[1]
    if tiles == 1 or not len(scores):
        return scores
    scores = scores.reshape(-1, tiles)
    return np.where(seen | ~seen.any(axis=1, keepdims=True), scores, -np.inf).max(axis=1)


class Detector:
    """A finished run, ready to score images.

    Args:
      config: the run's settings.
      backbone: the trained network, or, with --keep_pretrained, both side by side; it scores in
        float32 whatever it was trained in.
      density: the fitted density.
      map_density: with --maps=features, the fitted Gaussians of the feature maps' places.
      roi: with --roi, the region of interest, bool [h, w], in the frame of every image.
      bits: as in `decode.decode`: what the camera of the training images fills.

    Attributes:
      preparation: how images become the network's inputs.
      evaluator: makes further evaluations by the network, with densities of their own.
    """

    def __init__(
        self,
        config: Config,
        backbone: keras.Model,
        density: densities.Density,
        map_density: MapGaussians | None = None,
        roi: np.ndarray | None = None,
        bits: int = 16,
    ):
        self.config, self.density, self.map_density = config, density, map_density
        self.preparation = Preparation.of(config, roi, bits)
        self.backbone = plain.in_float32(backbone)
        self.evaluator = Evaluator(config, self.backbone)

    @classmethod
    def load(cls, run_dir: str | os.PathLike) -> "Detector":
        """Loads a run, and runs nothing that its files hold: they are numbers and settings.

        Args:
          run_dir: WORKDIR/CATEGORY/seed_N of a finished run.

        Returns:
          The detector.

        Raises:
          UserError: if a file of the run is missing, or is not the one that the run wrote.
        """
        run_dir = pathlib.Path(run_dir)
        config = run_folder.checked(run_dir)
        bits = run_folder.read_results(run_dir)["bit_depth"]
        # Scoring takes one device, and is done in float32.
        config = dataclasses.replace(config, distribution="none", mixed_precision=False)
        backbones.set_precision(config)
        backbone = backbones.build_backbone(config, initial_weights=False)
        weights.load(backbone, run_dir / run_folder.BACKBONE_WEIGHTS)
        if config.keep_pretrained:
            pretrained = backbones.copy_network(backbone)
            weights.load(pretrained, run_dir / run_folder.PRETRAINED_WEIGHTS)
            backbone = backbones.side_by_side(pretrained, backbone)
        map_density, roi = None, None
        by_place = LocationGaussians if config.patch_size else None
        density = densities.load(run_dir / run_folder.DENSITY, by_place)
        if config.maps == "features":
            map_density = densities.load(run_dir / run_folder.MAP_DENSITY, MapGaussians)
        if config.roi != "none":
            roi = decode.read_mask(run_dir / run_folder.ROI)
        return cls(config, backbone, density, map_density, roi, bits)

    @property
    def level(self) -> float | None:
        """The usual score of a normal patch or place; None where maps are GradCAM's."""
        if self.map_density is not None:
            return self.map_density.level
        return float(np.mean(self.density.level)) if self.config.patch_size else None

    @property
    def makes_maps(self) -> bool:
        """Whether `evaluate` can make anomaly maps: GradCAM's are of a Gaussian's distance."""
        own = self.config.maps in ("features", "patches")
        return own or isinstance(self.density, densities.GaussianDensity)

    def score(self, images: Sequence[str] | Sequence[np.ndarray]) -> np.ndarray:
        """Scores images of any size.

        Args:
          images: paths of png, jpg or bmp files, or uint8 arrays [H, W] or [H, W, C].

        Returns:
          float64 [N] anomaly scores; higher is more anomalous.

        Raises:
          UserError: naming an image that cannot be decoded.
        """
        return self.evaluate(images, maps=False).scores

    def evaluate(
        self,
        images: Sequence[str] | Sequence[np.ndarray] | pipeline.Images,
        maps: bool | None = None,
    ) -> Evaluation:
        """Scores images as `score` does; with their anomaly maps, where the run makes any.

        Args:
          images: as in `score`, or images that are prepared already.
          maps: whether to make maps; as the run does by default. A run that makes none has
            GradCAM's, for which its density must be a Gaussian; those of patches and feature maps
            come in any case.

        Returns:
          The density, scores and maps.

        Raises:
          UserError: as in `score`.
        """
        if not isinstance(images, pipeline.Images):
            images = [str(i) if isinstance(i, os.PathLike) else i for i in images]
            names = [i if isinstance(i, str) else f"image {n}" for n, i in enumerate(images)]
            if not images:
                return Evaluation(self.density, np.zeros([0]))
            images = pipeline.prepare(normal(names, images), self.preparation)
        return self.evaluator.score(self.density, images, maps, self.map_density)

    def embed(self, images: pipeline.Images) -> np.ndarray:
        """Embeds images; a patch model's embedding of an image is the mean over its patches.

        Args:
          images: N images.

        Returns:
          float32 [N, D].
        """
        return self.evaluator.embed(images)
