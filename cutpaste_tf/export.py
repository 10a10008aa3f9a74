"""Exports a finished run as one self-contained model.

    python -m cutpaste_tf.export --run=RUNDIR --output=DIR --format=keras|saved_model|onnx|tflite

Input: `images`, uint8 [B, H, W, 3], RGB. Images may have any size; all images of a batch have the
same size. Output: `score`, float32 [B], the anomaly score; `verdict`, bool [B], whether the score
is above the threshold; and, if the run makes anomaly maps, `map`, float32 [B, H', W'], at the run's
--image_size, or with --tiles at the size of all tiles together. The model contains resizing, the
network, the density and the threshold, and runs without cutpaste_tf.

    keras        DIR/model.keras; Keras loads it in safe mode.
    saved_model  DIR/saved_model/; its signature is serving_default.
    onnx         DIR/model.onnx; needs the extra onnx; `predict --model` reads it.
    tflite       DIR/model.tflite; uses only operations of TensorFlow Lite.

The network computes in float32, also after a training with --mixed_precision. After writing, the
command loads the file and compares its scores with the run's. With keras and saved_model the scores
agree to six digits. With onnx and tflite they may differ from the third digit on, as resizing
rounds some pixels differently.
"""

import contextlib
import dataclasses
import importlib
import io
import logging
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutpaste_tf import cli, run_folder
from cutpaste_tf.files import UserError, say
from cutpaste_tf.predict.exported import KEY, Description

if TYPE_CHECKING:
    from cutpaste_tf.scoring.detector import Detector

# Nothing here imports TensorFlow before the command line is checked.

FILES = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "tflite": "model.tflite",
}
# Packages that a format needs in addition, and the extra that installs them.
PACKAGES = {"onnx": ("tf2onnx", "onnx", "onnxruntime")}
_OPSET = 18
_LARGEST = 2**31 - 2**26  # bytes of weights: ONNX and TensorFlow Lite files hold at most 2 GiB
# The largest relative difference of scores that rounding explains.
_TOLERANCES = {"keras": 1e-4, "saved_model": 1e-4, "onnx": 5e-3, "tflite": 5e-3}


@cli.command(interrupted="interrupted; nothing was written")
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    parser = cli.Parser("export", __doc__)
    parser.add_argument("--run", required=True, help="a finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--output", required=True, help="the folder to write to")
    parser.add_argument(
        "--format", default="keras", help=f"one of {', '.join(FILES)}; default keras"
    )
    parser.add_threshold()
    given = parser.parse_args(arguments)
    limit = {"threshold": given.threshold, "false_positive_rate": given.false_positive_rate}
    with cli.writing("--output", given.output):
        path, difference = export(given.run, given.output, given.format, **limit, log=say)
    say(f"written to {path}; its scores differ from the run's by {difference:.1e} (relative)")


def export(
    run_dir: str | os.PathLike,
    output: str | os.PathLike,
    format: str = "keras",
    *,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> tuple[pathlib.Path, float]:
    """Exports a finished run as one self-contained model.

    Args:
      run_dir: the run's folder.
      output: the folder to write to. A model of the same format there is replaced at the end.
      format: "keras", "saved_model", "onnx" or "tflite".
      threshold: replaces the run's threshold.
      false_positive_rate: replaces the run's threshold by the one that this share of normal images,
        in (0, 1), is above.
      log: takes a line of text.

    Returns:
      The model's path, and the largest relative difference of its scores from the run's.

    Raises:
      UserError: if the run cannot be exported in this format; an earlier model stays.
    """
    if format not in FILES:
        raise UserError(f"--format={format}: must be one of {', '.join(FILES)}")
    limit = run_folder.choose_threshold(run_dir, threshold, false_positive_rate)
    for package in PACKAGES.get(format, ()):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format={format}: needs the package {package}; "
                f'pip install "cutpaste-tf[{format}]"'
            )
    from cutpaste_tf.scoring.detector import Detector

    detector = Detector.load(run_dir)
    if format in ("onnx", "tflite"):
        arrays = [*detector.fit.arrays().values(), *detector.network.get_weights()]
        size = sum(array.size for array in arrays) * 4
        if size > _LARGEST:
            raise UserError(
                f"--format={format}: holds at most 2 GiB, and {run_dir} has {size / 2**30:.1f}; "
                "choose keras or saved_model"
            )
    log(f"threshold {limit}")
    output = pathlib.Path(output)
    target = output / FILES[format]
    ours = target / "saved_model.pb" if format == "saved_model" else target
    if target.exists() and not ours.is_file():
        raise UserError(f"--output={output}: {target} is not an exported model; name another")
    output.mkdir(parents=True, exist_ok=True)
    # In the same folder as the target, so that a rename puts the whole model in place.
    with tempfile.TemporaryDirectory(dir=output, prefix=".export-") as temporary:
        written = pathlib.Path(temporary) / FILES[format]
        with _quiet():
            description = _describe(run_dir, detector, limit) if format == "onnx" else None
            write(detector, limit.value, written, format, description)
            difference = compare(detector, load(written, format))
        if not difference <= _TOLERANCES[format]:
            raise UserError(
                f"--format={format}: the exported scores are wrong by {difference:.1e} (relative); "
                "choose another format"
            )
        if target.is_dir():  # The earlier model is removed with the temporary folder.
            target.rename(written.with_name("earlier"))
        written.rename(target)
    return target, difference


