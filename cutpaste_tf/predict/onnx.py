"""What scores images: an exported ONNX file, by ONNX Runtime.

Nothing here imports TensorFlow.
"""

import collections
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cutpaste_tf import machine
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.files import UserError
from cutpaste_tf.predict.exported import Description

# Pixels of images that are resized at a time. The graph has them as floats, several times over.
_PIXELS = 2**22
# What goes in and comes out: types, and numbers of dimensions.
_NODES = {
    "images": ("tensor(uint8)", 4),
    "score": ("tensor(float)", 1),
    "map": ("tensor(float)", 3),
    "verdict": ("tensor(bool)", 1),
}


class OnnxModel:
    """An exported run; see `model.Model`. A UserError says if it cannot do what is asked.

    A threshold, or the share of normal images above it, takes the place of the file's.
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
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        if any(_NODES.get(node.name) != (node.type, len(node.shape)) for node in nodes) or not (
            {"images", "score"} <= {node.name for node in nodes}
        ):
            raise UserError(f"{source}: its graph is none that export writes")
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = Description.read(metadata, source)
        self.threshold = self.description.choose_threshold(threshold, false_positive_rate, source)
        self.scale = None
        self._outputs = ["score"]
        if maps:
            self._outputs.append("map")
            if "map" not in (output.name for output in self._session.get_outputs()):
                raise UserError(
                    f"--maps: {path} makes none; leave it out, or export a run that does, such as "
                    "one with --maps=features"
                )
            from cutpaste_tf.draw.overlay import Scale

            its = self.description
            self.scale = Scale.of(its.level, its.normal_scores, its.pixel_threshold, self.threshold)
        preparation = Preparation.of(
            self.description.config, self.description.roi, self.description.bits
        )
        self.over_image = preparation.over_image
        self.bits, self.inputs = preparation.bits, preparation.count
        self.device = f"CPU ({machine.cores()} cores), by ONNX Runtime"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns the image, which is resized in the graph; see `Model`."""
        return image

    def score(
        self, prepared: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[float, np.ndarray | None]]:
        """Scores images; see `Model`."""
        by_size = collections.defaultdict(list)
        for index, size in enumerate(sizes):
            by_size[size].append(index)
        found = [None] * len(sizes)
        for (height, width), indices in by_size.items():
            count = max(1, _PIXELS // (height * width))
            for first in range(0, len(indices), count):
                part = indices[first : first + count]
                images = np.stack([prepared[index] for index in part])
                try:
                    scores, *maps = self._session.run(self._outputs, {"images": images})
                    np.broadcast_shapes(*(x.shape[:1] for x in (scores, *maps)), (len(part),))
                except Exception as error:  # They have no class in common.
                    reason = str(error).splitlines()[0]
                    raise UserError(f"{self._source}: its graph fails ({reason})") from error
                for position, index in enumerate(part):
                    found[index] = float(scores[position]), maps[0][position] if maps else None
        return found


def _load(path, source):
    if not pathlib.Path(path).is_file():
        raise UserError(f"{source}: there is no such file")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{source}: needs the package onnxruntime; pip install onnxruntime"
        ) from error

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What is wrong is told by us.
    # A worker of --ray says so, as others do; ONNX Runtime itself does not ask.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else machine.cores()
    # Between two batches its threads would wait in a loop, on the cores that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It would keep a plan for each size that an image ever had.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # They have no class in common.
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: no ONNX file, or a damaged one ({reason})") from error
