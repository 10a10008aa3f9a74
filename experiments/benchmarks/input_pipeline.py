"""Measures the training input without the model: steps, images and epochs a second.

    python experiments/benchmarks/input_pipeline.py [--rounds=5] [--image_size=256]

The script takes what Keras's `fit` would take: batches of 32 images with --augment=device, and
their 96 views, made on the host, with --augment=pipeline. The baselines read png files anew at each
step. The baseline of --augment=device is a tf.data pipeline that decodes and resizes them in
parallel; that of --augment=pipeline makes our views from its images. Rounds alternate; the medians
are printed.

How many steps a GPU needs is estimated from published training throughputs, scaled by pixels. The
goal is five times that. The host of a GPU usually has more cores than this machine.
"""

import dataclasses
import time

import common
import numpy as np

BATCH, CLASSES = 32, 3
SOURCES = 64  # files
SOURCE_SIZE = 1024  # pixels; MVTec AD's images are 700 to 1,024 high and wide
MARGIN = 5.0
# Images/s of ResNet-18 in PyTorch, channels last, mixed precision, 224x224, batches of 512, on one
# RTX 3090: huggingface/pytorch-image-models,
# results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv. Its ResNet-50 trained 1,218.01 images/s.
RTX_3090 = 3481.78
# ResNet-50 in PyTorch, mixed precision, on one A100 of 80 GB: NVIDIA/DeepLearningExamples,
# PyTorch/Classification/ConvNets/resnet50v1.5/README.md. ResNet-18 is assumed to gain as much over
# the RTX 3090 as ResNet-50.
A100 = RTX_3090 * 2470.0 / 1218.01


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument(
        "--steps", type=int, default=64, help="steps in a measurement, more or fewer by the method"
    )
    arguments = parser.parse_args()
    with common.image_folder(SOURCES, SOURCE_SIZE) as folder:
        compare(folder, arguments)


def compare(folder, arguments) -> None:
    """Measures the pipelines on a folder of images."""
    import tensorflow as tf

    from cutpaste_tf.config import EPOCH_STEPS, Config
    from cutpaste_tf.data import folder as folders
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.train import views

    size = arguments.image_size
    config = Config(dataset="folder", data_dir=str(folder), category="made", image_size=size)
    config = dataclasses.replace(config, batch_size=BATCH)
    split = folders.load(config.data_dir, config.category).train
    # As many as a category of MVTec AD has; the stored images are what the training reads.
    images = pipeline.prepare(split, size).subset(np.arange(300) % SOURCES)
    make_views = views.StepViews(config)
    stored = pipeline.training_batches(images, BATCH, 0)
    with_views = pipeline.training_batches(images, BATCH, 0, 0, make_views)

    def read(path):
        image = tf.io.decode_png(tf.io.read_file(path), channels=3)
        return tf.cast(tf.image.resize(image, [size, size], antialias=True), tf.uint8)

    files = tf.data.Dataset.from_tensor_slices(list(split.images)).shuffle(SOURCES).repeat()
    decoded = files.map(read, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True)
    viewed = tf.data.Dataset.zip(tf.data.Dataset.counter(), decoded)
    viewed = viewed.map(make_views, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    decoded = decoded.prefetch(tf.data.AUTOTUNE)

    few, many = max(1, arguments.steps // 16), arguments.steps
    cases = {
        "device": (stored, 4 * many),
        "files": (decoded, few),
        "pipeline": (with_views, many // 4 + 1),
        "files and views": (viewed, few),
    }

    def rate(data, steps):
        def measure():
            # The iterator is new, so that none works ahead in another's turn. The first batches,
            # and what it makes ahead meanwhile, do not count.
            iterator = iter(data)
            for _ in range(2 * common.cores()):
                next(iterator)
            began = time.perf_counter()
            for _ in range(steps):
                next(iterator)
            return steps / (time.perf_counter() - began)

        return measure

    steps = common.medians({name: rate(*case) for name, case in cases.items()}, arguments.rounds)
    print(common.machine("tensorflow"))
    print(f"{size}x{size}, {BATCH} images a step, files of {SOURCE_SIZE}x{SOURCE_SIZE}")
    for name, value in steps.items():
        print(
            f"{name:16s} {value:8.1f} steps/s, {BATCH * value:8.0f} images/s, "
            f"{value / EPOCH_STEPS:6.2f} epochs/s"
        )
    for name, published in (("RTX 3090", RTX_3090), ("A100", A100)):
        asked = published * (224 / size) ** 2 / (BATCH * CLASSES)
        print(
            f"one {name}, by its published throughput, needs {asked:.0f} steps/s; "
            f"the goal, {MARGIN:g} times that, is {MARGIN * asked:.0f}"
        )
        for way in ("device", "pipeline"):
            enough = steps[way] / (MARGIN * asked)
            cores = np.ceil(common.cores() / enough)
            state = "met" if enough >= 1 else f"not met; {cores:.0f} such cores would meet it"
            print(f"    --augment={way}: {enough:.2g} times the goal: {state}")
    title = f"input, {size}x{size}, --augment="
    common.result(title + "device", steps["device"], steps["files"], "steps/s", "decoding files")
    common.result(
        title + "pipeline",
        steps["pipeline"],
        steps["files and views"],
        "steps/s",
        "decoding files, then our views",
    )
    common.result(
        title + "device",
        steps["device"],
        MARGIN * A100 * (224 / size) ** 2 / (BATCH * CLASSES),
        "steps/s",
        f"{MARGIN:g} times an A100's training (an estimate)",
    )


if __name__ == "__main__":
    main()
