"""Exports a finished run as one self-contained model.

    python -m cutpaste_tf.export --run=RUNDIR --output=DIR --format=keras|saved_model|onnx|tflite

In: `images`, uint8 [B, H, W, 3], RGB, of any size, the same within a batch; and `threshold`, whose
default is the run's. Out: `score`, float32 [B], the anomaly score; `verdict`, bool [B], whether it
is above the threshold; and of a run that makes anomaly maps `map`, float32 [B, S, S], at the run's
image size. Resizing, the network and the density are all in the graph, and no format needs
cutpaste_tf to run.

    keras        DIR/model.keras; loads in Keras's safe mode. Its inputs are {"images": images,
                 "threshold": None} for the run's threshold, or float32 [1] or [B] for another.
    saved_model  DIR/saved_model/; signatures serving_default (images) and with_threshold (images
                 and threshold, a scalar).
    onnx         DIR/model.onnx; `threshold`, a scalar, may be left out. Needs the extra onnx.
    tflite       DIR/model.tflite; signatures as in saved_model; TensorFlow Lite's own operations.

All formats compute in float32, those of a run with --mixed_precision too. After writing, the file
is loaded and its scores are compared with the run's. In keras and saved_model they are the same; in
the others a pixel may be rounded the other way when an image is resized, which its score shows in
the third digit or after.
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

from cutpaste_tf import threshold as thresholds
from cutpaste_tf.config import GAUSSIANS
from cutpaste_tf.errors import Parser, UserError
from cutpaste_tf.predict import add_threshold

if TYPE_CHECKING:
    import keras

    from cutpaste_tf.evaluate import Detector

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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0, or 2 for a mistake of the user's, told in one line on stderr.
    """
    parser = Parser(prog="python -m cutpaste_tf.export", description=__doc__)
    parser.add_argument("--run", required=True, help="a finished run: WORKDIR/CATEGORY/seed_N")
    parser.add_argument("--output", required=True, help="the folder to write to")
    parser.add_argument("--format", default="keras", help=f"one of {', '.join(FILES)}; keras")
    add_threshold(parser)
    try:
        arguments = parser.parse_args((sys.argv if argv is None else argv)[1:])
        path, difference = export(
            arguments.run,
            arguments.output,
            arguments.format,
            threshold=arguments.threshold,
            false_positive_rate=arguments.false_positive_rate,
            log=lambda text: print(text, flush=True),
        )
        print(f"written to {path}; its scores are the run's within {difference:.1e} (relative)")
        return 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as by `| head`; the first line comes before anything is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = error.strerror or error
        print(f"error: --output={arguments.output}: cannot be written ({reason})", file=sys.stderr)
    return 2


def export(
    run_dir: str | os.PathLike,
    output: str | os.PathLike,
    format: str = "keras",
    *,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> tuple[pathlib.Path, float]:
    """Writes a run as one self-contained model, and checks what was written.

    Args:
      run_dir: the folder of a finished run.
      output: the folder to write to; a model of the same format there is replaced when all is done.
      format: "keras", "saved_model", "onnx" or "tflite".
      threshold: the default of the model's threshold, in place of the run's.
      false_positive_rate: likewise, as the share of normal images above it.
      log: takes lines of text.

    Returns:
      Where the model is, and the largest relative difference of its scores from the run's on a few
      made images.

    Raises:
      UserError: for what the user can mend; nothing is written then.
    """
    if format not in FILES:
        raise UserError(f"--format={format}: must be one of {', '.join(FILES)}")
    chosen = thresholds.of_run(run_dir, threshold, false_positive_rate)
    for package in PACKAGES.get(format, ()):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format={format}: needs the package {package}; "
                f'pip install "cutpaste-tf[{_EXTRA}]"'
            )
    from cutpaste_tf.main import prepare_libraries

    prepare_libraries()
    from cutpaste_tf.evaluate import Detector

    detector = in_float32(Detector.load(run_dir))
    if format in ("onnx", "tflite"):
        arrays = [*detector.backbone.get_weights(), *detector.density.arrays().values()]
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
    output.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it takes its name at once and whole.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output) as temporary:
        written = pathlib.Path(temporary) / FILES[format]
        with _quiet():
            write(detector, chosen.value, written, format)
            difference = compare(detector, load(written, format))
        if not difference <= _TOLERANCES[format]:
            raise UserError(
                f"--format={format}: the exported scores are off by {difference:.1e} (relative); "
                "choose another format"
            )
        if target.is_dir():  # The earlier one goes with the temporary folder.
            target.rename(pathlib.Path(temporary) / "earlier")
        written.rename(target)
    return target, difference


