"""Exports a finished run as one self-contained model.

    python -m cutpaste_tf.export --run=RUNDIR --output=DIR --format=keras|saved_model|onnx|tflite

In: `images`, uint8 [B, H, W, 3], RGB, of any size, the same within a batch; and `threshold`, whose
default is the run's. Out: `score`, float32 [B], the anomaly score; `verdict`, bool [B], whether it
is above the threshold; and of a run that makes anomaly maps `map`, float32 [B, H', W'], at the
run's --image_size, or that of its tiles put together. Resizing, the network and the density are
all in the graph, and no format needs cutpaste_tf to run.

    keras        DIR/model.keras; loads in Keras's safe mode. Its inputs are {"images": images,
                 "threshold": None} for the run's threshold, or float32 [1] or [B] for another.
    saved_model  DIR/saved_model/; signatures serving_default (images) and with_threshold (images
                 and threshold, a scalar).
    onnx         DIR/model.onnx; `threshold`, a scalar, may be left out. Needs the extra onnx. Its
                 metadata have all that `predict --model` takes.
    tflite       DIR/model.tflite; signatures as in saved_model; TensorFlow Lite's own operations.

All formats compute in float32, those of a run with --mixed_precision too. After writing, the file
is loaded and its scores are compared with the run's. In keras and saved_model they are the same; in
the others a pixel may be rounded the other way when an image is resized, which its score shows in
the third digit or after.
"""

import contextlib
import functools
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

from cutpaste_tf import cli, machine, run_folder
from cutpaste_tf.files import UserError, say, scratch
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
# Packages that a format needs besides the core ones, and the extra that has them.
PACKAGES = {"onnx": ("tf2onnx", "onnx", "onnxruntime")}
_EXTRA = "onnx"
_OPSET = 18
_LARGEST = 2**31 - 2**26  # bytes of weights: ONNX's and TensorFlow Lite's files end at 2 GiB
# A larger difference of scores is a fault of the conversion.
_TOLERANCES = {"keras": 1e-4, "saved_model": 1e-4, "onnx": 5e-3, "tflite": 5e-3}


