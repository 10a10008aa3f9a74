"""Measures the rate of scoring by a detector and by its exports, against plain `model.predict`.

    python experiments/benchmarks/scoring.py [--rounds=5] [--size=256] [--width=1]

Images have the network's size, and are uint8 in memory, in batches. TensorFlow uses the device that
it finds; ONNX Runtime and TensorFlow Lite use a thread for each core. The baseline is the
backbone's `model.predict` on float images, in a loop over the same batches, without density or
score. The weights are random, which does not change the time. A format whose packages are not
installed is left out; onnx needs the extra of that name.

Each variant scores all images once to warm up and then `--rounds` times, in turn, so that a machine
that slows down slows all of them. The medians are printed, as images a second and as ratios to the
baseline.
"""

import functools
import pathlib
import tempfile

import common
import numpy as np


def main() -> None:
    """Prints each variant's images a second, and its ratio to the baseline."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--width", type=float, default=1.0, help="factor of ResNet-18's channels")
    parser.add_argument("--batch_size", type=int, default=16, help="images in a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches in a measurement")
    arguments = parser.parse_args()

    import tensorflow as tf

    from cutpaste_tf import export, machine
    from cutpaste_tf.config import Config
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.models.backbone import build_backbone
    from cutpaste_tf.scoring import density as densities
    from cutpaste_tf.scoring.detector import Detector
    from cutpaste_tf.scoring.scorer import Fit

    config = Config(
        dataset="folder",
        data_dir=".",
        category="none",
        image_size=arguments.size,
        width=arguments.width,
    )
    backbone = build_backbone(config)
    rng = np.random.default_rng(0)
    dimensions = backbone.output["pool"].shape[-1]
    density = densities.fit("gde", rng.normal(size=[300, dimensions]))
    detector = Detector(config, backbone, Fit(density))
    count = arguments.batch_size * arguments.batches
    images = rng.integers(0, 256, [count, arguments.size, arguments.size, 3], np.uint8)
    batches = np.split(images, arguments.batches)
    floats = [batch.astype(np.float32) / 255.0 for batch in batches]

    def predict():
        for batch in floats:
            backbone.predict(batch, verbose=0)

    def score():
        for batch in batches:
            stored = tf.constant(batch[:, None])
            detector.evaluate(pipeline.Images(len(batch), detector.preparation, stored))

    def exported(function):
        for batch in batches:
            function(batch)

    variants = {"model.predict (features alone)": predict, "the run (Detector)": score}
    with tempfile.TemporaryDirectory() as folder:
        for format, name in export.FILES.items():
            path = pathlib.Path(folder) / name
            try:
                with export._quiet():
                    export.write(detector, 1.0, path, format)
                    function = export.load(path, format)
            except ImportError as error:
                print(f"exported, {format}: left out ({error})")
                continue
            variants[f"exported, {format}"] = functools.partial(exported, function)
        timers = {name: common.timed(run) for name, run in variants.items()}
        seconds = common.medians(timers, arguments.rounds)
    print(common.machine("tensorflow", "keras", "onnxruntime", "ai-edge-litert"))
    print(
        f"{arguments.size}x{arguments.size}, ResNet-18 at width {arguments.width:g}, batches of "
        f"{arguments.batch_size}, on {machine.device()}"
    )
    baseline, *names = seconds
    rates = {name: count / median for name, median in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:32s} {rate:7.1f} images a second  {rate / rates[baseline]:5.2f}")
    for name in names:
        title = f"scoring, {name}, width {arguments.width:g}"
        common.result(title, rates[name], rates[baseline], "images/s", baseline)


if __name__ == "__main__":
    main()
