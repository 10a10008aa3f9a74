"""Scores images with a trained network: embed, fit the density, score, measure."""

import csv
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf import density as densities
from cutpaste_tf import metrics, train
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.split import Split, normal
from cutpaste_tf.ensemble import NORMAL_SCORES, SCORES
from cutpaste_tf.localize import gradcam, patch

EMBED_BATCH = 64
DENSITY = "density.npz"
RESULTS = "results.json"
_MAPS_BATCH = 16


class Embedder:
    """Computes a backbone's features of un-augmented images, in inference mode.

    Args:
      backbone: a model from images, float32 [B, H, W, 3] in [0, 1], to a dict of features, [B, D].
    """

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
        for batch in pipeline.evaluation_batches(images, EMBED_BATCH):
            for name, values in self._embed(batch).items():
                features[name].append(values.numpy())
        return {name: np.concatenate(values) for name, values in features.items()}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A fitted density and the scores of the test images.

    Attributes:
      density: fitted on the un-augmented normal training images alone.
      scores: float64 [N] anomaly scores of the test images; higher is more anomalous.
      maps: of the test images, where the run makes any.
      normal_features: float32 [N, D], what the density was fitted to; None of a patch model, whose
        embeddings are never held.
    """

    density: densities.Density
    scores: np.ndarray
    maps: "Maps | None" = None
    normal_features: np.ndarray | None = None


class Maps:
    """The anomaly maps of N images, kept small and brought to full size when they are read.

    Args:
      small: float32 [N, h, w].
      enlarge: a function from float32 [n, h, w] to [n, size, size].
    """

    def __init__(self, small: np.ndarray, enlarge: Callable[[tf.Tensor], tf.Tensor]):
        self.small, self._enlarge = small, enlarge

    def __len__(self) -> int:
        return len(self.small)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns float32 [n, size, size], the maps of some images; higher is more anomalous."""
        return self._enlarge(tf.constant(self.small[np.asarray(indices, np.int64)])).numpy()


class Evaluator:
    """Fits the density and scores images, as the settings have it.

    Args:
      config: the settings.
      backbone: the network; it is evaluated as it is at the time of each call.
    """

    def __init__(self, config: Config, backbone: keras.Model):
        self._config, self._backbone = config, backbone
        if config.patch_size:
            sizes = (config.image_size, config.dense_patch, config.dense_stride)
            self._embedder = patch.PatchEmbedder(backbone, *sizes, config.separate_locations)
            self._upsample = patch.upsampler(config.dense_patch, config.dense_stride)
        else:
            self._embedder = Embedder(backbone)

    def __call__(
        self, train_images: pipeline.Images, test_images: pipeline.Images, maps: bool = True
    ) -> dict[str, Evaluation]:
        """Fits a density of each feature on the training images and scores the test images.

        Args:
          train_images: normal images, un-augmented.
          test_images: images to score; there may be none.
          maps: whether to make the anomaly maps that --gradcam asks for; a patch model makes them
            in any case.

        Returns:
          Density, scores and maps, by the feature's name.
        """
        config = self._config
        if config.patch_size:
            density = patch.fit(self._embedder, train_images, config.separate_locations)
            return {config.features: self.score_patches(density, test_images)}
        normal_features, test_features = self._embedder(train_images), self._embedder(test_images)
        evaluations = {}
        for name, features in normal_features.items():
            density = densities.make(config.density).fit(features)
            scores = density.score(test_features[name]) if test_images.count else np.zeros([0])
            explained = config.gradcam and maps and name == config.features
            explained = self.explain(density, test_images) if explained else None
            evaluations[name] = Evaluation(density, scores, explained, features)
        return evaluations

    def score(self, density: densities.Density, images: pipeline.Images) -> Evaluation:
        """Scores images by a density that was fitted before; maps are made where asked for."""
        if self._config.patch_size:
            return self.score_patches(density, images)
        scores = density.score(self._embedder(images)[self._config.features])
        explained = self.explain(density, images) if self._config.gradcam else None
        return Evaluation(density, scores, explained)

    def score_patches(
        self, density: densities.LocationGaussians, images: pipeline.Images
    ) -> Evaluation:
        """Scores images by their patches; an image's score is its largest patch's (Figure 1)."""
        small = patch.score(self._embedder, density, images)
        level = float(np.mean(density.level))
        maps = Maps(small, lambda part: self._upsample(part, level))
        return Evaluation(density, patch.image_scores(small), maps)

    def explain(self, density: densities.GaussianDensity, images: pipeline.Images) -> Maps:
        """Makes maps of an image-level model by GradCAM."""
        small = gradcam.GradCam(self._backbone, self._config.features, density)(images)
        return Maps(small, lambda part: gradcam.upsample(part, self._config.image_size))