def write(detector: "Detector", threshold: float, path: str | os.PathLike, format: str) -> None:
    """Writes a detector as one self-contained model.

    Args:
      detector: the run.
      threshold: the default of the model's threshold.
      path: the file or folder to write.
      format: as in `export`.
    """
    writers = {
        "keras": _write_keras,
        "saved_model": _write_saved_model,
        "onnx": _write_onnx,
        "tflite": _write_tflite,
    }
    writers[format](detector, threshold, path)


def compare(detector: "Detector", scorer: Callable[[np.ndarray], dict]) -> float:
    """Compares an exported model's scores with its run's.

    Args:
      detector: the run.
      scorer: the exported model, as `load` returns it.

    Returns:
      The largest relative difference, on a batch of four made images.
    """
    rng = np.random.default_rng(0)
    height, width = detector.config.image_size * 2 - 7, detector.config.image_size * 3 // 2 + 5
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
    found = np.asarray(scorer(images)["score"], np.float64)
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1e-12)))


def load(path: str | os.PathLike, format: str) -> Callable[..., dict[str, np.ndarray]]:
    """Loads an exported model, by the library that its users take.

    Args:
      path: the file or folder.
      format: as in `export`.

    Returns:
      A function of images, uint8 [B, H, W, 3], and, if it is to be another than the default, the
      threshold; it returns the outputs by their names.
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


def scorer(detector: "Detector", *, portable: bool = False, precise: bool = True) -> "keras.Model":
    """Builds the whole of scoring as one Keras model, of Keras's own layers and operations alone.

    Args:
      detector: the run.
      portable: whether to use only what other formats than TensorFlow's have too.
      precise: whether the density is computed in float64, as the run does; else in float32.

    Returns:
      A model from images, uint8 [B, H, W, 3], to a dict of `score`, float32 [B], and, where the run
      makes maps, `map`, float32 [B, S, S].
    """
    import keras
    from keras import ops

    from cutpaste_tf.models.plain import as_keras

    # Who loads the file has no layers of this package.
    config, backbone = detector.config, as_keras(detector.backbone)
    images = keras.Input([None, None, 3], dtype="uint8", name="images")
    pixels = _resized(images, config.image_size, portable)
    if config.patch_size:
        score, anomaly_map = _score_patches(detector, backbone, pixels, precise)
    elif config.gradcam:
        maps = keras.Model(backbone.input, backbone.get_layer(config.features).input)(pixels)
        maps = ops.cast(maps, "float32")
        pooled = ops.mean(maps, axis=(1, 2))
        score, gradient = _mahalanobis(detector.density, pooled, precise, gradient=True)
        places = maps.shape[1] * maps.shape[2]
        weights = ops.reshape(gradient / places, (-1, 1, 1, maps.shape[3]))
        explained = ops.relu(ops.sum(weights * maps, axis=-1))
        anomaly_map = _enlarged(
            explained, *(_bilinear(n, config.image_size) for n in maps.shape[1:3])
        )
    else:
        features, anomaly_map = backbone(pixels)[config.features], None
        kinds = {"kde": _kernel_density, **dict.fromkeys(GAUSSIANS, _mahalanobis)}
        score_by = kinds.get(config.main_density, _mixture)
        score = score_by(detector.density, features, precise)
    outputs = {"score": ops.cast(score, "float32")}
    if anomaly_map is not None:
        outputs["map"] = anomaly_map
    return keras.Model(images, outputs, name="scorer")


def with_optional_threshold(model: "keras.Model", default: float) -> "keras.Model":
    """Adds a threshold to what `scorer` returned, and the verdict.

    Args:
      model: from `scorer`.
      default: the threshold where None is given.

    Returns:
      A model from `images` and `threshold`, float32 [1] or [B] or None, to `score`, `verdict` and,
      if there is one, `map`.
    """
    import keras
    from keras import ops

    images = model.input
    threshold = keras.Input(batch_shape=[None], dtype="float32", name="threshold", optional=True)
    score = model.output["score"]

    # What is built of Keras's layers and operations loads anywhere, but few of them take None. This
    # one computes x * scale + offset, and x alone where both are None: 0 becomes the threshold or
    # stays 0, and -1 becomes 0 or stays -1.
    def given(x):
        x, zeros, ones = ops.full_like(score, x), ops.zeros_like(score), ops.ones_like(score)
        return ops.batch_normalization(x, zeros, ones, -1, threshold, threshold, epsilon=0.0)

    absent = given(-1.0) < -0.5
    used = ops.where(absent, ops.full_like(score, float(np.float32(default))), given(0.0))
    outputs = {**model.output, "verdict": ops.greater(score, used)}
    return keras.Model({"images": images, "threshold": threshold}, outputs, name="detector")


def in_float32(detector: "Detector") -> "Detector":
    """Returns a detector as it is, or, if it computes in float16, with the same weights in float32.

    Args:
      detector: the run.

    Returns:
      The detector.
    """
    if not detector.config.mixed_precision:
        return detector
    from cutpaste_tf import evaluate, train

    config = dataclasses.replace(detector.config, mixed_precision=False)
    train.set_precision(config)
    backbone = train.build_backbone(config, initial_weights=False)
    backbone.set_weights(detector.backbone.get_weights())
    return evaluate.Detector(config, backbone, detector.density)


def _resized(images, size, portable):
    """`pipeline.resize` and scaling to [0, 1], for images of any size."""
    from keras import ops

    x = ops.cast(images, "float32")
    if portable:
        x = ops.transpose(x, (0, 3, 1, 2))
        ones = ops.ones_like(x[:1, 0])
        x = ops.matmul(_antialiasing(ones[:, :, 0], size), x)
        x = ops.matmul(x, ops.transpose(_antialiasing(ones[:, 0], size)))
        x = ops.reshape(ops.transpose(x, (0, 2, 3, 1)), (-1, size, size, 3))
    else:
        x = ops.image.resize(x, (size, size), antialias=True)
    return ops.clip(ops.round(x), 0.0, 255.0) / 255.0


def _antialiasing(ones, size):
    """tf.image.resize's weights along one axis as a matrix, [size, n].

    Args:
      ones: n of them, float32 [1, n]: nothing else in the graph knows the number of pixels.
      size: the wanted number of pixels.
    """
    from keras import ops

    # The kernel is a triangle, as wide as the pixels of the smaller of both images.
    scale = ops.sum(ones, axis=1, keepdims=True) / size
    centers = ops.multiply(scale, np.arange(size, dtype=np.float32)[:, None] + 0.5)
    distances = ops.abs(ops.cumsum(ones, axis=1) - 0.5 - centers) / ops.maximum(scale, 1.0)
    weights = ops.relu(1.0 - distances)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _constant(matrix, name, dtype="float32"):
    """A layer that multiplies by a matrix, [n, m], kept among the model's weights."""
    import keras

    layer = keras.layers.Dense(
        matrix.shape[1], use_bias=False, trainable=False, dtype=dtype, name=name
    )
    layer.build([None, matrix.shape[0]])
    layer.set_weights([matrix])
    return layer


