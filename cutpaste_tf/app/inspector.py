"""What finished runs say of an image, without a user interface."""

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
from cutpaste_tf.threshold import Threshold

NEAREST = 5  # normal images that are shown beside one
_KEPT_RUNS = 3  # in memory
_SIDE, _THUMBNAIL = 800, 320  # pixels, at most, of what is shown


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a run says of an image, whatever the threshold."""

    run: str
    name: str  # the image's
    score: float
    picture: np.ndarray  # the image, uint8 [h, w, 3], no larger than the page needs
    size: tuple[int, int]  # the image's own height and width in pixels
    prepared: np.ndarray  # the network's inputs
    map: np.ndarray | None  # float32 [H, W], of the whole image; None where the run makes none
    scale: Callable[[Threshold], Any]  # makes the map's `draw.overlay.Scale` at a threshold


class Inspector:
    """Finished runs, by name, which are loaded when they are first asked for.

    The methods may be called from several threads: one of them works at a time. They raise
    UserErrors where an image, a run or its training images cannot be read. `data_dir` is where
    training images are, if not where the runs read them.
    """

    def __init__(self, runs: dict[str, pathlib.Path], data_dir: str | None = None):
        self.runs, self._data_dir = runs, data_dir
        self._lock = threading.Lock()
        # The page has thresholds of its own.
        load = functools.partial(RunModel, threshold=0.0, maps=None)
        self._model = functools.lru_cache(_KEPT_RUNS)(lambda run: load(runs[run]))
        self._normal = functools.lru_cache(_KEPT_RUNS)(self._embed_normal)

    def inspect(self, run: str, path: str) -> Inspection:
        """Scores the image in a file."""
        name = pathlib.Path(path).name
        with self._lock:
            model = self._model(run)
            try:
                image = decode.read(path, model.bits)
            except UserError as error:  # Where uploads are kept says nothing to anyone.
                raise UserError(str(error).replace(path, name)) from error
            size, prepared = image.shape[:2], model.prepare(image)
            ((score, anomaly_map),) = model.score([prepared], [size])
            if not math.isfinite(score):
                raise UserError(f"{name}: the network's features of it are not finite")
            if anomaly_map is not None:
                anomaly_map = model.over_image(anomaly_map, *size)
        picture = _shrink(image, _SIDE)
        return Inspection(run, name, score, picture, size, prepared, anomaly_map, model.scale_at)

    def neighbours(self, inspection: Inspection) -> list[tuple[np.ndarray, str, float]]:
        """Returns the nearest normal training images: uint8 [h, w, 3], name, distance.

        Distances are Mahalanobis's where the density is one Gaussian of whole images, and Euclidean
        otherwise. The first call for a run embeds all its images.
        """
        from cutpaste_tf.data import pipeline

        with self._lock:
            model = self._model(inspection.run)
            split, embeddings = self._normal(inspection.run)
            query = model.detector.embed(model.images([inspection.prepared], [inspection.size]))
        differences, density = embeddings.astype(np.float64) - query, model.detector.fit.density
        if density and density.is_gaussian:
            differences = differences @ density.arrays["whitener"]
        distances = np.linalg.norm(differences, axis=1)
        result = []
        for index in np.argsort(distances, kind="stable")[:NEAREST]:
            image = split.images[index]
            image = decode.read(image, model.bits) if split.from_files else pipeline.to_rgb(image)
            shown = _shrink(image, _THUMBNAIL)
            result.append((shown, split.names[index], float(distances[index])))
        return result

    def _embed_normal(self, run):
        """Returns a run's normal training images and their embeddings."""
        from cutpaste_tf.data import pipeline

        detector = self._model(run).detector
        config = detector.config
        if self._data_dir:
            config = dataclasses.replace(config, data_dir=self._data_dir)
        try:
            split = run_folder.load_images(config, self.runs[run]).train
        except UserError as error:
            raise UserError(f"{error}; --data_dir says where the run's images are now") from error
        return split, detector.embed(pipeline.prepare(split, detector.preparation))


def _shrink(image, side):
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))  # never enlarges
    return np.asarray(picture)