def pixel_metrics(maps: Maps | None, split: Split, size: int) -> dict[str, float | None]:
    """Compares anomaly maps with the defects' masks, pixel by pixel.

    Args:
      maps: of the split's images, or None.
      split: the test images; an anomalous one without a mask is left out.
      size: height and width of the maps.

    Returns:
      As `metrics.PixelScores.compute`; None for each where there are no maps or no masks.
    """
    pixels = metrics.PixelScores()
    known = [i for i in range(len(split)) if split.labels[i] == 0 or split.masks[i] is not None]
    for start in range(0, len(known) if maps is not None else 0, _MAPS_BATCH):
        chosen = known[start : start + _MAPS_BATCH]
        for i, one in zip(chosen, maps.read(chosen), strict=True):
            pixels.add(one, pipeline.read_mask(split.masks[i], size))
    return pixels.compute()


class Detector:
    """A finished run, ready to score images.

    Args:
      config: the run's settings.
      backbone: the trained network.
      density: the fitted density.
    """

    def __init__(self, config: Config, backbone: keras.Model, density: densities.Density):
        self.config, self.density = config, density
        self._evaluator = Evaluator(config, backbone)

    @classmethod
    def load(cls, run_dir: str | os.PathLike) -> "Detector":
        """Loads a run.

        Args:
          run_dir: WORKDIR/CATEGORY/seed_N of a finished run.

        Returns:
          The detector.

        Raises:
          UserError: if a file of the run is missing or damaged.
        """
        run_dir = pathlib.Path(run_dir)
        config = Config.load(run_dir)
        # Scoring takes one device.
        config = dataclasses.replace(config, distribution="none")
        backbone = train.build(config, initial_weights=False).backbone
        train.load_part(backbone, run_dir / "checkpoints" / train.BACKBONE_WEIGHTS)
        return cls(config, backbone, densities.load(run_dir / DENSITY))

    def score(self, images: Sequence[str] | Sequence[np.ndarray]) -> np.ndarray:
        """Scores images of any size.

        Args:
          images: paths of png, jpg or bmp files, or uint8 arrays [H, W] or [H, W, C].

        Returns:
          float64 [N] anomaly scores; higher is more anomalous.

        Raises:
          UserError: naming an image that cannot be decoded.
        """
        return self.evaluate(images).scores

    def evaluate(self, images: Sequence[str] | Sequence[np.ndarray]) -> Evaluation:
        """Scores images as `score` does; with their anomaly maps, where the run makes any."""
        images = [str(i) if isinstance(i, os.PathLike) else i for i in images]
        names = [i if isinstance(i, str) else f"image {n}" for n, i in enumerate(images)]
        prepared = pipeline.prepare(normal(names, images), self.config.image_size)
        if not images:
            return Evaluation(self.density, np.zeros([0]))
        return self._evaluator.score(self.density, prepared)


