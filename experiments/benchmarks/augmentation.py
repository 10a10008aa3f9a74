"""Times the 3-way views: ours, batched in a graph, against views of one image at a time.

    python experiments/benchmarks/augmentation.py [--rounds=5] [--size=64 --size=256]

All methods make the same views of the same images, as float32, on the same cores: translation and
colour jitter of the input, CutPaste and CutPaste-Scar with colour jitter of the patch. PIL, and
torchvision on PyTorch's tensors if it is installed, run in one process for each core; TensorFlow
has a thread for each core. Rounds alternate; the medians are printed.

training_step.py measures the views' share of a training step.
"""

import contextlib
import importlib.util
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np
from PIL import Image, ImageEnhance

BATCH = 32
TRANSLATION, JITTER = 0.04, 0.1
NAMES = {
    "pil": "PIL, one process a core",
    "torchvision": "torchvision's tensors, one process a core",
    "device": "ours, --augment=device",
    "pipeline": "ours, --augment=pipeline",
}


def pil_jitter(image: Image.Image, *, hue: bool = True) -> Image.Image:
    """Torchvision's ColorJitter on a PIL image."""

    def turn(picture, shift):
        h, s, v = picture.convert("HSV").split()
        turned = (np.asarray(h).astype(np.uint16) + round(shift * 255) % 256) % 256
        h = Image.fromarray(turned.astype(np.uint8))
        return Image.merge("HSV", (h, s, v)).convert("RGB")

    steps = [
        lambda picture, shift: ImageEnhance.Brightness(picture).enhance(1 + shift),
        lambda picture, shift: ImageEnhance.Contrast(picture).enhance(1 + shift),
        lambda picture, shift: ImageEnhance.Color(picture).enhance(1 + shift),
        turn,
    ]
    return _in_random_order(image, steps if hue else steps[:3])


def _in_random_order(image, steps):
    random.shuffle(steps)
    for step in steps:
        image = step(image, random.uniform(-JITTER, JITTER))
    return image


def pil_views(image: np.ndarray) -> list[np.ndarray]:
    """The three views of one image, each float32 [S, S, 3]."""
    size = len(image)
    t = round(TRANSLATION * size)
    padded = np.pad(image, ((t, t), (t, t), (0, 0)), mode="reflect")
    y, x = random.randint(0, 2 * t), random.randint(0, 2 * t)
    view = pil_jitter(Image.fromarray(padded[y : y + size, x : x + size]), hue=False)

    def crop(height, width):
        top, left = random.randint(0, size - height), random.randint(0, size - width)
        return pil_jitter(view.crop((left, top, left + width, top + height)))

    def corner(patch):
        return random.randint(0, size - patch.width), random.randint(0, size - patch.height)

    patch = crop(*_patch_sides(size))
    pasted = view.copy()
    pasted.paste(patch, corner(patch))
    scar = crop(random.randint(10, 25), random.randint(2, 16)).convert("RGBA")
    scar = scar.rotate(random.uniform(-45, 45), expand=True)
    scarred = view.copy()
    scarred.paste(scar, corner(scar), mask=scar.getchannel("A"))
    return [np.asarray(v, np.float32) / 255.0 for v in (view, pasted, scarred)]


def _patch_sides(size):
    area = random.uniform(0.02, 0.15) * size * size
    aspect = random.choice([random.uniform(0.3, 1.0), random.uniform(1.0, 3.3)])
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def torchvision_views() -> Callable[[np.ndarray], list]:
    """Returns the function that makes the three views of one image by torchvision."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    torch.set_num_threads(1)

    def jitter(image, hue=True):
        steps = [
            lambda picture, shift: F.adjust_brightness(picture, 1 + shift),
            lambda picture, shift: F.adjust_contrast(picture, 1 + shift),
            lambda picture, shift: F.adjust_saturation(picture, 1 + shift),
            F.adjust_hue,
        ]
        return _in_random_order(image, steps if hue else steps[:3])

    def views(image):
        image = torch.from_numpy(image).permute(2, 0, 1)
        size = image.shape[-1]
        t = round(TRANSLATION * size)
        padded = F.pad(image, [t], padding_mode="reflect")
        y, x = random.randint(0, 2 * t), random.randint(0, 2 * t)
        view = jitter(padded[:, y : y + size, x : x + size], hue=False)

        def crop(height, width):
            top, left = random.randint(0, size - height), random.randint(0, size - width)
            return jitter(view[:, top : top + height, left : left + width])

        def paste(patch, mask=None):
            height, width = patch.shape[1:]
            top, left = random.randint(0, size - height), random.randint(0, size - width)
            pasted = view.clone()
            target = pasted[:, top : top + height, left : left + width]
            target.copy_(patch if mask is None else torch.where(mask > 0, patch, target))
            return pasted

        pasted = paste(crop(*_patch_sides(size)))
        scar = crop(random.randint(10, 25), random.randint(2, 16))
        scar = torch.cat([scar, torch.full_like(scar[:1], 255)])
        options = {"interpolation": InterpolationMode.NEAREST, "expand": True}
        scar = F.rotate(scar, random.uniform(-45, 45), **options)
        scarred = paste(scar[:3], scar[3:])
        return [v.to(torch.float32).div_(255.0) for v in (view, pasted, scarred)]

    return views


def made_images(size: int) -> np.ndarray:
    """Returns a batch of images, uint8 [B, S, S, 3], the same in any process."""
    return np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)


def one_at_a_time(
    views: Callable[[np.ndarray], list], size: int
) -> Mapping[str, Callable[..., Any]]:
    """Returns a worker's method: the seconds that the views of `count` images take."""
    images = made_images(size)

    def seconds(count):
        began = time.perf_counter()
        for i in range(count):
            views(images[i % BATCH])
        return time.perf_counter() - began

    return {"seconds": seconds}