@cli.command(interrupted="interrupted; nothing was written")
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default, and returns the exit status."""
    parser = cli.Parser("export", __doc__)
    parser.add_argument("--run", required=True, help="a finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--output", required=True, help="the folder to write to")
    parser.add_argument("--format", default="keras", help=f"one of {', '.join(FILES)}; keras")
    parser.add_threshold()
    arguments = parser.parse_args(arguments)
    with cli.writing("--output", arguments.output):
        path, difference = export(
            arguments.run,
            arguments.output,
            arguments.format,
            threshold=arguments.threshold,
            false_positive_rate=arguments.false_positive_rate,
            log=say,
        )
    say(f"written to {path}; its scores are the run's within {difference:.1e} (relative)")


def export(
    run_dir: str | os.PathLike,
    output: str | os.PathLike,
    format: str = "keras",
    *,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> tuple[pathlib.Path, float]:
    """Writes a run as one self-contained model, "keras", "saved_model", "onnx" or "tflite".

    A model of the same format in the folder `output` is replaced when all is done; a UserError
    leaves it. A threshold, or the share of normal images above it, takes the place of the run's.
    Returns where the model is, and the largest relative difference of its scores from the run's.
    """
    if format not in FILES:
        raise UserError(f"--format={format}: must be one of {', '.join(FILES)}")
    chosen = run_folder.choose_threshold(run_dir, threshold, false_positive_rate)
    for package in PACKAGES.get(format, ()):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format={format}: needs the package {package}; "
                f'pip install "cutpaste-tf[{_EXTRA}]"'
            )
    from cutpaste_tf.scoring.detector import Detector

    detector = Detector.load(run_dir)
    if format in ("onnx", "tflite"):
        densities = [x for x in (detector.density, detector.map_density) if x is not None]
        arrays = [a for density in densities for a in density.arrays().values()]
        arrays += detector.backbone.get_weights()
        size = sum(array.size for array in arrays) * 4
        if size > _LARGEST:
            raise UserError(
                f"--format={format}: holds at most 2 GiB, and {run_dir} has {size / 2**30:.1f}; "
                "choose keras or saved_model"
            )
    log(f"threshold {chosen}")
    output = pathlib.Path(output)
    target = output / FILES[format]
    ours = target / "saved_model.pb" if format == "saved_model" else target
    if target.exists() and not ours.is_file():
        raise UserError(f"--output={output}: {target} is there and no such model; name another")
    # Beside the target, so that it takes its name at once and whole.
    with scratch(output, ".export-") as temporary:
        written = temporary / FILES[format]
        with _quiet():
            description = _describe(run_dir, detector, chosen) if format == "onnx" else None
            write(detector, chosen.value, written, format, description)
            difference = compare(detector, load(written, format))
        if not difference <= _TOLERANCES[format]:
            raise UserError(
                f"--format={format}: the exported scores are off by {difference:.1e} (relative); "
                "choose another format"
            )
        if target.is_dir():  # The earlier one goes with the temporary folder.
            target.rename(temporary / "earlier")
        written.rename(target)
    return target, difference


def _describe(run_dir, detector, chosen):
    return Description(
        run=f"{detector.config.category}/seed_{detector.config.seed}",
        config=detector.config,
        bits=detector.preparation.bits,
        threshold=chosen,
        normal_scores=run_folder.read_normal_scores(run_dir),
        level=detector.level,
        pixel_threshold=run_folder.read_results(run_dir)["pixel_threshold"],
        roi=detector.preparation.roi,
        versions=machine.versions(),
    )


def write(
    detector: "Detector",
    threshold: float,
    path: str | os.PathLike,
    format: str,
    description: Description | None = None,
) -> None:
    """Writes a detector as one self-contained model; an ONNX file also holds the description."""
    writers = {
        "keras": _write_keras,
        "saved_model": _write_saved_model,
        "onnx": functools.partial(_write_onnx, description=description),
        "tflite": _write_tflite,
    }
    writers[format](detector, threshold, path)


def compare(detector: "Detector", score: Callable[[np.ndarray], dict]) -> float:
    """Returns the largest relative difference of a model's scores from its run's, on made ones."""
    rng = np.random.default_rng(0)
    height, width = detector.preparation.canvas
    height, width = height * 2 - 7, width * 3 // 2 + 5
    # Smooth ones, as photographs are, with some grain.
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
    # Scores that are no distances may be near zero.
    least = 1e-12 if detector.config.scores_are_distances else 1.0
    return float(np.max(np.abs(exported - expected) / np.maximum(np.abs(expected), least)))


def load(path: str | os.PathLike, format: str) -> Callable[..., dict[str, np.ndarray]]:
    """Loads an exported model by its users' library.

    Returns a function of images, uint8 [B, H, W, 3], and a threshold in place of the default; it
    returns the outputs by their names.
    """
    path = str(path)
    if format == "keras":
        import keras

        model = keras.saving.load_model(path)

        def score(images, threshold=None):
            given = None if threshold is None else np.full([1], threshold, np.float32)
            return model.predict_on_batch({"images": images, "threshold": given})

    elif format == "saved_model":
        import tensorflow as tf

        signatures = tf.saved_model.load(path).signatures

        def score(images, threshold=None):
            images = tf.constant(images)
            if threshold is None:
                return signatures["serving_default"](images=images)
            return signatures["with_threshold"](images=images, threshold=tf.constant(threshold))

    elif format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # It warns of the threshold, an input with a default.
        session = onnxruntime.InferenceSession(path, options)
        names = [output.name for output in session.get_outputs()]

        def score(images, threshold=None):
            inputs = {"images": images}
            if threshold is not None:
                inputs["threshold"] = np.array(threshold, np.float32)
            return dict(zip(names, session.run(names, inputs), strict=True))

    else:
        import tensorflow as tf

        interpreter = tf.lite.Interpreter(path, num_threads=os.cpu_count())

        def score(images, threshold=None):
            if threshold is None:
                return interpreter.get_signature_runner("serving_default")(images=images)
            runner = interpreter.get_signature_runner("with_threshold")
            return runner(images=images, threshold=np.array(threshold, np.float32))

    return lambda *arguments: {k: np.asarray(v) for k, v in score(*arguments).items()}


def _write_keras(detector, default, path):
    from cutpaste_tf.scoring import scorer

    model = scorer.build_scorer(detector)
    scorer.with_optional_threshold(model, default).save(path)


def _functions(model, default):
    """A model as two functions, of images alone and of images and a threshold."""
    import tensorflow as tf

    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    threshold = tf.TensorSpec([], tf.float32, name="threshold")

    @tf.function(input_signature=[images, threshold], autograph=False)
    def with_threshold(images, threshold):
        outputs = model(images)
        return {**outputs, "verdict": outputs["score"] > threshold}

    @tf.function(input_signature=[images], autograph=False)
    def serving_default(images):
        return with_threshold(images, tf.constant(default, tf.float32))

    return serving_default, with_threshold


def _write_saved_model(detector, default, path):
    import tensorflow as tf

    from cutpaste_tf.scoring import scorer

    module = tf.Module()
    module.model = scorer.build_scorer(detector)
    module.functions = _functions(module.model, default)
    _save_signatures(module, *module.functions, path)


def _save_signatures(module, serving_default, with_threshold, path):
    import tensorflow as tf

    signatures = {"serving_default": serving_default, "with_threshold": with_threshold}
    # Nobody trains what was exported, and of a frozen graph the gradients cannot be saved.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(path), signatures=signatures, options=options)


def _write_tflite(detector, default, path):
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    from cutpaste_tf.scoring import scorer

    # TensorFlow Lite multiplies no float64 matrices.
    model = scorer.build_scorer(detector, portable=True, precise=False)
    _, with_threshold = _functions(model, default)
    # The converter would leave variables in the file, without their values.
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        with_threshold.get_concrete_function()
    )
    names = sorted([*model.output, "verdict"])
    images, threshold = with_threshold.input_signature

    @tf.function(input_signature=[images, threshold], autograph=False)
    def thresholded(images, threshold):
        return dict(zip(names, frozen(images, threshold), strict=True))

    @tf.function(input_signature=[images], autograph=False)
    def plain(images):
        return thresholded(images, tf.constant(default, tf.float32))

    with tempfile.TemporaryDirectory(dir=pathlib.Path(path).parent) as folder:
        _save_signatures(tf.Module(), plain, thresholded, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default", "with_threshold"]
        )
        pathlib.Path(path).write_bytes(converter.convert())


def _write_onnx(detector, default, path, description):
    import onnx
    import tf2onnx

    from cutpaste_tf.scoring import scorer

    model = scorer.build_scorer(detector, portable=True)
    _, with_threshold = _functions(model, default)
    model, _ = tf2onnx.convert.from_function(
        with_threshold, with_threshold.input_signature, opset=_OPSET
    )
    # An input with an initial value of its name may be left out.
    value = onnx.numpy_helper.from_array(np.array(default, np.float32), "threshold")
    model.graph.initializer.append(value)
    _fold_shapes(model.graph)
    height, width = map(str, detector.preparation.canvas)
    dims = {"images": ["batch", "height", "width"], "map": ["batch", height, width]}
    for tensor in (*model.graph.input, *model.graph.output):
        shape = tensor.type.tensor_type.shape.dim
        for dim, name in zip(shape, dims.get(tensor.name, ["batch"]), strict=False):
            if name.isdigit():
                dim.dim_value = int(name)
            else:
                dim.dim_param = name
    if description is not None:
        model.metadata_props.add(key=KEY, value=description.to_json())
    onnx.save(model, str(path))


def _fold_shapes(graph):
    """Puts numbers in the place of constants that are there for their shape alone.

    The converter leaves a copy of the places' Gaussians, half of the file, to ask it for its shape.
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
    """Keeps the converters' notes off the terminal."""
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
