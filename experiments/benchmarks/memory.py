"""Measures peak memory, and how time and memory grow with images, categories and image size.

    python experiments/benchmarks/memory.py [--rounds=1]

Each measurement is the largest resident set of a fresh process, against that of `import tensorflow`
alone. Some processes run commands on made images: `--help`, `predict`, and tiny trainings with
their evaluation and figures. Others call functions: embedding and scoring 1,000 images, scoring
patches, pixel metrics.

Growth of time is the exponent of a power of the number of images or of the image's side. In
proportion to the pixels, it is 1 for images and 2 for the side. Seconds are those of the work after
tracing; memory is that of the whole process. For categories in one command, the script prints what
each further category takes.
"""

import re
import sys
import tempfile
import time

import common
import numpy as np

MAIN = [sys.executable, "-m", "cutpaste_tf.main", "--dataset=folder", "--eval_every=0"]
IMAGES, MAPS, SIDES, CATEGORIES = (400, 1600, 6400), (100, 400, 1600), (64, 128, 256), (1, 2, 4)
QUARTER = "--width=0.25"
_WORK = re.compile(r"^WORK (\S+)$", re.MULTILINE)


def embed_and_score(count: int, size: int) -> float:
    """Embeds and scores images with a quarter of ResNet-18's width; returns the seconds."""
    from cutpaste_tf.scoring.scorer import evaluate

    scorer, images = _scorer(count, size)
    few = images.subset(np.arange(64))
    evaluate(scorer, few, few)
    return common.timed(lambda: evaluate(scorer, few, images))()


def score_patches(count: int, size: int) -> float:
    """Fits a density to patches of 32 with stride 8, and scores by it; returns the seconds."""
    from cutpaste_tf.scoring.scorer import evaluate

    scorer, images = _scorer(count, size, patch_size=32, dense_stride=8)
    few = images.subset(np.arange(2))
    evaluate(scorer, few, few)
    return common.timed(lambda: evaluate(scorer, images, images))()


