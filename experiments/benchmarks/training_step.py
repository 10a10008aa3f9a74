"""Times a 3-way training step, ours against PyTorch's, and its parts.

    python experiments/benchmarks/training_step.py [--rounds=5] [--case=64,32] [--no-xla]

A case is an image size and a batch size: by default 64x64 with 96 views and 256x256 with 24. Both
frameworks train a ResNet-18 with the large stem, a linear layer of 128 and three logits by SGD with
momentum and L2, in float32, on the same float32 views in memory. PyTorch uses the channels-last
layout and its fused optimiser. First both take two steps from the same weights; their losses must
agree before and after the update. Our step is also timed with the input pipeline and with views
made in the step, and compiled by XLA.

The convolutions' share is timed apart, in the same rounds: the result of each layer at its own
shapes, and both its gradients at once, as in the step. The share is an upper bound, and may exceed
100%: in a step, other work runs while a convolution leaves a core idle. The gradients of kernels
are also timed alone.

Each framework has its own process, so that they share no threads, and they take turns. The script
prints the processor time that they use while they wait. PyTorch is optional.
"""

import collections
import importlib.util
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np

CLASSES, DIMS = 3, 128
RATE, MOMENTUM, DECAY = 0.03, 0.9, 3e-5
# The parts of convolutions, and the share of a step's operations, nearly, of each.
PARTS = {"results": 1 / 3, "gradients": 2 / 3, "gradients of kernels": 1 / 3}


