"""Compares our recipe with anomalib's PaDiM and PatchCore on the same features: quality and time.

    pip install anomalib timm
    python experiments/benchmarks/anomalib_models.py --data_dir=PARTS --category=bolt

Our recipe is experiments/lite0_pretrained.flags; add any flags of cutpaste_tf.main, such as
--dataset=mvtec_ad or --image_size=256. anomalib's models use timm's network of the same
architecture with the same weights, the same levels with all channels, and the same images. The
script fails if the two networks' maps differ by more than rounding. PyTorch has its own process.

The metrics are ours, at the images' own sizes; AUPRO is up to a false-positive rate of 0.3. The
time of a fit is from images in memory to a model that scores. Ours includes TensorFlow's tracing,
but not the cross-validation for the threshold. Scoring includes maps at --image_size.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import common
import numpy as np

from cutpaste_tf import cli
from cutpaste_tf.files import UserError

FLAGS = "experiments/lite0_pretrained.flags"
MODELS = ("ours", "padim", "patchcore")
BATCH = 32  # anomalib's, of training and of evaluation
WORKER = "--torch"
MOST_DIFFERENCE = 1e-4  # between the networks' maps, as a share of their largest value


def torch_methods() -> Mapping[str, Callable[..., Any]]:
    """Returns the methods of PyTorch's process."""
    import torch
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    def batches(path):
        images = np.load(path)
        for first in range(0, len(images), BATCH):
            pixels = torch.from_numpy(images[first : first + BATCH]).permute(0, 3, 1, 2)
            yield (pixels.float() - 127.0) / 128.0

    def measure(name, network, layers, channels, weights, coreset, train, test, output):
        torch.manual_seed(0)  # PatchCore's coreset begins with a random vector.
        options = {"backbone": network, "layers": layers, "pre_trained": False}
        if name == "padim":
            model = PadimModel(**options, n_features=channels)
        else:
            model = PatchcoreModel(**options)
        extractor = model.feature_extractor.feature_extractor
        # Both list their layers in the order of use; the published network has more layers.
        published = torch.load(weights, weights_only=True)
        extractor.load_state_dict(
            dict(zip(extractor.state_dict(), published.values(), strict=False))
        )
        began = time.perf_counter()
        model.train()
        for images in batches(train):
            model(images)
        if name == "padim":
            model.fit()
        else:
            model.subsample_embedding(coreset)
        fitted = time.perf_counter() - began

        first, results = next(batches(test)), []
        with torch.inference_mode():
            features = model.eval().feature_extractor(first)
            model(first)  # warms up
            began = time.perf_counter()
            for images in batches(test):
                result = model(images)
                results.append((result.pred_score.reshape(-1), result.anomaly_map[:, 0]))
            seconds = time.perf_counter() - began
        scores, maps = (torch.cat(parts).numpy() for parts in zip(*results, strict=True))
        features = {layer: x.permute(0, 2, 3, 1).numpy() for layer, x in features.items()}
        np.savez(output, scores=scores, maps=maps, **features)
        return fitted, seconds / len(scores)

    return {"measure": measure}


def ours(config: Any, network: Any, train: Any, test: Any) -> tuple:
    """Fits and scores as a run does; returns scores, maps, and the seconds of fit and scoring."""
    from cutpaste_tf.scoring.detector import make_scorer

    began = time.perf_counter()
    scorer = make_scorer(config, network, train)
    fit = scorer.fit(train)
    fitted = time.perf_counter() - began
    scorer.score(fit, test.subset(range(min(BATCH, test.count))))  # warms up
    began = time.perf_counter()
    scores = scorer.score(fit, test)
    _ = scores.maps.peaks  # Maps are enlarged when they are read.
    return scores.scores, scores.maps, fitted, (time.perf_counter() - began) / test.count


