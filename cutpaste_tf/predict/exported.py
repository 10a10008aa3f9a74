"""What an exported ONNX file says of its run: all that predicting takes besides the graph.

It is one JSON text in the file's metadata. Nothing here imports TensorFlow.
"""

import base64
import dataclasses
import json
import math
import zlib
from collections.abc import Mapping

import numpy as np

from cutpaste_tf import threshold as thresholds
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold

KEY = "cutpaste_tf"  # in the file's metadata
FORMAT = 1  # raised when the text's meaning changes
_LARGEST = 2**25  # characters: the scores of a million normal images


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
    """What is known of an exported run.

    Attributes:
      run: its name, as CATEGORY/seed_N.
      config: its settings.
      bits: as in `decode.decode`.
      threshold: the one that it was exported with.
      normal_scores: float64 [n], the scores of normal images; empty where the run has left none.
      level: its `Detector.level`.
      pixel_threshold: the pixels' threshold; None where it has none.
      roi: the region of interest, bool [h, w]; None where it has none.
      versions: of what it was exported with.
    """

    run: str
    config: Config
    bits: int
    threshold: Threshold
    normal_scores: np.ndarray
    level: float | None
    pixel_threshold: float | None
    roi: np.ndarray | None
    versions: Mapping[str, str]

    def choose_threshold(
        self, threshold: float | None, false_positive_rate: float | None, source: str
    ) -> Threshold:
        """Finds the threshold of the file called `source`; see `threshold.choose`."""
        return thresholds.choose(
            self.threshold, self.normal_scores, source, threshold, false_positive_rate
        )

    def to_json(self) -> str:
        """Returns the JSON text; numbers are read back to the last bit."""
        return json.dumps(
            {
                "format": FORMAT,
                "run": self.run,
                "versions": dict(self.versions),
                "settings": json.loads(self.config.to_json()),
                "bits": self.bits,
                "threshold": dataclasses.asdict(self.threshold),
                "level": self.level,
                "pixel_threshold": self.pixel_threshold,
                "roi": None if self.roi is None else _packed(self.roi),
                "normal_scores": self.normal_scores.tolist(),
            }
        )

    def _check(self):
        """Raises a ValueError for what no export has written."""
        numbers = [x for x in (self.level, self.pixel_threshold) if x is not None]
        if not (
            isinstance(self.run, str)
            and isinstance(self.versions, dict)
            and self.bits in decode.BITS
            and self.normal_scores.ndim == 1
            and np.isfinite(self.normal_scores).all()
            and all(type(x) in (int, float) and math.isfinite(x) for x in numbers)
        ):
            raise ValueError("no export's")

    @classmethod
    def read(cls, metadata: Mapping[str, str], source: str) -> "Description":
        """Reads the metadata of the file that messages call `source`."""
        try:
            if len(metadata[KEY]) > _LARGEST:
                raise ValueError("too large")
            values = json.loads(metadata[KEY])
            if values["format"] != FORMAT:
                raise ValueError("another version's")
            description = cls(
                values["run"],
                Config.from_json(json.dumps(values["settings"]), source),
                values["bits"],
                Threshold(**values["threshold"]),
                np.array(values["normal_scores"], np.float64),
                values["level"],
                values["pixel_threshold"],
                None if values["roi"] is None else _unpacked(values["roi"]),
                values["versions"],
            )
            description._check()
            return description
        except (
            *(KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError),
            *(MemoryError, zlib.error),
        ) as error:
            raise UserError(
                f"{source}: says nothing of a run that this version can read; export the run again"
            ) from error


def _packed(mask):
    bits = zlib.compress(np.packbits(mask).tobytes())
    return {"shape": mask.shape, "bits": base64.b64encode(bits).decode()}


def _unpacked(values):
    height, width = values["shape"]
    if not (isinstance(height, int) and isinstance(width, int)) or min(height, width) < 1:
        raise ValueError("no size")
    size = -(height * width // -8)  # bytes
    if height * width > decode.LARGEST:
        raise ValueError("too large")
    packed = base64.b64decode(values["bits"])
    bits = np.frombuffer(zlib.decompressobj().decompress(packed, size + 1), np.uint8)
    if len(bits) != size:
        raise ValueError("another size")
    return np.unpackbits(bits)[: height * width].reshape(height, width).astype(bool)
