"""A finished run, ready to score images, and the scorers by --maps."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from cutpaste_tf import run_folder
from cutpaste_tf.choices import GAUSSIANS
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode, pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.data.split import normal_split
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.models import plain, weights
from cutpaste_tf.scoring import canvas, feature_maps, layers
from cutpaste_tf.scoring.patches import PatchScorer
from cutpaste_tf.scoring.pooled import PooledScorer
from cutpaste_tf.scoring.scorer import Fit, Scorer, Scores

SCORERS = {
    "none": PooledScorer,
    "gradcam": PooledScorer,
    "features": feature_maps.FeatureMapScorer,
    "patches": PatchScorer,
}


def make_scorer(
    config: Config, network: keras.Model, images: pipeline.Images | None = None
) -> Scorer:
    """Returns the scorer that the settings ask for.

    With feature maps, normal `images` decide what --location_density=auto is.
    """
    if config.maps == "features" and images is not None:
        locations = feature_maps.chosen_locations(config, network, images)
        config = dataclasses.replace(config, location_density=locations)
    return SCORERS[config.maps](config, network)


class Detector:
    """A finished run, ready to score images.

    Args:
      config: the run's settings.
      network: the trained network, or, with --keep_pretrained, both side by side; it scores in
        float32, whatever it was trained in.
      fit: what was fitted to the run's normal images.
      roi: with --roi, the region of interest, bool [h, w], stretched over every image.
      bits: how many of 16 bits the training images' camera fills, as in `decode.decode`.

    Attributes:
      preparation: how images become the network's inputs.
      scorer: scores by the network.
    """

    def __init__(
        self,
        config: Config,
        network: keras.Model,
        fit: Fit,
        roi: np.ndarray | None = None,
        bits: int = 16,
    ):
        self.config, self.fit, self.network = config, fit, plain.in_float32(network)
        self.preparation = Preparation.of(config, roi, bits)
        if fit.places and fit.places.nearest is not None:
            config = dataclasses.replace(config, location_density="nearest")
        self.scorer = make_scorer(config, self.network)

    @classmethod
    def load(cls, run_dir: str | os.PathLike) -> "Detector":
        """Loads a run. Its files hold only numbers and settings, and none is executed.

        Args:
          run_dir: WORKDIR/CATEGORY/seed_N of a finished run.

        Raises:
          UserError: if a file of the run is missing, or is not the one that the run wrote.
        """
        run_dir = pathlib.Path(run_dir)
        config = run_folder.checked(run_dir)
        bits = run_folder.read_results(run_dir)["bit_depth"]
        # Scoring uses one device, and float32.
        config = dataclasses.replace(config, distribution="none", mixed_precision=False)
        keras.config.set_dtype_policy("float32")
        network = backbones.build_backbone(config, initial_weights=False)
        weights.load(network, run_dir / run_folder.BACKBONE_WEIGHTS)
        if config.keep_pretrained:
            pretrained = backbones.copy_network(network)
            weights.load(pretrained, run_dir / run_folder.PRETRAINED_WEIGHTS)
            network = backbones.side_by_side(pretrained, network)
        fit = Fit.load(run_dir / run_folder.DENSITY, config)
        roi = None if config.roi == "none" else decode.read_mask(run_dir / run_folder.ROI)
        return cls(config, network, fit, roi, bits)

    @property
    def level(self) -> float | None:
        """The usual score of a normal patch or place; None for GradCAM's maps."""
        return self.scorer.level(self.fit) if self.fit.places else None

    @property
    def makes_maps(self) -> bool:
        """Whether `evaluate` can make anomaly maps: GradCAM needs a Gaussian's distance."""
        return self.fit.places is not None or self.config.main_density in GAUSSIANS

    def score(self, images: Sequence[str] | Sequence[np.ndarray]) -> np.ndarray:
        """Scores images of any size.

        Args:
          images: paths of image files, or uint8 arrays [H, W] or [H, W, C].

        Returns:
          float64 [N] anomaly scores; higher is more anomalous; NaN if the network's features of an
          image are not finite.

        Raises:
          UserError: naming an image that cannot be decoded.
        """
        return self.evaluate(images, maps=False).scores

    def evaluate(
        self,
        images: Sequence[str] | Sequence[np.ndarray] | pipeline.Images,
        maps: bool | None = None,
    ) -> Scores:
        """Scores images as `score` does, and makes their anomaly maps.

        Args:
          images: as in `score`, or prepared images.
          maps: whether to make GradCAM's maps; None: if the run does. Maps of patches and of
            feature maps are always made.

        Raises:
          UserError: naming an image that cannot be decoded.
        """
        if not isinstance(images, pipeline.Images):
            images = [str(i) if isinstance(i, os.PathLike) else i for i in images]
            names = [i if isinstance(i, str) else f"image {n}" for n, i in enumerate(images)]
            images = pipeline.prepare(normal_split(names, images), self.preparation)
        if maps is None or self.fit.places or maps == (self.config.maps == "gradcam"):
            return self.scorer.score(self.fit, images)
        return self._other_scorer.score(self.fit, images)

    @functools.cached_property
    def _other_scorer(self):
        """A scorer with GradCAM if the run has none, or without it if the run has it."""
        return PooledScorer(self.config, self.network, gradcam=self.config.maps != "gradcam")

    def model(self, *, portable: bool = False, precise: bool = True) -> keras.Model:
        """Builds one Keras model, of Keras's own layers alone, that does all of the scoring.

        Args:
          portable: whether to use only operations that formats other than TensorFlow's have too.
          precise: whether the density is computed in float64, as in the run; else in float32.

        Returns:
          A model from images, uint8 [B, H, W, 3], to a dict of `score`, float32 [B], and, if the
          run makes maps, `map`, float32 [B, H', W'], of the canvas's size.
        """
        preparation, scorer, tiles = self.preparation, self.scorer, self.preparation.count
        images = keras.Input([None, None, 3], dtype="uint8", name="images")
        pixels, region = canvas.on_canvas(images, preparation, portable)
        inputs = ops.reshape(preparation.cut(pixels, ops.stack), (-1, *preparation.size, 3))
        # A program that loads the exported file does not have this package's layers.
        embedded = scorer.embedding(plain.as_keras(self.network))(inputs)
        outputs = scorer.head(self.fit, "float64" if precise else "float32")(embedded)
        outputs = {n: ops.reshape(x, (-1, tiles, *x.shape[1:])) for n, x in outputs.items()}
        inside = in_region = None
        if region is not None:
            regions = ops.cast(preparation.cut(region, ops.stack), "float32")
            if scorer.cells is not None:
                inside = layers.from_both_sides(*scorer.cells)(regions) > 0.5
            in_region = ops.max(regions, axis=(2, 3)) > 0.5 if tiles > 1 else None
        by_kind, places = scorer.by_image(outputs, inside, in_region)
        results = {"score": ops.cast(by_kind[scorer.kind], "float32")}
        if places is not None:
            joined = preparation.join(scorer.enlarge(self.fit)(places, inside), ops.pad)
            results["map"] = joined if region is None else joined * ops.cast(region, "float32")
        return keras.Model(images, results, name="detector")
