"""The interface of models that score images, and a finished run as such a model."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cutpaste_tf import machine, run_folder
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold

if TYPE_CHECKING:
    from cutpaste_tf.draw.overlay import Scale
    from cutpaste_tf.scoring.scorer import Scores


class Model(Protocol):
    """A model that scores images.

    Attributes:
      threshold: above which an image is anomalous.
      normal_scores: float64 [n], the run's scores of normal images; may be empty.
      scale: from maps to colours; None if no maps are wanted.
      bits: of the image files, as in `decode.decode`.
      inputs: the number of network inputs for each image, one for each tile.
      device: the name of the hardware.
    """

    threshold: Threshold
    normal_scores: np.ndarray
    scale: "Scale | None"
    bits: int
    inputs: int
    device: str

    def prepare(self, image: np.ndarray) -> Any:
        """Makes the input of `score` from an image, uint8 [H, W, 3]; called in threads."""

    def score(
        self, prepared: Sequence[Any], sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[float, np.ndarray | None]]:
        """Scores images from `prepare`; `sizes` are the heights and widths of the images in pixels.

        Returns, for each image, the anomaly score, which may be NaN, and the anomaly map, float32
        [h, w], or None if no maps are wanted.
        """

    def over_image(self, anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns the map of a whole image, without a border, float32 [h', w']."""


class RunModel:
    """A finished run as a model, by TensorFlow.

    Args:
      run_dir: the run's folder.
      threshold: replaces the run's threshold.
      false_positive_rate: replaces the run's threshold by the one that this share of normal images
        is above.
      maps: whether to make maps; None: if the run can make them.

    Attributes:
      detector: the run's `detector.Detector`.

    Raises:
      UserError: if the run cannot be loaded, makes no maps, or has no threshold.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        threshold: float | None = None,
        false_positive_rate: float | None = None,
        maps: bool | None = False,
    ):
        self.threshold = run_folder.choose_threshold(run_dir, threshold, false_positive_rate)
        self.normal_scores = run_folder.read_normal_scores(run_dir)
        from cutpaste_tf.scoring.detector import Detector

        self._run_dir, self.detector = run_dir, Detector.load(run_dir)
        if maps and not self.detector.makes_maps:
            raise UserError(
                f"--maps: {run_dir} makes no maps, as its --density="
                f"{self.detector.config.main_density} is neither gde nor gmm; leave --maps out"
            )
        self._preparation = self.detector.preparation
        self.prepare, self.over_image = self._preparation.apply, self._preparation.over_image
        self.bits, self.inputs = self._preparation.bits, self._preparation.count
        self.device = machine.device()
        wanted = self.detector.makes_maps if maps is None else maps
        self.scale = self.scale_at(self.threshold) if wanted else None

    def scale_at(self, threshold: Threshold) -> "Scale":
        """Returns the scale from maps to colours at a threshold."""
        from cutpaste_tf.draw.overlay import Scale

        pixel_threshold = run_folder.read_results(self._run_dir)["pixel_threshold"]
        return Scale.of(self.detector.level, self.normal_scores, pixel_threshold, threshold)

    def score(
        self, prepared: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[float, np.ndarray | None]]:
        """Scores images; see `Model`."""
        if not prepared:
            return []
        result = self.evaluate(prepared, sizes)
        maps = [None] * len(sizes) if self.scale is None else result.maps.read(range(len(sizes)))
        return list(zip(map(float, result.scores), maps, strict=True))

    def evaluate(
        self, prepared: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> "Scores":
        """Returns the detector's scores, features and maps of images; arguments as in `score`."""
        from cutpaste_tf.data import pipeline

        images = pipeline.of_prepared(prepared, self._preparation, sizes)
        return self.detector.evaluate(images, maps=self.scale is not None)