def made_views(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 views [3 * B, size, size, 3] and their labels, the same in any process."""
    views = np.random.default_rng(0).random((CLASSES * batch, size, size, 3), np.float32)
    return views, np.repeat(np.arange(CLASSES, dtype=np.int32), batch)


def ours(size: int, batch: int, xla: bool) -> Mapping[str, Callable[..., Any]]:
    """Builds our models and returns the worker's methods; seconds are those of one step."""
    import keras
    import tensorflow as tf

    from cutpaste_tf.config import Config
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.train import classifier, views

    def build(**flags):
        flags |= {"learning_rate": RATE, "weight_decay": DECAY}
        flags |= {"image_size": size, "batch_size": batch, "head_dims": (DIMS,)}
        config = Config(dataset="folder", data_dir=".", category="none", **flags)
        return config, classifier.build_classifier(config)

    def stepper(model, data):
        model.make_train_function()
        iterator = iter(data)

        def seconds(steps):
            began = time.perf_counter()
            for _ in range(steps):
                logs = model.train_function(iterator)
            float(logs["loss"])  # the only time that the host waits for a result
            return (time.perf_counter() - began) / steps

        return seconds

    constants = tf.data.Dataset.from_tensors(made_views(size, batch)).repeat()
    config, fed = build(augment="pipeline", jit_compile=False)
    on_constants = stepper(fed, constants)
    stored = np.random.default_rng(0).integers(0, 256, (8 * batch, size, size, 3), np.uint8)
    images = pipeline.of_arrays(stored, size)
    on_device, whole = build(augment="device", jit_compile=False)
    with_views = stepper(whole, views.batches(images, on_device, 0))
    compiled = stepper(build(augment="pipeline", jit_compile=True)[1], constants) if xla else None

    make_views = tf.function(views.StepViews(config))
    one_batch = images.read(tf.range(batch, dtype=tf.int64))

    def views_alone(steps):
        began = time.perf_counter()
        for step in range(steps):
            views, _ = make_views(tf.constant(step), one_batch)
        views[0, 0, 0, 0].numpy()
        return (time.perf_counter() - began) / steps

    layers, counts = {}, collections.Counter()
    for layer in fed.backbone.layers:
        if isinstance(layer, keras.layers.Conv2D):
            shapes = (*layer.input.shape, *layer.kernel.shape, *layer.strides)
            layers.setdefault(shapes, layer)
            counts[shapes] += 1
    timers = [(_timers(layer, CLASSES * batch), counts[key]) for key, layer in layers.items()]

    def in_convolutions(part, steps):
        return sum(count * parts[part](steps) for parts, count in timers)

    square = tf.random.normal([2048, 2048])

    def product(steps):
        began = time.perf_counter()
        for _ in range(steps):
            found = square @ square
        found[0, 0].numpy()
        return (time.perf_counter() - began) / steps

    def save_weights(path):
        parts = [*fed.backbone.layers, *fed.head.layers]
        weights = {v.path: v.numpy() for part in parts for v in part.trainable_variables}
        np.savez(path, **weights)
        return sum(value.size for value in weights.values())

    def losses(steps):
        found = []
        for _ in range(steps):
            fed.reset_metrics()
            found.append(float(fed.train_function(iter(constants))["loss"]))
        return found

    # This model is built for a fixed size, so its operations can be counted.
    work = 3 * CLASSES * batch * common.multiply_adds(fed.backbone)
    methods = {"constants": on_constants, "views": with_views, "xla": compiled}
    methods |= {"views alone": views_alone, "convolutions": in_convolutions, "product": product}
    return methods | {"weights": save_weights, "losses": losses, "work": lambda: work}


def _timers(layer, batch):
    """Returns functions that time the parts of a convolution; images need no gradient."""
    import tensorflow as tf

    x = tf.random.normal([batch, *layer.input.shape[1:]])
    out = tf.random.normal([batch, *layer.output.shape[1:]])

    def gradients(*wanted):
        # TensorFlow does not compute the result, since it is not used.
        with tf.GradientTape() as tape:
            tape.watch(wanted)
            result = layer(x)
        return tape.gradient(result, wanted, out)

    def timer(function):
        function = tf.function(function)
        function()

        def seconds(steps):
            began = time.perf_counter()
            for _ in range(steps):
                found = function()
            found[0][0, 0, 0].numpy()
            return (time.perf_counter() - began) / steps

        return seconds

    kernel = layer.kernel.value
    both = [kernel] if x.shape[-1] == 3 else [kernel, x]
    work = lambda: (layer(x),), lambda: gradients(*both), lambda: gradients(kernel)
    return {part: timer(function) for part, function in zip(PARTS, work, strict=True)}


def compare(size: int, batch: int, steps: int, arguments) -> None:
    """Measures one case and prints it."""
    here = [f"--case={size},{batch}", *(["--no-xla"] if arguments.no_xla else [])]
    torch_found = importlib.util.find_spec("torch") is not None
    with common.Worker("--worker=ours", *here) as us, tempfile.TemporaryDirectory() as folder:
        print(f"\n{size}x{size}, {CLASSES * batch} views a step")
        methods = {
            name: lambda name=name: us.ask(name, steps=steps)
            for name in ("constants", "views", "views alone")
        }
        methods |= {
            part: lambda part=part: us.ask("convolutions", part=part, steps=steps) for part in PARTS
        }
        methods["product"] = lambda: us.ask("product", steps=4)
        if not arguments.no_xla:
            methods["xla"] = lambda: us.ask("xla", steps=1)
        if not torch_found:
            print("PyTorch is not installed: no comparison with it")
            seconds = common.medians(methods, arguments.rounds)
        else:
            with common.Worker("--worker=pytorch", *here) as them:
                path = str(pathlib.Path(folder) / "weights.npz")
                counts = us.ask("weights", path=path), them.ask("load", path=path)
                losses = us.ask("losses", steps=2), them.ask("losses", steps=2)
                difference = np.abs(np.subtract(*losses)) / losses[0]
                print(f"parameters: ours {counts[0]:,}, PyTorch {counts[1]:,}")
                print(
                    f"losses before and after an update: {losses[0][0]:.5f}, {losses[0][1]:.5f}; "
                    f"relative difference {difference[0]:.0e}, {difference[1]:.0e}"
                )
                if counts[0] != counts[1] or difference[0] > 1e-5 or difference[1] > 2e-3:
                    raise SystemExit("the two networks are not the same")
                methods["pytorch"] = lambda: them.ask("constants", steps=steps)
                seconds = common.medians(methods, arguments.rounds)
                waiting = us.cpu_seconds() + them.cpu_seconds()
                time.sleep(2.0)
                waiting = (us.cpu_seconds() + them.cpu_seconds() - waiting) / 2.0
                print(f"both, waiting, use {100 * waiting:.0f}% of a core")
        work = us.ask("work")
    step, whole = seconds["constants"], seconds["views"]
    speed = 2e-9 * work
    print(f"ours, on constants:        {step:7.3f} s, {speed / step:4.0f} GFLOP/s")
    if torch_found:
        took = seconds["pytorch"]
        print(f"PyTorch, on constants:     {took:7.3f} s, {speed / took:4.0f} GFLOP/s")
    print(f"ours, with input and views:{whole:7.3f} s")
    convolutions = seconds["results"] + seconds["gradients"]
    print(
        f"convolutions alone:        {convolutions:7.3f} s, {speed / convolutions:4.0f} GFLOP/s, "
        f"at most {100 * convolutions / step:.0f}% of the step"
    )
    for part, share in PARTS.items():
        rate = share * speed / seconds[part]
        print(f"    {part + ':':23s}{seconds[part]:7.3f} s, {rate:4.0f} GFLOP/s")
    print(f"a 2048x2048 product:                {2e-9 * 2048**3 / seconds['product']:4.0f} GFLOP/s")
    alone = seconds["views alone"]
    print(
        f"views alone:               {alone:7.3f} s, {100 * alone / whole:.1f}% of a step; input "
        f"and views by difference {100 * (whole - step) / whole:.0f}%"
    )
    case = f"{size}x{size}x{CLASSES * batch}"
    if torch_found:
        common.result(f"training step, {case}", step, took, "s a step", "PyTorch, channels last")
    common.result(f"views of a step, {case}", alone, whole, "s a step", "the whole step")
    if "xla" in seconds:
        print(f"ours, compiled by XLA:     {seconds['xla']:7.3f} s")
        common.result(f"XLA, {case}", seconds["xla"], step, "s a step", "ours without XLA")


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--case", action="append", help="SIZE,BATCH; may be repeated")
    parser.add_argument("--no-xla", action="store_true", help="leave out XLA, which compiles long")
    parser.add_argument("--worker", choices=["ours", "pytorch"], help="for the script's own use")
    arguments = parser.parse_args()
    cases = [tuple(map(int, case.split(","))) for case in arguments.case or ("64,32", "256,8")]
    if arguments.worker == "ours":
        common.serve(lambda: ours(*cases[0], not arguments.no_xla))
    elif arguments.worker == "pytorch":
        import resnet18_torch

        settings = {"rate": RATE, "momentum": MOMENTUM, "decay": DECAY, "dims": DIMS}
        common.serve(lambda: resnet18_torch.methods(*made_views(*cases[0]), **settings))
    else:
        print(common.machine("tensorflow", "keras", "torch"))
        for size, batch in cases:
            compare(size, batch, 3, arguments)


if __name__ == "__main__":
    main()
