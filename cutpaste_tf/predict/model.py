"""What scores images: a finished run, by TensorFlow."""

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
    """What scores images, by a threshold, from files of `bits` as in `decode.decode`.

    `normal_scores` are the run's, float64 [n], or none. `scale` brings maps to colours; None where
    no maps are asked for. An image is `inputs` inputs of the network.
    """

    threshold: Threshold
    normal_scores: np.ndarray
    scale: "Scale | None"
    bits: int
    inputs: int
    device: str

    def prepare(self, image: np.ndarray) -> Any:
        """Makes of an image, uint8 [H, W, 3], what `score` takes; called in threads."""

    def score(
        self, prepared: Sequence[Any], sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[float, np.ndarray | None]]:
        """Scores images that `prepare` has prepared; sizes are their heights and widths in pixels.

        Returns of each the anomaly score, NaN where there is none, and, if maps are asked for, the
        anomaly map, float32 [h, w].
        """

    def over_image(self, anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns a map of the whole of an image of some height and width, float32 [h', w']."""


class RunModel:
    """A finished run.

    Args:
      run_dir: its folder.
      threshold: takes the place of the run's.
      false_positive_rate: chooses the threshold that this share of normal images is above.
      maps: whether maps are asked for; None: where the run makes any.

    Attributes:
      detector: the run's `detector.Detector`.

    Raises:
      UserError: if the run cannot be loaded, makes no maps, or the threshold is none.
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
                f"--maps: {run_dir} has --density={self.detector.config.main_density}, and GradCAM "
                "needs a Gaussian's distance; leave --maps out"
            )
        self._preparation = self.detector.preparation
        self.prepare, self.over_image = self._preparation.apply, self._preparation.over_image
        self.bits, self.inputs = self._preparation.bits, self._preparation.count
        self.device = machine.device()
        wanted = self.detector.makes_maps if maps is None else maps
        self.scale = self.scale_at(self.threshold) if wanted else None

    def scale_at(self, threshold: Threshold) -> "Scale":
        """Returns how maps become colours at a threshold."""
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
        if self.scale is None:
            return [(float(score), None) for score in result.scores]
        return list(
            zip(map(float, result.scores), result.maps.read(range(len(sizes))), strict=True)
        )

    def evaluate(
        self, prepared: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> "Scores":
        """Returns all that the detector says of images; the arguments are those of `score`."""
        from cutpaste_tf.data import pipeline

        images = pipeline.of_prepared(prepared, self._preparation, sizes)
        return self.detector.evaluate(images, maps=self.scale is not None)