def _describe(run_dir, detector, limit):
    results = run_folder.read_results(run_dir)
    return Description(
        config=dataclasses.replace(detector.config, threshold_rule=results["threshold_rule"]),
        bits=detector.preparation.bits,
        threshold=limit,
        normal_scores=run_folder.read_normal_scores(run_dir),
        level=detector.level,
        pixel_threshold=results["pixel_threshold"],
    )


def write(
    detector: "Detector",
    threshold: float,
    path: str | os.PathLike,
    format: str,
    description: Description | None = None,
) -> None:
    """Writes a detector as one self-contained model; an ONNX file also gets the description."""
    import keras
    from keras import ops

    portable = format in ("onnx", "tflite")
    # TensorFlow Lite cannot multiply float64 matrices.
    model = detector.model(portable=portable, precise=format != "tflite")
    verdict = ops.greater(model.output["score"], float(np.float32(threshold)))
    model = keras.Model(model.input, {**model.output, "verdict": verdict}, name="detector")
    if format == "keras":
        model.save(path)
    elif format == "saved_model":
        model.export(path, format="tf_saved_model", verbose=False)
    elif format == "tflite":
        _write_tflite(model, path)
    else:
        _write_onnx(model, path, detector.preparation.canvas, description)


def _write_tflite(model, path):
    import tensorflow as tf

    own = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(path, format="litert", verbose=False, target_spec=own)


def _write_onnx(model, path, canvas, description):
    import onnx
    import tensorflow as tf

    images = [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")]
    model.export(path, format="onnx", verbose=False, input_signature=images, opset_version=_OPSET)
    written = onnx.load(path)
    _fold_shapes(written.graph)
    height, width = canvas
    dims = {"images": ["batch", "height", "width"], "map": ["batch", height, width]}
    for tensor in (*written.graph.input, *written.graph.output):
        shape = tensor.type.tensor_type.shape.dim
        for dim, name in zip(shape, dims.get(tensor.name, ["batch"]), strict=False):
            if isinstance(name, int):
                dim.dim_value = name
            else:
                dim.dim_param = name
    if description is not None:
        written.metadata_props.add(key=KEY, value=description.to_json())
    onnx.save(written, path)


def compare(detector: "Detector", score: Callable[[np.ndarray], dict]) -> float:
    """Returns the largest relative difference of a model's scores from its run's.

    The images are synthetic: smooth like photographs, with some grain.
    """
    rng = np.random.default_rng(0)
    height, width = detector.preparation.canvas
    height, width = height * 2 - 7, width * 3 // 2 + 5
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    images = []
    for _ in range(4):
        period, angle = rng.uniform(8.0, 40.0), rng.uniform(0.0, np.pi)
        waves = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) * 2.0 * np.pi / period)
        color = rng.uniform(60.0, 190.0, 3) + 40.0 * waves[..., None]
        images.append(np.clip(color + rng.normal(0.0, 8.0, color.shape), 0.0, 255.0))
    images = np.stack(images).astype(np.uint8)
    expected = detector.score(list(images))
    exported = np.asarray(score(images)["score"], np.float64)
    # Scores that are not distances may be near zero.
    least = 1e-12 if detector.config.scores_are_distances else 1.0
    return float(np.max(np.abs(exported - expected) / np.maximum(np.abs(expected), least)))


def load(path: str | os.PathLike, format: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads an exported model with the library of its format.

    Returns a function from images, uint8 [B, H, W, 3], to the outputs by name.
    """
    path = str(path)
    if format == "keras":
        import keras

        score = keras.saving.load_model(path).predict_on_batch
    elif format == "saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(path)  # Its functions need it to stay alive.

        def score(images):
            return loaded.signatures["serving_default"](images=tf.constant(images))

    elif format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]

        def score(images):
            return dict(zip(names, session.run(names, {"images": images}), strict=True))

    else:
        import tensorflow as tf

        interpreter = tf.lite.Interpreter(path, num_threads=os.cpu_count())
        score = interpreter.get_signature_runner("serving_default")
        return lambda images: dict(score(images=images))

    return lambda images: {name: np.asarray(x) for name, x in score(images).items()}


def _fold_shapes(graph):
    """Replaces constants of which the graph uses only the shape.

    The converter keeps a copy of the Gaussians of all places, half of the file, for its shape.
    """
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Shape" and not node.attribute]:
        if node.input[0] in constants:
            shape = np.array(constants[node.input[0]].dims, np.int64)
            graph.initializer.append(numpy_helper.from_array(shape, node.output[0]))
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the messages of the converters off the terminal."""
    levels = {name: logging.getLogger(name).level for name in ("tf2onnx", "tensorflow", "absl")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