def theirs(name: str, coreset: float, config: Any, network: Any, train: Any, test: Any) -> tuple:
    """Fits and scores the same images by anomalib's model; returns the same as `ours`."""
    from cutpaste_tf.models import backbone as backbones
    from cutpaste_tf.models import lite_weights
    from cutpaste_tf.scoring.maps import Maps

    (own,) = backbones.feature_maps(network)
    layers = {level: f"blocks.{int(level.removeprefix('block')) - 1}" for level in config.levels}
    with tempfile.TemporaryDirectory() as folder, common.Worker(WORKER) as worker:
        names = {"train": "train.npy", "test": "test.npy", "output": "output.npz"}
        paths = {part: os.path.join(folder, file) for part, file in names.items()}
        for part, images in (("train", train), ("test", test)):
            np.save(paths[part], images.canvases(range(images.count)))
        fitted, seconds = worker.ask(
            "measure",
            name=name,
            network=f"tf_{config.backbone}",
            layers=list(layers.values()),
            channels=sum(own.output[level].shape[-1] for level in layers),
            weights=str(lite_weights.find(config.backbone)),
            coreset=coreset,
            **paths,
        )
        with np.load(paths["output"]) as found:
            results = dict(found)
    expected = own.predict_on_batch(test.canvases(range(min(BATCH, test.count))) / 255.0)
    for level, layer in layers.items():
        most = MOST_DIFFERENCE * np.abs(expected[level]).max()
        np.testing.assert_allclose(results[layer], expected[level], rtol=0, atol=most)
    maps = Maps(results["maps"][:, None], None, lambda small, inside: small, test)
    return results["scores"], maps, fitted, seconds


def compare(config: Any, models: Sequence[str], coreset: float) -> None:
    """Measures one category and prints a line of a table for each model."""
    from cutpaste_tf import data
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.preparation import Preparation
    from cutpaste_tf.models.backbone import build_backbone
    from cutpaste_tf.run.results import pixel_metrics
    from cutpaste_tf.scoring import metrics

    if config.tiles != (1, 1) or config.masked or "lite" not in config.backbone:
        raise UserError("needs EfficientNet-Lite, without --tiles, --roi and --resize=pad")
    category = data.load(config)
    preparation = Preparation.of(config, None, pipeline.filled_bits(category.train))
    train, test = (pipeline.prepare(x, preparation) for x in (category.train, category.test))
    category, train = pipeline.without_copies(category, train, test)
    network, split = build_backbone(config), category.test
    for name in models:
        if name == "ours":
            scores, maps, fitted, seconds = ours(config, network, train, test)
        else:
            scores, maps, fitted, seconds = theirs(name, coreset, config, network, train, test)
        found = pixel_metrics(maps, split)
        auroc = metrics.image_auroc(split.labels, scores)
        numbers = (auroc, found["pixel_auroc"], found["pixel_aupro"])
        height, width = config.size
        cells = [f"{config.category}, {height}x{width}", name]
        cells += ["-" if x is None else f"{100 * x:.1f}" for x in numbers]
        cells += [f"{fitted:.1f}", f"{1000 * seconds:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Prints a table for all named categories."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--models", default=",".join(MODELS), help="the models to measure")
    parser.add_argument(
        "--coreset", type=float, default=0.01, help="share of the vectors that PatchCore keeps"
    )
    own, rest = parser.parse_known_args(arguments)
    for package in ("anomalib", "timm"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; pip install anomalib timm")
    if not set(models := own.models.split(",")) <= set(MODELS):
        raise UserError(f"--models={own.models}: must be some of {', '.join(MODELS)}")
    runs = cli.parse_runs([f"--flagfile={FLAGS}", *rest])
    machine = common.machine("tensorflow", "torch", "anomalib", "timm")
    print(f"{machine}; PatchCore keeps {100 * own.coreset:g}% of the vectors")
    print("| images | model | image AUROC | pixel AUROC | AUPRO | fit, s | ms an image |")
    print("| --- " * 7 + "|", flush=True)
    for config in runs:
        compare(config, models, own.coreset)


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        common.serve(torch_methods)
    else:
        sys.exit(main())
