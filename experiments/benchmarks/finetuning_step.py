"""Times a fine-tuning step: EfficientNet-B0 and Lite0, against torchvision's EfficientNet-B0.

    python experiments/benchmarks/finetuning_step.py [--rounds=5] [--size=128] [--batch=8]

The step is that of the second stage of Section 4.3. It trains all layers but batch normalisation,
whose statistics are frozen, by SGD with momentum and L2, in float32, on the same 3-way views in
memory. PyTorch uses the channels-last layout and its fused optimiser. The weights are random, which
does not change the time, and the heads differ, but take little time. Each framework has its own
process, and they take turns. PyTorch and torchvision are optional.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np

CLASSES = 3
RATE, MOMENTUM, DECAY = 0.0005, 0.9, 3e-5
NAMES = ("efficientnet_b0", "efficientnet_lite0")


def made_views(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 views [3 * B, size, size, 3] and their labels, the same in any process."""
    views = np.random.default_rng(0).random((CLASSES * batch, size, size, 3), np.float32)
    return views, np.repeat(np.arange(CLASSES, dtype=np.int64), batch)


def ours(size: int, batch: int) -> Mapping[str, Callable[..., Any]]:
    """Builds our models and returns the worker's methods: the seconds of a step."""
    import tensorflow as tf

    from cutpaste_tf.config import Config
    from cutpaste_tf.train import classifier
    from cutpaste_tf.train.stages import stages

    constants = tf.data.Dataset.from_tensors(made_views(size, batch)).repeat()

    def stepper(name):
        config = Config(
            dataset="folder",
            data_dir=".",
            category="none",
            backbone=name,
            image_size=size,
            batch_size=batch,
            augment="pipeline",
            head_steps=1,
            finetune_steps=1000,
            finetune_learning_rate=RATE,
            weight_decay=DECAY,
        )
        model = classifier.build_classifier(config)
        model.begin(stages(config)[-1], config)
        model.make_train_function()
        iterator = iter(constants)

        def seconds(steps):
            began = time.perf_counter()
            for _ in range(steps):
                logs = model.train_function(iterator)
            float(logs["loss"])
            return (time.perf_counter() - began) / steps

        return seconds

    return {name: stepper(name) for name in NAMES}


def torchvisions(size: int, batch: int) -> Mapping[str, Callable[..., Any]]:
    """Builds torchvision's EfficientNet-B0 and returns the worker's method, as `ours` does."""
    import torch
    import torchvision
    from torch import nn

    torch.set_num_threads(common.cores())
    network = torchvision.models.efficientnet_b0(dropout=0.0)
    network.classifier = nn.Linear(1280, CLASSES)
    network = network.to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            for weight in module.parameters():
                weight.requires_grad_(False)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
    views, labels = made_views(size, batch)
    views = (
        torch.from_numpy(views).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    )
    labels = torch.from_numpy(labels)

    def seconds(steps):
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(network(views), labels)
            loss.backward()
            optimizer.step()
        loss.item()
        return (time.perf_counter() - began) / steps

    return {"efficientnet_b0": seconds}


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", type=int, default=128, help="height and width of the views")
    parser.add_argument("--batch", type=int, default=8, help="normal images in a step")
    parser.add_argument("--worker", choices=["ours", "pytorch"], help="for the script's own use")
    arguments = parser.parse_args()
    case = arguments.size, arguments.batch
    if arguments.worker:
        make = ours if arguments.worker == "ours" else torchvisions
        common.serve(lambda: make(*case))
        return
    print(common.machine("tensorflow", "keras", "torch", "torchvision"))
    here = [f"--size={arguments.size}", f"--batch={arguments.batch}"]
    with common.Worker("--worker=ours", *here) as us:
        methods = {name: lambda name=name: us.ask(name, steps=3) for name in NAMES}
        if importlib.util.find_spec("torchvision") is None:
            print("torchvision is not installed: no comparison with it")
            seconds = common.medians(methods, arguments.rounds)
        else:
            with common.Worker("--worker=pytorch", *here) as them:
                methods["torchvision"] = lambda: them.ask(NAMES[0], steps=3)
                seconds = common.medians(methods, arguments.rounds)
    title = f"{arguments.size}x{arguments.size}x{CLASSES * arguments.batch}"
    for name, median in seconds.items():
        print(f"{name:20s} {median:7.3f} s a step of {title}")
    if "torchvision" in seconds:
        for name in NAMES:
            common.result(
                f"fine-tuning step, {name}, {title}",
                seconds[name],
                seconds["torchvision"],
                "s a step",
                "torchvision's B0, channels last",
            )


if __name__ == "__main__":
    main()
