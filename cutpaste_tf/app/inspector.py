"""What finished runs say of an image; no user interface is in here.

Nothing here imports TensorFlow before the first image.
"""

import dataclasses
import functools
import math
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cutpaste_tf import run_folder
from cutpaste_tf.data import decode
from cutpaste_tf.files import UserError
from cutpaste_tf.predict.model import RunModel
from cutpaste_tf.threshold import Threshold

if TYPE_CHECKING:
    from cutpaste_tf.draw.overlay import Scale

NEAREST = 5  # normal images that are shown beside one
_KEPT_RUNS = 3  # in memory
_SIDE, _THUMBNAIL = 800, 320  # pixels, at most, of what is shown


def nearest(
    query: np.ndarray, normal: np.ndarray, whitener: np.ndarray | None = None, count: int = NEAREST
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the embeddings that are nearest to one, [D], among normal ones, [N, D].

    Distances are Euclidean; with a Gaussian's whitener, [D, D], those of whitened embeddings.
    Returns the indices, the nearest first, and distances.
    """
    difference = normal.astype(np.float64) - query
    distances = np.linalg.norm(difference if whitener is None else difference @ whitener, axis=1)
    order = np.argsort(distances, kind="stable")[:count]
    return order, distances[order]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a run says of an image, whatever the threshold.

    `picture` is the image, uint8 [h, w, 3], no larger than the page needs; `size` its own height
    and width in pixels. `map` is float32 [H, W], of the whole image; None where the run makes none.
    `scale` makes the map's `draw.overlay.Scale` of a threshold.
    """

    run: str
    name: str
    score: float
    picture: np.ndarray
    size: tuple[int, int]
    prepared: np.ndarray
    map: np.ndarray | None
    scale: Callable[[Threshold], "Scale"]


class Inspector:
    """Finished runs, loaded when they are first asked for, and what the page asks of them.

    The methods may be called from several threads: one of them works at a time. They raise
    UserErrors where an image, a run or its training images cannot be read. `runs` are folders by
    names; `data_dir` is where training images are, if not where the runs found them.
    """

    def __init__(self, runs: dict[str, pathlib.Path], data_dir: str | None = None):
        self.runs, self._data_dir = runs, data_dir
        self._lock = threading.Lock()
        self._model = functools.lru_cache(_KEPT_RUNS)(self._load)
        self._normal = functools.lru_cache(_KEPT_RUNS)(self._embed_normal)

    def inspect(self, run: str, path: str) -> Finding:
        """Scores the image in a file by the run of a name."""
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
        picture = _shrunk(image, _SIDE)
        return Finding(run, name, score, picture, size, prepared, anomaly_map, model.scale_at)

    def neighbours(self, finding: Finding) -> list[tuple[np.ndarray, str, float]]:
        """Returns the most similar normal training images: uint8 [h, w, 3], name, distance.

        The nearest is first. Distances are in the density's own metric where that is one Gaussian
        of whole images, Euclidean otherwise. The first call for a run embeds all of them.
        """
        from cutpaste_tf.data import pipeline

        with self._lock:
            model = self._model(finding.run)
            detector = model.detector
            split, embeddings = self._normal(finding.run)
            (query,) = detector.embed(model.images([finding.prepared], [finding.size]))
        density = detector.fit.density
        whitener = density.arrays["whitener"] if density and density.is_gaussian else None
        result = []
        for index, distance in zip(*nearest(query, embeddings, whitener), strict=True):
            image = split.images[index]
            image = decode.read(image, model.bits) if split.from_files else pipeline.to_rgb(image)
            result.append((_shrunk(image, _THUMBNAIL), split.names[index], float(distance)))
        return result

    def _load(self, run):
        # The page has thresholds of its own.
        return RunModel(self.runs[run], threshold=0.0, maps=None)

    def _embed_normal(self, run):
        """A run's normal training images and their embeddings."""
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


def _shrunk(image, side):
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))  # never enlarges
    return np.asarray(picture)