def ours(size: int) -> Mapping[str, Callable[..., Any]]:
    """Returns our worker's methods, which return such seconds."""
    import tensorflow as tf

    from cutpaste_tf.augment import proxy

    def views(step, images):
        seed = tf.stack([0, tf.cast(step, tf.int32)])
        return proxy.make_views(images, "cutpaste_3way", seed)

    on_device = tf.function(views)
    constant = tf.constant(made_images(size))

    def device(count):
        began = time.perf_counter()
        for step in range(count // BATCH):
            made, _ = on_device(tf.constant(step), constant)
        made[0, 0, 0, 0].numpy()
        return time.perf_counter() - began

    ahead = common.cores()
    data = tf.data.Dataset.counter().map(lambda i: views(i, constant), ahead)
    iterator = iter(data.prefetch(ahead))

    def pipeline(count):
        # Views that were made ahead, while others were measured, do not count.
        for _ in range(4 * ahead):
            next(iterator)
        began = time.perf_counter()
        for _ in range(count // BATCH):
            next(iterator)
        return time.perf_counter() - began

    return {"device": device, "pipeline": pipeline}


def compare(size: int, rounds: int, others: list[str]) -> None:
    """Measures images of one size, and prints the rates."""
    # The number of images is the same for each method, and takes some tenths of a second.
    count = BATCH * max(16, round(16 * (256 / size) ** 2))
    with contextlib.ExitStack() as stack:
        us = stack.enter_context(common.Worker("--worker=ours", f"--size={size}"))
        workers = {
            name: [
                stack.enter_context(common.Worker(f"--worker={name}", f"--size={size}"))
                for _ in range(common.cores())
            ]
            for name in others
        }

        def together(name):
            for worker in workers[name]:
                worker.send("seconds", count=count // common.cores())
            return max([worker.receive() for worker in workers[name]])

        methods = {name: lambda name=name: together(name) for name in others}
        methods |= {
            name: lambda name=name: us.ask(name, count=count) for name in ("device", "pipeline")
        }
        seconds = common.medians(methods, rounds)
    rates = {name: count / value for name, value in seconds.items()}
    print(f"\n3-way views of {size}x{size} images")
    for name, rate in rates.items():
        print(f"{NAMES[name] + ':':45s}{rate:8.0f} images/s, {rate / rates['pil']:5.2f} times PIL")
    for name in ("device", "pipeline"):
        for other in others:
            title = f"views, {size}x{size}, --augment={name}"
            common.result(title, rates[name], rates[other], "images/s", NAMES[other])


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", type=int, action="append", help="images' side; may be repeated")
    parser.add_argument("--worker", help="for the script's own use")
    arguments = parser.parse_args()
    sizes = arguments.size or [64, 256]
    if arguments.worker == "ours":
        common.serve(lambda: ours(sizes[0]))
    elif arguments.worker == "pil":
        common.serve(lambda: one_at_a_time(pil_views, sizes[0]))
    elif arguments.worker == "torchvision":
        common.serve(lambda: one_at_a_time(torchvision_views(), sizes[0]))
    else:
        print(common.machine("tensorflow", "pillow", "torch", "torchvision"))
        others = ["pil"]
        if importlib.util.find_spec("torchvision"):
            others.append("torchvision")
        else:
            print("torchvision is not installed: no comparison with it")
        for size in sizes:
            compare(size, arguments.rounds, others)


if __name__ == "__main__":
    main()