def results(
    config: Config,
    split: Split,
    num_train: int,
    trained: dict[str, Evaluation],
    untrained: dict[str, Evaluation],
    summary: train.Summary,
) -> dict:
    """Collects what results.json holds; metrics are fractions, None where they are not defined.

    Args:
      config: the run's settings.
      split: the test images.
      num_train: the number of training images.
      trained: of the test images, by the feature's name.
      untrained: by the same network before training, likewise.
      summary: what the training took.

    Returns:
      The results, ready for JSON. `image_auroc` and the metrics beside it are of the feature that
      --features names; `image_auroc_by_feature` has all, before and after the training (Table 3).
    """
    # Where nothing was trained there is no second stage.
    found = [untrained, trained] if config.steps else [untrained]
    stages = dict(zip(stage_names(config), found, strict=False))

    def auroc(evaluation):
        return metrics.image_auroc(split.labels, evaluation.scores)

    chosen, initial = trained[config.features], untrained[config.features]
    pixels, initial_pixels = (
        pixel_metrics(e.maps, split, config.image_size) for e in (chosen, initial)
    )
    return {
        "dataset": config.dataset,
        "category": config.category,
        "seed": config.seed,
        "task": config.task,
        "backbone": config.backbone,
        "features": config.features,
        "steps": config.steps,
        "num_train": num_train,
        "num_test": len(split),
        "image_auroc": auroc(chosen),
        "image_ap": metrics.image_ap(split.labels, chosen.scores),
        **pixels,
        "untrained_image_auroc": auroc(initial),
        **{f"untrained_{name}": value for name, value in initial_pixels.items()},
        "image_auroc_by_feature": {
            name: {stage: auroc(of_feature[name]) for stage, of_feature in stages.items()}
            for name in trained
        },
        "image_auroc_by_defect_type": metrics.auroc_by_defect_type(
            split.labels, chosen.scores, split.defect_types
        ),
        "train_seconds": round(summary.seconds, 1),
        "images_per_second": round(summary.images_per_second, 1),
        "device": device(),
        "versions": versions(),
    }


def stage_names(config: Config) -> tuple[str, str]:
    """Returns what the network is called before and after the training."""
    return ("untrained", "trained") if config.weights == "none" else ("pretrained", "finetuned")


def write_scores(run_dir: pathlib.Path, split: Split, scores: np.ndarray) -> None:
    """Writes scores.csv: path, label, defect_type, score, and the data set's further columns."""
    columns = (split.names, split.labels.tolist(), split.defect_types, _exact(scores))
    names = ["path", "label", "defect_type", "score", *split.extra]
    _write_csv(run_dir / SCORES, names, zip(*columns, *split.extra.values(), strict=True))


def write_normal_scores(run_dir: pathlib.Path, split: Split, kind: str, found: Evaluation) -> None:
    """Writes normal_scores.csv: path and cross-validated score of every training image.

    Args:
      run_dir: the run's folder. A patch model leaves no such file.
      split: the normal training images.
      kind: of the density.
      found: the evaluation of the trained network.
    """
    if found.normal_features is None:
        return
    scores = densities.cross_validated_scores(kind, found.normal_features)
    rows = zip(split.names[: len(scores)], _exact(scores), strict=True)
    _write_csv(run_dir / NORMAL_SCORES, ["path", "score"], rows)


def _exact(scores):
    return [repr(float(score)) for score in scores]


def _write_csv(path, names, rows):
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    os.replace(temporary, path)


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes JSON atomically: the file is whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def device() -> str:
    """Returns what the computation runs on, such as "CPU (2 cores)" or the GPUs' names."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        names = [
            tf.config.experimental.get_device_details(g).get("device_name", "GPU") for g in gpus
        ]
        return ", ".join(names)
    return (
        f"CPU ({len(os.sched_getaffinity(0))} cores)"
        if hasattr(os, "sched_getaffinity")
        else f"CPU ({os.cpu_count()} cores)"
    )


def versions() -> dict[str, str]:
    """Returns the versions of what the result depends on."""
    packages = ("cutpaste-tf", "tensorflow", "keras", "scikit-learn", "numpy")
    result = {"python": platform.python_version()}
    for name in packages:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
            result[name] = "unknown"
    return result