def _centered(features, mean, dtype, name="center"):
    """Subtracts a mean, [n], from features, [B, n]; it is kept among the model's weights."""
    import keras
    from keras import ops

    layer = keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=0.0, trainable=False, dtype=dtype, name=name
    )
    layer.build([None, len(mean)])
    layer.set_weights([mean, np.ones_like(mean)])
    return layer(ops.cast(features, dtype), training=False)


def _mahalanobis(density, features, precise, gradient=False):
    """A Gaussian's distances, [B], and, if asked for, their gradient, float32 [B, D]."""
    from keras import ops

    dtype = "float64" if precise else "float32"
    # The distance is the length of a vector: less is lost than where squares are subtracted.
    values, vectors = np.linalg.eigh((density.precision + density.precision.T) / 2.0)
    whitener = vectors * np.sqrt(np.maximum(values, 0.0))
    centred = _centered(features, density.mean, dtype)
    white = _constant(whitener, "whiten", dtype)(centred)
    distance = ops.sqrt(ops.sum(ops.square(white), axis=-1))
    if not gradient:
        return distance
    direction = white / ops.maximum(ops.expand_dims(distance, -1), 1e-6)
    return distance, ops.cast(_constant(whitener.T, "gradient", dtype)(direction), "float32")


def _kernel_density(density, features, precise):
    """Negative log-densities, [B]."""
    from keras import ops

    dtype = "float64" if precise else "float32"
    count, dims = density.features.shape
    inverse = density.bandwidth**-2
    x = ops.cast(features, dtype)
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    x = x / ops.maximum(ops.sqrt(square), 1e-12)
    products = _constant(density.features.T * inverse, "kernels", dtype)(x)
    # -|x - y|^2 / 2h^2 with both of length one.
    log_sum = ops.logsumexp(products, axis=-1) - inverse
    normaliser = np.log(count) + dims * (np.log(density.bandwidth) + 0.5 * np.log(2.0 * np.pi))
    return float(normaliser) - log_sum


