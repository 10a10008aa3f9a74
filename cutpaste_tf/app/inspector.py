"""What finished runs say of an image; no user interface is in here.

Nothing here imports TensorFlow before the first image.
"""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold

if TYPE_CHECKING:
    from cutpaste_tf.data.pipeline import Images
    from cutpaste_tf.report.overlay import Scale

NEAREST = 5  # normal images that are shown beside one
_KEPT_RUNS = 3  # in memory
_SIDE, _THUMBNAIL = 800, 320  # pixels, at most, of what is shown


def nearest(
    query: np.ndarray, normal: np.ndarray, precision: np.ndarray | None = None, count: int = NEAREST
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the embeddings that are nearest to one.

    Args:
      query: [D].
      normal: [N, D].
      precision: [D, D], a Gaussian's: distances are then sqrt((x - y)^T precision (x - y)), those
        of whitened embeddings. Euclidean without.
      count: how many to find.

    Returns:
      The indices, int64 [min(count, N)], the nearest first, and their distances, float64.
    """
    difference = normal.astype(np.float64) - query
    weighted = difference if precision is None else difference @ precision
    squared = np.einsum("nd,nd->n", weighted, difference)
    order = np.argsort(squared, kind="stable")[:count]
    return order, np.sqrt(np.maximum(squared[order], 0.0))


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a run says of an image, whatever the threshold.

    Attributes:
      run: the run's name.
      name: the image's file name.
      score: its anomaly score.
      picture: uint8 [h, w, 3], the image, no larger than the page needs.
      prepared: the image as the network sees it.
      map: float32 [H, W], its anomaly map, of the whole image; None where the run makes none.
      scale: makes the map's `report.overlay.Scale` of a threshold.
    """

    run: str
    name: str
    score: float
    picture: np.ndarray
    prepared: "Images"
    map: np.ndarray | None
    scale: Callable[[Threshold], "Scale"]


class Inspector:
    """Finished runs, loaded when they are first asked for, and what the page asks of them.

    The methods may be called from several threads: one of them scores at a time.

    Args:
      runs: the runs' folders by their names.
      data_dir: where the training images are, if not where the runs found them.
    """

    def __init__(self, runs: dict[str, pathlib.Path], data_dir: str | None = None):
        self.runs, self._data_dir = runs, data_dir
        self._lock = threading.Lock()
        self._detector = functools.lru_cache(_KEPT_RUNS)(self._load)
        self._normal = functools.lru_cache(_KEPT_RUNS)(self._embed_normal)

    def inspect(self, run: str, path: str) -> Finding:
        """Scores an image.

        Args:
          run: the run's name.
          path: the image's file.

        Returns:
          The finding.

        Raises:
          UserError: if the image or the run cannot be read.
        """
        from cutpaste_tf.data import decode, pipeline
        from cutpaste_tf.report.overlay import Scale

        name = pathlib.Path(path).name
        with self._lock:
            detector = self._detector(run)
        preparation = detector.preparation
        try:
            image = decode.read(path, preparation.bits)
        except UserError as error:  # Where uploads are kept says nothing to anyone.
            raise UserError(str(error).replace(path, name)) from error
        with self._lock:
            images = pipeline.of_arrays([image], preparation)
            evaluation = detector.evaluate(images, maps=detector.makes_maps)
            anomaly_map = None
            if detector.makes_maps:
                anomaly_map = evaluation.maps.read([0])[0]
                anomaly_map = preparation.over_image(anomaly_map, *image.shape[:2])
        return Finding(
            run=run,
            name=name,
            score=float(evaluation.scores[0]),
            picture=_shrunk(image, _SIDE),
            prepared=images,
            map=anomaly_map,
            scale=functools.partial(Scale.of_run, self.runs[run], detector.level),
        )

    def neighbours(self, finding: Finding) -> list[tuple[np.ndarray, str, float]]:
        """Finds the normal training images that are most like an image.

        The first call for a run embeds all of them.

        Args:
          finding: of the image.

        Returns:
          Of each, the nearest first: the image, uint8 [h, w, 3], its name, and its distance: in the
          density's own metric where that is one Gaussian of whole images, Euclidean otherwise.

        Raises:
          UserError: if the run or its training images cannot be read.
        """
        from cutpaste_tf.data import decode, pipeline
        from cutpaste_tf.density import GaussianDensity

        with self._lock:
            detector = self._detector(finding.run)
            split, embeddings = self._normal(finding.run)
            (query,) = detector.embed(finding.prepared)
        gaussian = isinstance(detector.density, GaussianDensity)
        precision = detector.density.precision if gaussian else None
        result = []
        for index, distance in zip(*nearest(query, embeddings, precision), strict=True):
            image = split.images[index]
            if split.from_files:
                image = decode.read(image, detector.preparation.bits)
            else:
                image = pipeline.to_rgb(image)
            result.append((_shrunk(image, _THUMBNAIL), split.names[index], float(distance)))
        return result

    def _load(self, run):
        from cutpaste_tf.detector import Detector

        return Detector.load(self.runs[run])

    def _embed_normal(self, run):
        """A run's normal training images and their embeddings."""
        from cutpaste_tf.data import pipeline
        from cutpaste_tf.run import images

        detector = self._detector(run)
        config = detector.config
        if self._data_dir:
            config = dataclasses.replace(config, data_dir=self._data_dir)
        try:
            split = images.of_run(config, self.runs[run]).train
        except UserError as error:
            raise UserError(f"{error}; --data_dir says where the run's images are now") from error
        return split, detector.embed(pipeline.prepare(split, detector.preparation))


def _shrunk(image, side):
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))  # never enlarges
    return np.asarray(picture)
