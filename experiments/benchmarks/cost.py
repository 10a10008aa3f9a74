"""Estimates what the paper's tables would cost on GPUs; measures nothing.

    python experiments/benchmarks/cost.py

The script counts the multiply-adds of the Keras models, at the sizes, views and steps of the flag
files: one forward pass for each image that is embedded or scored and for a frozen backbone, three
for a training step. It divides them by the rate of published trainings, times a margin for small
batches, and prints a Markdown table.

Published rates, in images a second on one GPU:

- ResNet-50 v1.5 in PyTorch, 224x224: V100 367 (float32) and 1,200 (mixed precision); A100 938
  (TF32) and 2,470 (mixed). NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/
  resnet50v1.5/README.md.
- EfficientNet-B4 in TensorFlow 2, 380x380: V100 79 and 211, A100 165 and 470. The same repository,
  TensorFlow2/Classification/ConvNets/efficientnet_v1/README.md.
- H100: assumed to be twice as fast as an A100, as Lambda reports for vision models ("NVIDIA H100
  Tensor Core GPU - Deep Learning Performance Analysis").

ResNet-18 is assumed to do as many multiply-adds a second as ResNet-50. That is careful: on one RTX
3090 it trained 2.86 times as many images a second (huggingface/pytorch-image-models), with 2.26
times fewer multiply-adds an image.
"""

import dataclasses
import heapq
import math

import common

from cutpaste_tf import choices, cli
from cutpaste_tf.config import EPOCH_STEPS
from cutpaste_tf.report import paper

RESNET50 = 4.09e9  # multiply-adds of ResNet-50 v1.5 at 224x224 (torchvision's documentation)
# Published images a second of ResNet-50 and of EfficientNet-B4.
GPUS = {
    "V100, float32": (367.0, 79.0),
    "A100, TF32": (938.0, 165.0),
    "A100, mixed precision": (2470.0, 470.0),
    "H100, TF32": (2 * 938.0, 2 * 165.0),
    "H100, mixed precision": (2 * 2470.0, 2 * 470.0),
}
# Assumptions: the share of the published rates that remains with 64 to 96 views a step instead of
# 128 to 256 images, or with 24 views of EfficientNet-B4. It also covers the making of the views.
MARGIN, MARGIN_B4 = 0.7, 0.5
# Assumption: seconds of a run for imports, tracing, densities, metrics and figures.
OVERHEAD = {"table1": 60.0, "table2": 180.0, "table3": 90.0}
TRAIN_IMAGES, TEST_IMAGES = 3629 / 15, 1725 / 15  # of MVTec AD's mean category
SIZES = {"one GPU": 1, "eight GPUs": 8, "Ray, 4 x 8 GPUs": 32}
NAMES = {
    "table1": "Table 1, six proxy tasks",
    "table2": "Table 2, patches",
    "table3": "Table 3, EfficientNet-B4",
}


@dataclasses.dataclass(frozen=True)
class Work:
    """A number of equal runs, and the multiply-adds of one run's training and evaluation."""

    runs: int
    training: float
    evaluation: float


def multiply_adds(backbone: str, size: tuple[int, int], stem: str) -> int:
    """Counts the multiply-adds of a backbone's forward pass for one image."""
    from cutpaste_tf.models import efficientnet, resnet

    if backbone == "resnet18":
        return common.multiply_adds(resnet.resnet18(size, stem=stem))
    return common.multiply_adds(efficientnet.efficientnet(backbone, size))


def work(experiment: paper.Experiment) -> Work:
    """Counts the work of an experiment's runs."""
    from cutpaste_tf.augment import proxy
    from cutpaste_tf.train import stages

    runs = cli.parse_runs([f"--flagfile={experiment.flagfile}", *experiment.flags, "--data_dir=."])
    config = runs[0]
    views = config.batch_size * len(proxy.TASKS[config.task])
    forward = multiply_adds(config.backbone, config.input_shape, config.stem)
    training = sum(
        stage.steps * views * forward * (3 if stage.trains_backbone else 1)
        for stage in stages.stages(config)
    )
    images = TRAIN_IMAGES + TEST_IMAGES
    if not config.patch_size:
        during = (config.steps // EPOCH_STEPS - 1) // config.eval_every
        return Work(len(runs), training, (2 + during) * images * forward)
    side, stride = config.dense_patch, config.dense_stride
    places = math.prod((length - side) // stride + 1 for length in config.size)
    forward = places * multiply_adds(config.backbone, (side, side), config.stem)
    # All images are embedded after the training. For the threshold, training images are embedded
    # again: five times if each location has its own density, else twice.
    separate = len(choices.MVTEC_ALIGNED) / len(choices.CATEGORIES["mvtec_ad"])
    folds = 5 * separate + 2 * (1 - separate)
    return Work(len(runs), training, (images + folds * TRAIN_IMAGES) * forward)


def makespan(jobs: list[float], gpus: int) -> float:
    """Returns when the last run ends, if each starts on the GPU that is free first."""
    free = [0.0] * gpus
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def span(seconds: float) -> str:
    """Writes a time in hours, or, from three days on, in days."""
    hours = seconds / 3600
    if hours >= 72:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"


def main() -> None:
    """Counts the work, and prints the table."""
    common.parser(__doc__).parse_args()
    # GradCAM's row of Table 2 uses Table 1's networks.
    tables = {name: list(paper.EXPERIMENTS[name]) for name in NAMES}
    tables["table2"] = tables["table2"][:1]
    done = {name: [work(one) for one in chosen] for name, chosen in tables.items()}
    b4 = multiply_adds("efficientnet_b4", 380, "")
    resnet18 = multiply_adds("resnet18", 224, "large")
    print(
        f"multiply-adds of a forward pass: ResNet-18 {resnet18:.3g} at 224x224, EfficientNet-B4 "
        f"{b4:.3g} at 380x380\n"
    )
    heads = ["an estimate, not measured", "runs", "multiply-adds", "of them to score", "on"]
    print("| " + " | ".join([*heads, "GPU hours", *SIZES]) + " |")
    print("| --- " * (len(heads) + 1 + len(SIZES)) + "|")
    for name, works in done.items():
        runs = sum(w.runs for w in works)
        scoring = sum(w.runs * w.evaluation for w in works)
        total = scoring + sum(w.runs * w.training for w in works)
        for gpu, (of_resnet50, of_b4) in GPUS.items():
            rate = MARGIN_B4 * of_b4 * b4 if name == "table3" else MARGIN * of_resnet50 * RESNET50
            rate *= 3  # a published step is forward and backward
            jobs = [
                (w.training + w.evaluation) / rate + OVERHEAD[name]
                for w in works
                for _ in range(w.runs)
            ]
            cells = [NAMES[name], str(runs), f"{total:.1e}", f"{100 * scoring / total:.0f}%", gpu]
            cells.append(f"{sum(jobs) / 3600:,.0f}")
            cells += [span(makespan(jobs, count)) for count in SIZES.values()]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