def _mixture(density, features, precise):
    """Negative log-densities, [B]."""
    from keras import ops

    dtype = "float64" if precise else "float32"
    logs = []
    for number, constant in enumerate(density.constants):
        centred = _centered(features, density.mean[number], dtype, f"center_{number}")
        white = _constant(density.whitener[number], f"whiten_{number}", dtype)(centred)
        logs.append(float(constant) - 0.5 * ops.sum(ops.square(white), axis=-1))
    return -ops.logsumexp(ops.stack(logs, axis=-1), axis=-1)


def _score_patches(detector, backbone, pixels, precise):
    """The largest patch's distances, [B], and anomaly maps, float32 [B, S, S]."""
    import keras
    from keras import ops

    from cutpaste_tf.localize import dense, patch

    config, density = detector.config, detector.density
    size, side, stride = config.image_size, config.dense_patch, config.dense_stride
    count, dims = dense.locations(size, side, stride), density.shape[1]
    at = (np.arange(count)[:, None] * stride + np.arange(side)).ravel().astype(np.int32)
    x = ops.take(ops.take(pixels, at, axis=1), at, axis=2)
    x = ops.transpose(ops.reshape(x, (-1, count, side, count, side, 3)), (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, side, side, 3))
    features = backbone(x)["pool"]
    dtype = "float64" if precise else "float32"
    if len(density.mean) == 1:
        centred = _centered(features, density.mean[0], dtype)
        white = _constant(density.whitener[0].T, "whiten", dtype)(centred)
    else:
        features = ops.reshape(features, (-1, count * count * dims))
        centred = ops.cast(_centered(features, density.mean.ravel(), dtype), "float32")
        # Locations first: a batch of products of matrices, which every format has.
        centred = ops.transpose(ops.reshape(centred, (-1, count * count, dims)), (1, 0, 2))
        whiten = keras.layers.EinsumDense(
            "lbd,lde->lbe", [None, dims], trainable=False, dtype="float32", name="whiten"
        )
        whiten.build([count * count, None, dims])
        whiten.set_weights([density.whitener.transpose(0, 2, 1)])
        white = ops.transpose(whiten(centred), (1, 0, 2))
    white = ops.reshape(white, (-1, count * count, dims))
    distances = ops.cast(ops.sqrt(ops.sum(ops.square(white), axis=-1)), "float32")
    level = float(np.mean(density.level))
    spread = patch.spread(size, side, stride).T
    grid = ops.reshape(distances, (-1, count, count))
    return ops.max(distances, axis=-1), _enlarged(grid - level, spread, spread) + level


def _enlarged(maps, rows, columns):
    """Multiplies maps, [B, h, w], by [h, S] from one side and [w, S] from the other."""
    from keras import ops

    # As matrices: products of anything else become a dozen operations in TensorFlow Lite.
    (height, size), width = rows.shape, len(columns)
    maps = _constant(columns, "columns")(ops.reshape(maps, (-1, width)))
    maps = ops.transpose(ops.reshape(maps, (-1, height, size)), (0, 2, 1))
    maps = _constant(rows, "rows")(ops.reshape(maps, (-1, height)))
    return ops.transpose(ops.reshape(maps, (-1, size, size)), (0, 2, 1))


def _bilinear(count, size):
    """tf.image.resize's weights from `count` to more pixels: [count, size]."""
    at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0.0, count - 1.0)
    return np.maximum(1.0 - np.abs(np.arange(count)[:, None] - at), 0.0)


def _write_keras(detector, default, path):
    with_optional_threshold(scorer(detector), default).save(path)


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

    module = tf.Module()
    module.model = scorer(detector)
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

    model = scorer(
        detector, portable=True, precise=False
    )  # TensorFlow Lite multiplies no float64 matrices.
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

    with tempfile.TemporaryDirectory() as folder:
        _save_signatures(tf.Module(), plain, thresholded, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default", "with_threshold"]
        )
        pathlib.Path(path).write_bytes(converter.convert())


def _write_onnx(detector, default, path):
    import onnx
    import tf2onnx

    _, with_threshold = _functions(scorer(detector, portable=True), default)
    model, _ = tf2onnx.convert.from_function(
        with_threshold, with_threshold.input_signature, opset=_OPSET
    )
    # An input with an initial value of its name may be left out.
    value = onnx.numpy_helper.from_array(np.array(default, np.float32), "threshold")
    model.graph.initializer.append(value)
    size = str(detector.config.image_size)
    dims = {"images": ["batch", "height", "width"], "map": ["batch", size, size]}
    for tensor in (*model.graph.input, *model.graph.output):
        shape = tensor.type.tensor_type.shape.dim
        for dim, name in zip(shape, dims.get(tensor.name, ["batch"]), strict=False):
            if name.isdigit():
                dim.dim_value = int(name)
            else:
                dim.dim_param = name
    onnx.save(model, str(path))


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
