"""Inspects images with finished runs, without a user interface."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from cutpaste_tf import run_folder
from cutpaste_tf.data import decode
from cutpaste_tf.files import UserError
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.threshold import Drift, Threshold

NEAREST = 5  # how many nearest normal images are shown
_KEPT_RUNS = 3  # how many runs are held in memory
_SIDE, _THUMBNAIL = 800, 320  # pixels of a picture's longer side, at most


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The answers of a run about an image, for any threshold."""

    run: str
    name: str  # the image's
    score: float
    drift: bool | None  # see `Drift.add`
    embedding: np.ndarray  # float32 [D], as from `Detector.embed`
    picture: np.ndarray  # the image, uint8 [h, w, 3], no larger than the page needs
    map: np.ndarray | None  # float32 [H, W], of the whole image; None if the run makes no maps
    scale: Callable[[Threshold], Any]  # makes the map's `draw.overlay.Scale` at a threshold


class Inspector:
    """Inspects images with finished runs, by name, which are loaded at first use.

    The methods may be called from several threads, and work one at a time. They raise a UserError
    if an image, a run or its training images cannot be read. `data_dir` is where the training
    images are, if they have moved.
    """

    def __init__(self, runs: dict[str, pathlib.Path], data_dir: str | None = None):
        self.runs, self._data_dir = runs, data_dir
        self._lock = threading.Lock()
        # The page chooses the threshold, so any value will do here.
        load = functools.partial(RunModel, threshold=0.0, maps=None)
        self._model = functools.lru_cache(_KEPT_RUNS)(lambda run: load(runs[run]))
        self._drift = functools.cache(lambda run: Drift(run_folder.read_normal_scores(runs[run])))
        self._normal = functools.lru_cache(_KEPT_RUNS)(self._read_normal)

    def load(self, run: str) -> None:
        """Loads a run and scores a grey image, so that the first real image is fast."""
        with self._lock:
            model = self._model(run)
            model.score([model.prepare(np.full([64, 64, 3], 128, np.uint8))], [(64, 64)])
            with contextlib.suppress(UserError):  # `neighbours` raises it again.
                self._normal(run)

    def inspect(self, run: str, path: str) -> Inspection:
        """Scores the image in a file."""
        name = pathlib.Path(path).name
        with self._lock:
            model = self._model(run)
            try:
                image = decode.read(path, model.bits)
            except UserError as error:  # The folder of uploads means nothing to the user.
                raise UserError(str(error).replace(path, name)) from error
            size = image.shape[:2]
            scores = model.evaluate([model.prepare(image)], [size])
            (score,) = scores.scores.tolist()
            if not math.isfinite(score):
                raise UserError(f"{name}: the network's features of the image are not finite")
            drift = self._drift(run).add(score)
            # As in `Detector.embed`: the mean over tiles.
            (embedding,) = scores.features[model.detector.config.features].mean(axis=1)
            anomaly_map = None
            if scores.maps is not None:
                anomaly_map = model.over_image(scores.maps.read([0])[0], *size)
        picture = _shrink(image, _SIDE)
        return Inspection(run, name, score, drift, embedding, picture, anomaly_map, model.scale_at)

    def neighbours(self, inspection: Inspection) -> list[tuple[np.ndarray, str, float]]:
        """Returns the nearest normal training images: uint8 [h, w, 3], name, distance.

        Distances are Mahalanobis distances if the density is one Gaussian of whole images, else
        Euclidean.
        """
        from cutpaste_tf.data import pipeline

        with self._lock:
            model = self._model(inspection.run)
            images, names, whitened = self._normal(inspection.run)
        distances = np.linalg.norm(whitened - _whiten(model, inspection.embedding), axis=1)
        result = []
        for index in np.argsort(distances, kind="stable")[:NEAREST]:
            name, image = names[index], images[names[index]]
            from_file = isinstance(image, str)
            image = decode.read(image, model.bits) if from_file else pipeline.to_rgb(image)
            result.append((_shrink(image, _THUMBNAIL), name, float(distances[index])))
        return result

    def _read_normal(self, run):
        """Returns a run's training images by name, and names and whitened embeddings."""
        model = self._model(run)
        config = model.detector.config
        if self._data_dir:
            config = dataclasses.replace(config, data_dir=self._data_dir)
        try:
            split = run_folder.load_images(config, self.runs[run]).train
        except UserError as error:
            raise UserError(f"{error}; if the images have moved, give --data_dir") from error
        names, embeddings = run_folder.read_embeddings(self.runs[run])
        return dict(zip(split.names, split.images, strict=True)), names, _whiten(model, embeddings)


def _whiten(model, embeddings):
    """Transforms embeddings, [..., D], so that Euclidean distances are those of the density."""
    embeddings, density = embeddings.astype(np.float64), model.detector.fit.density
    if density is None or density.kind == "kde":
        return embeddings
    if density.kind == "gmm":  # It was fitted to features of unit length.
        embeddings = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings @ density.arrays["whitener"]


def _shrink(image, side):
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))  # never enlarges
    return np.asarray(picture)
