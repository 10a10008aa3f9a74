"""Scores images with a trained network: embed, fit the density, score, measure."""

import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from cutpaste_tf import density as densities
from cutpaste_tf import metrics, threshold, train
from cutpaste_tf.config import GAUSSIANS, Config
from cutpaste_tf.data import pipeline, synthetic
from cutpaste_tf.data.split import Split, normal
from cutpaste_tf.ensemble import NORMAL_SCORES, SCORES
from cutpaste_tf.errors import UserError
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
      features: float32 [M, D], of the test images; of a patch model the mean of each one's patches.
    """

    density: densities.Density
    scores: np.ndarray
    maps: "Maps | None" = None
    normal_features: np.ndarray | None = None
    features: np.ndarray | None = None


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

    def of(self, small: np.ndarray) -> "Maps":
        """Returns maps that are brought to full size as these are, of other small ones."""
        return Maps(small, self._enlarge)

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
        self._config, self._backbone, self._gradcam = config, backbone, None
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
            density = densities.make(config.main_density).fit(features)
            scores = density.score(test_features[name]) if test_images.count else np.zeros([0])
            explained = config.gradcam and maps and name == config.features
            explained = self.explain(density, test_images) if explained else None
            evaluations[name] = Evaluation(
                density, scores, explained, features, test_features[name]
            )
        return evaluations

    def score(
        self, density: densities.Density, images: pipeline.Images, maps: bool | None = None
    ) -> Evaluation:
        """Scores images by a density that was fitted before.

        Args:
          density: the fitted density.
          images: the images.
          maps: whether to make maps by GradCAM; as the settings have it by default.

        Returns:
          The evaluation.
        """
        if self._config.patch_size:
            return self.score_patches(density, images)
        features = self._embedder(images)[self._config.features]
        scores = density.score(features)
        maps = self._config.gradcam if maps is None else maps
        maps = self.explain(density, images) if maps else None
        return Evaluation(density, scores, maps, features=features)

    def embed(self, images: pipeline.Images) -> np.ndarray:
        """Embeds N images, float32 [N, D]; a patch model by the mean over the patches of each."""
        if self._config.patch_size:
            return patch.mean_embeddings(self._embedder, images)
        return self._embedder(images)[self._config.features]

    def normal_scores(self, train_images: pipeline.Images, found: Evaluation) -> np.ndarray:
        """Scores the training images by densities that were fitted without them.

        Args:
          train_images: as in the call that returned `found`.
          found: an evaluation by the network as it is.

        Returns:
          float64 [N], five-fold cross-validated; empty where there are fewer than 4 images.
        """
        if self._config.patch_size:
            separate = self._config.separate_locations
            return patch.cross_validated_scores(self._embedder, train_images, separate)
        return densities.cross_validated_scores(self._config.main_density, found.normal_features)

    def score_patches(
        self, density: densities.LocationGaussians, images: pipeline.Images
    ) -> Evaluation:
        """Scores images by their patches; an image's score is its largest patch's (Figure 1)."""
        small, means = patch.score(self._embedder, density, images)
        level = float(np.mean(density.level))
        maps = Maps(small, lambda part: self._upsample(part, level))
        return Evaluation(density, patch.image_scores(small), maps, features=means)

    def explain(self, density: densities.GaussianDensity, images: pipeline.Images) -> Maps:
        """Makes maps of an image-level model by GradCAM."""
        if self._gradcam is None or self._gradcam.density is not density:
            self._gradcam = gradcam.GradCam(self._backbone, self._config.features, density)
        small = self._gradcam(images)
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
        self.config, self.backbone, self.density = config, backbone, density
        self._evaluator = Evaluator(config, backbone)

    @classmethod
    def load(cls, run_dir: str | os.PathLike) -> "Detector":
        """Loads a run, and runs nothing that its files hold: they are numbers and settings.

        Args:
          run_dir: WORKDIR/CATEGORY/seed_N of a finished run.

        Returns:
          The detector.

        Raises:
          UserError: if a file of the run is missing or damaged, does not fit the others, or is not
            the one that the run wrote.
        """
        run_dir = pathlib.Path(run_dir)
        config = Config.load(run_dir)
        check_files(run_dir, config)
        # Scoring takes one device.
        config = dataclasses.replace(config, distribution="none")
        train.set_precision(config)
        backbone = train.build_backbone(config, initial_weights=False)
        train.load_part(backbone, run_dir / "checkpoints" / train.BACKBONE_WEIGHTS)
        density = densities.load(run_dir / DENSITY)
        if config.patch_size:
            locations = 1
            if config.separate_locations:
                sizes = (config.image_size, config.dense_patch, config.dense_stride)
                locations = patch.dense.locations(*sizes) ** 2
            wanted = (densities.LocationGaussians.kind, (locations, _dimensions(backbone, config)))
        else:
            wanted = (config.main_density, (_dimensions(backbone, config),))
        if (density.kind, density.shape) != wanted:
            raise UserError(
                f"{run_dir / DENSITY}: holds a {density.kind} of shape {list(density.shape)}, not "
                f"the {wanted[0]} of shape {list(wanted[1])} that {run_dir / 'config.json'} asks "
                "for; one of them is of another run"
            )
        return cls(config, backbone, density)

    @property
    def level(self) -> float | None:
        """The usual score of a normal patch; None of a model of whole images."""
        return float(np.mean(self.density.level)) if self.config.patch_size else None

    @property
    def makes_maps(self) -> bool:
        """Whether `evaluate` can make anomaly maps: GradCAM's are of a Gaussian's distance."""
        return bool(self.config.patch_size) or self.config.main_density in GAUSSIANS

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
          maps: whether to make maps by GradCAM, for which the density must be a Gaussian; as the
            run does by default. A patch model makes its own in any case.

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
            images = pipeline.prepare(normal(names, images), self.config.image_size)
        return self._evaluator.score(self.density, images, maps)

    def embed(self, images: pipeline.Images) -> np.ndarray:
        """Embeds images; a patch model's embedding of an image is the mean over its patches.

        Args:
          images: N images.

        Returns:
          float32 [N, D].
        """
        return self._evaluator.embed(images)


def _dimensions(backbone, config):
    return backbone.output[config.features].shape[-1]


def check_files(run_dir: str | os.PathLike, config: Config) -> None:
    """Checks that a run is finished and that its files are those that it wrote.

    Args:
      run_dir: the run's folder.
      config: what its config.json holds.

    Raises:
      UserError: if results.json is missing or damaged, or another file is missing or not the one
        whose SHA-256 is there. Runs of version 0.1.0 and before left no such sums.
    """
    run_dir = pathlib.Path(run_dir)
    path = run_dir / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        # Runs that have no threshold are of a version that left no sums either.
        sums = results["sha256"] if "threshold" in results else results.get("sha256", {})
        if not isinstance(sums, dict):
            raise ValueError("sha256 must be an object")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: there is no such file; has the run finished?") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not readable as a run's results ({error})") from error
    if sums and sums.get("settings") != config.fingerprint():
        raise UserError(
            f"{run_dir / 'config.json'}: altered (its settings are not those in {RESULTS}); copy "
            "the run again, or train it again"
        )
    for name, expected in sums.items():
        if name == "settings":
            continue
        if name not in _SUMMED:
            raise UserError(f"{path}: names a file that no run writes, {name!r}")
        if not (run_dir / name).is_file():
            raise UserError(f"{run_dir / name}: there is no such file; copy the run as a whole")
        if _checksum(run_dir / name) != expected:
            raise UserError(
                f"{run_dir / name}: damaged or altered (its SHA-256 is not the one in {RESULTS}); "
                "copy the run again, or train it again"
            )


# What scoring depends on.
_SUMMED = (f"checkpoints/{train.BACKBONE_WEIGHTS}", DENSITY, NORMAL_SCORES)


def checksums(run_dir: pathlib.Path, config: Config) -> dict[str, str]:
    """Returns the SHA-256, in hexadecimal, of all that scoring depends on: files and settings."""
    files = [name for name in _SUMMED if (run_dir / name).is_file()]
    return {"settings": config.fingerprint(), **{n: _checksum(run_dir / n) for n in files}}


def _checksum(path):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def results(
    config: Config,
    split: Split,
    num_train: int,
    trained: dict[str, Evaluation],
    untrained: dict[str, Evaluation],
    normal_scores: np.ndarray,
    summary: train.Summary,
) -> dict:
    """Collects what results.json holds; metrics are fractions, None where they are not defined.

    Args:
      config: the run's settings.
      split: the test images.
      num_train: the number of training images.
      trained: of the test images, by the feature's name.
      untrained: by the same network before training, likewise.
      normal_scores: cross-validated scores of the training images, [num_train] or none.
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
        **thresholds(config.false_positive_rate, normal_scores, split.labels, chosen.scores),
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


