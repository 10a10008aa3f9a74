"""Speed of the 3-way views: ours, batched in the graph, against one PIL image at a time.

    python experiments/benchmarks/augmentation.py

Both make the same views (translation and colour jitter of the input; CutPaste and CutPaste-Scar
with colour jitter of the patch) of the same 256x256 images, as float32, on the same cores: PIL in
one process for each core, TensorFlow with a thread for each core. Rounds alternate; medians count.
"""

import argparse
import math
import multiprocessing
import os
import platform
import random
import statistics
import time

import numpy as np
from PIL import Image, ImageEnhance

SIZE = 256


def pil_jitter(image: Image.Image, maximum: float = 0.1, *, hue: bool = True) -> Image.Image:
    """Torchvision's ColorJitter on a PIL image."""

    def factor():
        return random.uniform(1 - maximum, 1 + maximum)

    def turn(picture):
        h, s, v = picture.convert("HSV").split()
        shift = round(random.uniform(-maximum, maximum) * 255) % 256
        turned = (np.asarray(h).astype(np.uint16) + shift) % 256
        h = Image.fromarray(turned.astype(np.uint8))
        return Image.merge("HSV", (h, s, v)).convert("RGB")

    steps = [
        lambda picture: ImageEnhance.Brightness(picture).enhance(factor()),
        lambda picture: ImageEnhance.Contrast(picture).enhance(factor()),
        lambda picture: ImageEnhance.Color(picture).enhance(factor()),
    ]
    if hue:
        steps.append(turn)
    random.shuffle(steps)
    for step in steps:
        image = step(image)
    return image


def pil_views(image: np.ndarray, translation: int) -> list[np.ndarray]:
    """The three views of one image, each float32 [256, 256, 3]."""
    t = translation
    padded = np.pad(image, ((t, t), (t, t), (0, 0)), mode="reflect")
    y, x = random.randint(0, 2 * t), random.randint(0, 2 * t)
    view = pil_jitter(Image.fromarray(padded[y : y + SIZE, x : x + SIZE]), hue=False)

    area = random.uniform(0.02, 0.15) * SIZE * SIZE
    aspect = random.choice([random.uniform(0.3, 1.0), random.uniform(1.0, 3.3)])
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    patch = pil_jitter(_crop(view, height, width))
    pasted = view.copy()
    pasted.paste(patch, _corner(patch))

    scar = pil_jitter(_crop(view, random.randint(10, 25), random.randint(2, 16)))
    scar = scar.convert("RGBA").rotate(random.uniform(-45, 45), expand=True)
    scarred = view.copy()
    scarred.paste(scar, _corner(scar), mask=scar.getchannel("A"))
    return [np.asarray(v, np.float32) / 255.0 for v in (view, pasted, scarred)]


def _crop(image, height, width):
    y, x = random.randint(0, SIZE - height), random.randint(0, SIZE - width)
    return image.crop((x, y, x + width, y + height))


def _corner(patch):
    return random.randint(0, SIZE - patch.width), random.randint(0, SIZE - patch.height)


def pil_worker(images: np.ndarray, count: int, ready, go, times) -> None:
    """Makes views of `count` images and reports the seconds it took."""
    pil_views(images[0], 10)
    while True:
        ready.release()
        go.acquire()
        began = time.perf_counter()
        for i in range(count):
            pil_views(images[i % len(images)], 10)
        times.put(time.perf_counter() - began)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    batch, count = arguments.batch_size, 8 * arguments.batch_size
    images = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)

    # PIL's processes start before TensorFlow's threads do.
    context = multiprocessing.get_context("fork")
    ready, go, times = context.Semaphore(0), context.Semaphore(0), context.Queue()
    workers = [
        context.Process(
            target=pil_worker, args=(images, count // cores, ready, go, times), daemon=True
        )
        for _ in range(cores)
    ]
    for worker in workers:
        worker.start()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    import cutpaste_tf  # noqa: F401 - before TensorFlow
    from cutpaste_tf.augment import proxy

    def views(step, batch_images):
        seed = tf.stack([0, tf.cast(step, tf.int32)])
        return proxy.make_views(tf.cast(batch_images, tf.float32) / 255.0, "cutpaste_3way", seed)

    on_device, constant = tf.function(views), tf.constant(images)

    def device_seconds():
        began = time.perf_counter()
        for step in range(count // batch):
            made, _ = on_device(tf.constant(step), constant)
        made[0, 0, 0, 0].numpy()
        return time.perf_counter() - began

    data = tf.data.Dataset.counter().map(lambda i: views(i, constant), num_parallel_calls=cores)
    iterator = iter(data)

    def pipeline_seconds():
        began = time.perf_counter()
        for _ in range(count // batch):
            next(iterator)
        return time.perf_counter() - began

    def pil_seconds():
        for _ in workers:
            ready.acquire()
        for _ in workers:
            go.release()
        return max(times.get() for _ in workers)

    methods = {"pil": pil_seconds, "device": device_seconds, "pipeline": pipeline_seconds}
    for method in methods.values():
        method()
    measured = {name: [] for name in methods}
    for _ in range(arguments.rounds):
        for name, method in methods.items():
            measured[name].append(count / method())
    for worker in workers:
        worker.terminate()
    rates = {name: statistics.median(values) for name, values in measured.items()}
    print(
        f"{platform.processor() or platform.machine()}, {cores} cores, TensorFlow {tf.__version__}"
    )
    print(f"PIL, one process a core:      {rates['pil']:7.0f} images/s")
    for name, text in (("device", "--augment=device"), ("pipeline", "--augment=pipeline")):
        print(
            f"ours, {text}:{'':{18 - len(text)}s}{rates[name]:7.0f} images/s, "
            f"{rates[name] / rates['pil']:.2f} times PIL"
        )


if __name__ == "__main__":
    main()
