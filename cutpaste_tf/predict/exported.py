"""An exported ONNX file: the description of its run, and scoring images by ONNX Runtime.

The description is a JSON text in the file's metadata.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from cutpaste_tf import machine
from cutpaste_tf import threshold as thresholds
from cutpaste_tf.config import Config
from cutpaste_tf.data import decode
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.files import UserError
from cutpaste_tf.threshold import Threshold

KEY = "cutpaste_tf"  # of the description in the file's metadata
FORMAT = 4  # Raise this when the meaning of the text changes.
_LARGEST = 2**25  # characters, enough for the scores of a million normal images
# Pixels of images that are resized at a time. The graph holds several copies of them as floats.
_PIXELS = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
    """The description of a run in an exported file."""

    config: Config
    bits: int  # as in `decode.decode`
    threshold: Threshold  # as chosen at export
    normal_scores: np.ndarray  # float64 [n], of normal images; may be empty
    level: float | None  # see `draw.overlay.Scale.of`
    pixel_threshold: float | None

    def to_json(self) -> str:
        """Returns the description as JSON text, which keeps every bit of its numbers."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {
            "format": FORMAT,
            "config": json.loads(self.config.to_json()),
            "threshold": dataclasses.asdict(self.threshold),
            "normal_scores": self.normal_scores.tolist(),
        }
        return json.dumps(values)

    @classmethod
    def read(cls, metadata: Mapping[str, str], source: str) -> "Description":
        """Reads the description in a file's metadata; messages name the `source`."""
        try:
            if len(metadata[KEY]) > _LARGEST:
                raise ValueError("too large")
            values = json.loads(metadata[KEY])
            if values.pop("format") != FORMAT:
                raise ValueError("written by another version")
            values["config"] = Config.from_json(json.dumps(values["config"]), source)
            values["threshold"] = Threshold(**values["threshold"])
            values["normal_scores"] = np.array(values["normal_scores"], np.float64)
            description = cls(**values)
            numbers = [x for x in (description.level, description.pixel_threshold) if x is not None]
            if (
                description.bits not in decode.BITS
                or description.normal_scores.ndim != 1
                or not np.isfinite([*numbers, *description.normal_scores]).all()
            ):
                raise ValueError("not written by an export")
            return description
        except Exception as error:  # A text from another program may fail anywhere.
            raise UserError(
                f"{source}: has no description of a run that this version can read; export the run "
                "again"
            ) from error


class OnnxModel:
    """An exported run; see `model.Model`. A UserError says what is wrong with the file.

    A threshold, or the share of normal images above it, replaces the file's threshold.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        threshold: float | None = None,
        false_positive_rate: float | None = None,
        maps: bool = False,
    ):
        source = self._source = f"--model={path}"
        self._session = _load(path, source)
        if maps and "map" not in (node.name for node in self._session.get_outputs()):
            raise UserError(
                f"--maps: {path} makes no maps; leave --maps out, or export a run that makes maps, "
                "such as one with --maps=features"
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        run = Description.read(metadata, source)
        given = threshold, false_positive_rate, run.config.threshold_rule
        self.threshold = thresholds.choose(run.threshold, run.normal_scores, source, *given)
        self.normal_scores = run.normal_scores
        self._outputs, self.scale = ["score"], None
        if maps:
            from cutpaste_tf.draw.overlay import Scale

            self._outputs.append("map")
            self.scale = Scale.of(run.level, run.normal_scores, run.pixel_threshold, self.threshold)
        preparation = Preparation.of(run.config, bits=run.bits)
        self.over_image = preparation.over_image
        self.bits, self.inputs = preparation.bits, preparation.count
        self.device = f"CPU ({machine.cores()} cores), by ONNX Runtime"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns the image itself, as the graph resizes it; see `Model`."""
        return image

    def score(
        self, prepared: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[float, np.ndarray | None]]:
        """Scores images; see `Model`."""
        results = []
        for shape, group in itertools.groupby(prepared, key=np.shape):
            count = max(1, _PIXELS // (shape[0] * shape[1]))
            while images := list(itertools.islice(group, count)):
                results += self._run(images)
        return results

    def _run(self, images):
        try:
            scores, *maps = self._session.run(self._outputs, {"images": np.stack(images)})
            maps = maps[0] if maps else [None] * len(images)
            return [(float(x), one) for _, x, one in zip(images, scores, maps, strict=True)]
        except Exception as error:  # ONNX Runtime's exceptions share no base class.
            reason = str(error).splitlines()[0]
            raise UserError(f"{self._source}: the graph fails ({reason})") from error


def _load(path, source):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{source}: needs the package onnxruntime; pip install onnxruntime"
        ) from error

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # The exceptions say what is wrong.
    # A worker of --ray has its share of the cores in this variable.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else machine.cores()
    # Otherwise the threads wait in a loop between two batches, on the cores that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Otherwise ONNX Runtime keeps a memory plan for each size of image.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class.
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: not an ONNX file, or damaged ({reason})") from error