def synthetic_sets(
    kinds: Sequence[str], split: Split, images: pipeline.Images, seed: int
) -> tuple[dict[str, synthetic.Anomalies], str | None]:
    """Makes test sets of synthetic anomalies of the normal test images (Section 5.3).

    Args:
      kinds: some of `config.TEST_ANOMALIES`.
      split: the test images.
      images: likewise.
      seed: of the anomalies.

    Returns:
      The anomalies by kind, and whose digits those of kind mnist are, if it is among them.

    Raises:
      UserError: if there are no normal test images.
    """
    digits, whose = synthetic.digits() if "mnist" in kinds else (None, None)
    normals = np.flatnonzero(split.labels == 0)
    names, some = split.subset(normals), images.subset(normals)
    return {kind: synthetic.make(kind, names, some, seed, digits) for kind in kinds}, whose


def on_synthetic_sets(
    evaluator: Evaluator,
    found: Evaluation,
    split: Split,
    made: Mapping[str, synthetic.Anomalies],
) -> dict[str, tuple[float, float | None]]:
    """Measures how synthetic anomalies are told from the normal test images.

    Args:
      evaluator: the network as it is now.
      found: its density, and the scores and maps of the test images.
      split: the test images.
      made: the anomalies by kind.

    Returns:
      By kind image AUROC and, where there are maps, pixel AUROC.
    """
    normals = np.flatnonzero(split.labels == 0)
    results = {}
    for kind, anomalies in made.items():
        scored = evaluator.score(found.density, anomalies.images)
        labels = np.concatenate([np.zeros(len(normals), np.int64), anomalies.split.labels])
        auroc = metrics.image_auroc(labels, np.concatenate([found.scores[normals], scored.scores]))
        pixels = None
        if found.maps is not None:
            small = np.concatenate([found.maps.small[normals], scored.maps.small])
            masks = [None] * len(normals) + list(anomalies.split.masks)
            both = Split([""] * len(masks), [""] * len(masks), labels, [""] * len(masks), masks)
            maps = found.maps.of(small)
            pixels = pixel_metrics(maps, both, anomalies.images.size)["pixel_auroc"]
        results[kind] = auroc, pixels
    return results