def pixel_metrics(count: int, size: int) -> float:
    """Times pixel AUROC, AP and AUPRO of maps, a tenth of whose pixels is anomalous."""
    from cutpaste_tf.scoring import metrics

    rng, pixels = np.random.default_rng(0), metrics.PixelScores()
    mask = np.zeros((size, size), bool)
    mask[: size // 10] = True
    maps = [rng.random((size, size), np.float32) for _ in range(8)]

    def work():
        for number in range(count):
            pixels.add(maps[number % 8], mask)
        pixels.compute()

    return common.timed(work)()


def training_steps(count: int, size: int) -> float:
    """Trains the whole network on `count` normal images a step; returns the seconds of a step."""
    from cutpaste_tf.config import Config
    from cutpaste_tf.train import classifier, views

    flags = {"image_size": size, "batch_size": count}
    config = Config(dataset="folder", data_dir=".", category="none", **flags)
    model = classifier.build_classifier(config)
    model.make_train_function()
    iterator = iter(views.batches(_images(64, size), config, 0))
    model.train_function(iterator)
    began = time.perf_counter()
    for _ in range(3):
        logs = model.train_function(iterator)
    float(logs["loss"])
    return (time.perf_counter() - began) / 3


def _images(count, size):
    from cutpaste_tf.data import pipeline

    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return pipeline.of_arrays(pixels, size)


def _scorer(count, size, **flags):
    from cutpaste_tf.config import Config
    from cutpaste_tf.models.backbone import build_backbone
    from cutpaste_tf.scoring.detector import make_scorer

    flags |= {"image_size": size, "width": 0.25}
    config = Config(dataset="folder", data_dir=".", category="none", **flags)
    return make_scorer(config, build_backbone(config)), _images(count, size)


WORK = {f.__name__: f for f in (embed_and_score, score_patches, pixel_metrics, training_steps)}


def command_of(work: str, count: int, size: int) -> list[str]:
    """Returns the command that does one of `WORK` in a fresh process."""
    return [sys.executable, __file__, f"--work={work}", f"--count={count}", f"--size={size}"]


def usage(command: list[str], rounds: int) -> common.Usage:
    """Runs a command; returns the medians, with the seconds of its work if it prints them."""
    usages = [common.run(command) for _ in range(rounds)]
    for one in usages:
        if one.status:
            raise SystemExit(one.output)
    printed = [_WORK.search(one.output) for one in usages]
    seconds = [float(p[1]) if p else one.seconds for p, one in zip(printed, usages, strict=True)]
    mebibytes = np.median([one.mebibytes for one in usages])
    return common.Usage(float(np.median(seconds)), float(mebibytes), 0, "")


def peaks(folder: str, workdir: str, rounds: int) -> None:
    """Measures and prints the memory of commands and functions."""
    data = [f"--data_dir={folder}", "--category=made"]
    predict = [sys.executable, "-m", "cutpaste_tf.predict", f"--run={workdir}/64/made/seed_0"]
    predict += ["--images", folder, f"--output={workdir}/predictions"]

    def training(size, batch):
        flags = [f"--image_size={size}", f"--batch_size={batch}", "--steps=4"]
        return [*MAIN, *data, *flags, f"--workdir={workdir}/{size}"]

    again = [sys.executable, "-c", "import tensorflow"]
    baseline = usage(again, rounds)
    print(f"{'import tensorflow':42s}{baseline.mebibytes:7.0f} MiB, {baseline.seconds:6.1f} s")
    for name, command in {
        "--help": [*MAIN, "--help"],
        "training, 64x64, 96 views a step": training(64, 32),
        "training, 256x256, 24 views a step": training(256, 8),
        "predict": predict,
        "embedding and scoring 1,000 of 128x128": command_of("embed_and_score", 1000, 128),
        "scoring patches of 8 of 256x256": command_of("score_patches", 8, 256),
        "pixel metrics of 100 of 256x256": command_of("pixel_metrics", 100, 256),
    }.items():
        # A finished run would be skipped in a second round.
        found = usage(command, 1 if command[:3] == MAIN[:3] else rounds)
        print(f"{name:42s}{found.mebibytes:7.0f} MiB, {found.seconds:6.1f} s", flush=True)
        title = f"memory, {name}"
        common.result(title, found.mebibytes, baseline.mebibytes, "MiB", "import tensorflow")


def growth(title: str, work: str, cases: list[tuple[int, int]], rounds: int) -> None:
    """Measures work of growing size and prints the exponents.

    Args:
      title: the text in front.
      work: one of `WORK`.
      cases: its counts and sizes, of which one grows.
      rounds: how often each case is measured.
    """
    found = [usage(command_of(work, *case), rounds) for case in cases]
    grows = np.array([case[0] if cases[0][1] == cases[1][1] else case[1] for case in cases])
    seconds = np.array([one.seconds for one in found])
    mebibytes = np.array([one.mebibytes for one in found])
    exponent = np.polyfit(np.log(grows), np.log(seconds), 1)[0]
    more = np.diff(mebibytes)[-1] / np.diff(grows)[-1]
    shown = ", ".join(
        f"{n}: {s:.3g} s, {m:.0f} MiB" for n, s, m in zip(grows, seconds, mebibytes, strict=True)
    )
    print(f"{title}: {shown}")
    print(f"    seconds grow with exponent {exponent:.2f}; at the end {more:.2g} MiB for each")


def categories(folder: str, rounds: int) -> None:
    """Measures one command for several categories, and prints what each further one takes."""
    flags = [f"--data_dir={folder}", QUARTER, "--image_size=64", "--batch_size=16", "--steps=4"]
    found = []
    for count in CATEGORIES:
        names = ",".join(f"made{number}" for number in range(count))
        one = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as workdir:
                command = [*MAIN, *flags, f"--category={names}", f"--workdir={workdir}"]
                one.append(usage(command, 1))
        found.append(np.median([(u.seconds, u.mebibytes) for u in one], axis=0))
    shown = [f"{n}: {s:.1f} s, {m:.0f} MiB" for n, (s, m) in zip(CATEGORIES, found, strict=True)]
    print(f"categories in one command: {', '.join(shown)}")
    steps = np.diff(found, axis=0) / np.diff(CATEGORIES)[:, None]
    for (s, m), first, last in zip(steps, CATEGORIES[:-1], CATEGORIES[1:], strict=True):
        print(f"    from {first} to {last} each takes {s:.1f} s and {m:.0f} MiB more")


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--work", choices=list(WORK), help="for the script's own use")
    parser.add_argument("--count", type=int, help="for the script's own use")
    parser.add_argument("--size", type=int, help="for the script's own use")
    arguments = parser.parse_args()
    if arguments.work:
        print(f"\nWORK {WORK[arguments.work](arguments.count, arguments.size)}")
        return
    rounds = arguments.rounds
    print(common.machine("tensorflow", "keras"))
    with common.image_folder(64, 256, tests=16) as folder, tempfile.TemporaryDirectory() as workdir:
        peaks(str(folder), workdir, rounds)
    print("\ngrowth")
    growth("images of 64x64 scored", "embed_and_score", [(n, 64) for n in IMAGES], rounds)
    growth("maps of 256x256 measured", "pixel_metrics", [(n, 256) for n in MAPS], rounds)
    growth("side of 512 images scored", "embed_and_score", [(512, s) for s in SIDES], rounds)
    growth("side of 24 views trained on", "training_steps", [(8, s) for s in SIDES], rounds)
    with common.image_folder(32, 64, tests=4, categories=max(CATEGORIES)) as folder:
        categories(str(folder), rounds)


if __name__ == "__main__":
    main()
