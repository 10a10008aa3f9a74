"""Scoring throughput of a detector and of its exports, against plain `model.predict`.

    python experiments/benchmarks/scoring.py [--size=256] [--width=1] [--batch_size=16]

Images of the detector's own size, uint8 in memory, in batches, on what TensorFlow finds; ONNX
Runtime and TensorFlow Lite on as many threads as there are cores. The baseline is the backbone's
`model.predict` alone on float images, in a loop over the same batches: no density, no score. The
weights are random, which changes nothing here. Needs the extra onnx.

Every variant scores all images once to warm up and then `--repeats` times, in turn, so that a
machine that slows down slows all of them; the median is printed, as images a second and as a ratio
to the baseline.
"""

import argparse
import functools
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import cutpaste_tf  # noqa: F401 - before TensorFlow


def main() -> None:
    """Prints images a second of each variant, and its ratio to the baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--width", type=float, default=1.0, help="of ResNet-18's channels")
    parser.add_argument("--batch_size", type=int, default=16, help="images a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each variant")
    arguments = parser.parse_args()

    import tensorflow as tf

    from cutpaste_tf import density as densities
    from cutpaste_tf import evaluate, export, train
    from cutpaste_tf.config import Config
    from cutpaste_tf.data import pipeline

    config = Config(
        dataset="folder",
        data_dir=".",
        category="none",
        image_size=arguments.size,
        width=arguments.width,
    )
    backbone = train.build(config).backbone
    rng = np.random.default_rng(0)
    dimensions = backbone.output["pool"].shape[-1]
    density = densities.make("gde").fit(rng.normal(size=[300, dimensions]))
    detector = evaluate.Detector(config, backbone, density)
    count = arguments.batch_size * arguments.batches
    images = rng.integers(0, 256, [count, arguments.size, arguments.size, 3], np.uint8)
    batches = np.split(images, arguments.batches)
    floats = [batch.astype(np.float32) / 255.0 for batch in batches]

    def predict():
        for batch in floats:
            backbone.predict(batch, verbose=0)

    def score():
        for batch in batches:
            stored = tf.constant(batch)
            detector.evaluate(pipeline.Images(len(batch), arguments.size, stored, None))

    def exported(function):
        for batch in batches:
            function(batch)

    variants = {"model.predict (features alone)": predict, "the run (Detector)": score}
    with tempfile.TemporaryDirectory() as folder:
        for format, name in export.FILES.items():
            path = pathlib.Path(folder) / name
            with export._quiet():
                export.write(detector, 1.0, path, format)
                function = export.load(path, format)
            variants[f"exported, {format}"] = functools.partial(exported, function)
        seconds = {name: [] for name in variants}
        for repeat in range(arguments.repeats + 1):
            for name, run in variants.items():
                began = time.perf_counter()
                run()
                if repeat:  # the first is for tracing and warming up
                    seconds[name].append(time.perf_counter() - began)
    print(
        f"{arguments.size}x{arguments.size}, ResNet-18 at width {arguments.width:g}, batches of "
        f"{arguments.batch_size}, on {evaluate.device()}"
    )
    baseline = statistics.median(next(iter(seconds.values())))
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:32s} {count / median:7.1f} images a second  {baseline / median:5.2f}")


if __name__ == "__main__":
    main()