def synthetic_results(
    before: Mapping[str, tuple[float, float | None]],
    after: Mapping[str, tuple[float, float | None]],
    digits: str | None,
) -> dict:
    """Collects what results.json holds of synthetic test sets; nothing where there are none."""
    if not after:
        return {}
    results = {}
    for place, name in enumerate(("image_auroc", "pixel_auroc")):
        for prefix, found in (("", after), ("untrained_", before)):
            values = {kind: values[place] for kind, values in found.items()}
            if any(value is not None for value in values.values()):
                results[f"{prefix}{name}_by_test_anomalies"] = values
    return results | ({"test_anomalies_digits": digits} if digits else {})


def thresholds(
    rate: float, normal_scores: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> dict:
    """Chooses the run's threshold, and says what it does on labelled test images.

    Args:
      rate: the false-positive rate.
      normal_scores: cross-validated scores of the training images; there may be none.
      labels: [N] of the test images, 0 for normal and 1 for anomalous.
      scores: [N] of the test images. They have no part in the threshold.

    Returns:
      What results.json holds of it. `f1_max` and its threshold, beside it, are chosen by the test
      labels, and say so.
    """
    value = threshold.at_rate(normal_scores, rate) if len(normal_scores) else None
    flagged = np.zeros([0], bool) if value is None else scores > value

    def share(label):
        chosen = flagged[labels == label] if value is not None else flagged
        return float(chosen.mean()) if len(chosen) else None

    best = metrics.f1_max(labels, scores)
    return {
        "threshold": value,
        "false_positive_rate": rate,
        "num_normal_scores": len(normal_scores),
        "test_false_positive_rate": share(0),
        "test_true_positive_rate": share(1),
        "f1_max": best and best[0],
        "f1_max_threshold": best and best[1],
        "f1_max_chosen_by": best and "test labels",
    }


def check_densities(config: Config, num_train: int) -> None:
    """Checks that there are training images enough for the densities that --density names.

    Args:
      config: the settings.
      num_train: the number of training images.

    Raises:
      UserError: if a mixture has fewer than two for each component.
    """
    for kind in config.density.split(","):
        least = 2 * densities.components(kind)
        if 2 < least > num_train:
            raise UserError(
                f"--density={kind}: needs {least} normal training images, two for each component; "
                f"there are {num_train}"
            )


def auroc_by_density(config: Config, found: Evaluation, labels: np.ndarray) -> dict:
    """Measures all densities that --density names, on the same features (Section 2.3).

    Args:
      config: the run's settings.
      found: the evaluation by the first of them.
      labels: [N] of the test images.

    Returns:
      Image AUROC by density, None where it cannot be measured; nothing of a single density.
    """
    results = {config.main_density: metrics.image_auroc(labels, found.scores)}
    for kind in config.density.split(",")[1:]:
        density = densities.make(kind).fit(found.normal_features)
        scores = density.score(found.features) if len(labels) else np.zeros([0])
        results[kind] = metrics.image_auroc(labels, scores)
    return results if len(results) > 1 else {}


def stage_names(config: Config) -> tuple[str, str]:
    """Returns what the network is called before and after the training."""
    return ("untrained", "trained") if config.weights == "none" else ("pretrained", "finetuned")


def write_scores(run_dir: pathlib.Path, split: Split, scores: np.ndarray) -> None:
    """Writes scores.csv: path, label, defect_type, score, and the data set's further columns."""
    columns = (split.names, split.labels.tolist(), split.defect_types, _exact(scores))
    names = ["path", "label", "defect_type", "score", *split.extra]
    _write_csv(run_dir / SCORES, names, zip(*columns, *split.extra.values(), strict=True))


def write_normal_scores(run_dir: pathlib.Path, split: Split, scores: np.ndarray) -> None:
    """Writes normal_scores.csv: path and cross-validated score of every training image.

    Args:
      run_dir: the run's folder.
      split: the normal training images.
      scores: as `Evaluator.normal_scores` returns them.
    """
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
