"""Times fit and scoring of the densities, against plain ways to the same numbers.

    python experiments/benchmarks/density.py [--rounds=5]

- gde, the Gaussian with Ledoit and Wolf's shrinkage, on 300 images: the fit against scikit-learn's
  EmpiricalCovariance, which has no shrinkage, and scoring against a loop of scipy's mahalanobis
  over the images. The largest difference of the distances is printed.
- gmm and kde, without a baseline.
- The shared Gaussian of patch embeddings, gathered batch by batch, against scikit-learn's
  LedoitWolf on all embeddings at once. The largest difference of the precisions is printed, and
  the memory of the embeddings.

Features have 512 (ResNet-18) and 1,792 values (EfficientNet-B4). Rounds alternate; the medians are
printed.
"""

import common
import numpy as np
import scipy.spatial.distance
import sklearn.covariance

from cutpaste_tf.scoring import density
from cutpaste_tf.scoring.gaussians import GaussianStatistics

IMAGES, DIMENSIONS = 300, (512, 1792)
PATCHES, BATCH = 57 * 57, 8  # patches of an image, images in a batch


def made_features(count: int, dims: int, seed: int = 0) -> np.ndarray:
    """Returns correlated features, as a network has, float32 [count, dims]."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(dims // 4, dims)) / np.sqrt(dims)
    noise = rng.normal(scale=0.1, size=(count, dims))
    return (rng.normal(size=(count, dims // 4)) @ mixing + noise).astype(np.float32)


def images(dims: int, rounds: int) -> None:
    """Compares densities of image features."""
    train, test = made_features(IMAGES, dims), made_features(IMAGES, dims, 2)
    kinds = {kind: density.fit(kind, train) for kind in ("gde", "gmm", "kde")}
    gde = kinds["gde"]
    mean, precision = gde.arrays["mean"], gde.arrays["whitener"] @ gde.arrays["whitener"].T

    def one_by_one():
        mahalanobis = scipy.spatial.distance.mahalanobis
        return [mahalanobis(x, mean, precision) for x in test.astype(np.float64)]

    difference = np.max(np.abs(gde.score(test) - one_by_one()) / gde.score(test))
    empirical = sklearn.covariance.EmpiricalCovariance()
    double = train.astype(np.float64)
    methods = {"empirical fit": lambda: empirical.fit(double), "loop score": one_by_one}
    for kind, fitted in kinds.items():
        methods[f"{kind} fit"] = lambda kind=kind: density.fit(kind, train)
        methods[f"{kind} score"] = lambda fitted=fitted: fitted.score(test)
    seconds = common.medians({n: common.timed(m) for n, m in methods.items()}, rounds)
    print(f"\n{IMAGES} images of {dims} features, fitted and scored")
    for kind in kinds:
        fit, score = seconds[f"{kind} fit"], seconds[f"{kind} score"]
        print(f"{kind}: fit {1e3 * fit:8.1f} ms, score {1e3 * score:8.2f} ms")
    print(f"EmpiricalCovariance: fit {1e3 * seconds['empirical fit']:8.1f} ms")
    print(f"a loop of scipy's mahalanobis: score {1e3 * seconds['loop score']:8.1f} ms")
    print(f"largest relative difference in score {difference:.0e}")
    baseline = seconds["empirical fit"]
    common.result(f"gde fit, D={dims}", seconds["gde fit"], baseline, "s", "EmpiricalCovariance")
    baseline = seconds["loop score"]
    common.result(f"gde score, D={dims}", seconds["gde score"], baseline, "s", "scipy, in a loop")


def patches(count: int, dims: int, rounds: int) -> None:
    """Compares the shared density of the patches of `count` images."""
    features = made_features(count * PATCHES, dims).reshape(count, PATCHES, dims)

    def ours():
        statistics = GaussianStatistics(1, dims)
        for start in range(0, count, BATCH):
            statistics.update(features[start : start + BATCH].reshape(-1, 1, dims))
        return statistics.fit()

    def stacked():
        return sklearn.covariance.LedoitWolf().fit(features.reshape(-1, dims).astype(np.float64))

    found, expected = ours(), stacked().precision_
    precision = found.whitener[0] @ found.whitener[0].T
    difference = np.max(np.abs(precision - expected)) / np.max(np.abs(expected))
    seconds = common.medians({"ours": common.timed(ours), "stacked": common.timed(stacked)}, rounds)
    print(f"\nthe {count * PATCHES:,} patches of {count} images, {dims} features each")
    print(f"ours, batch by batch: {seconds['ours']:7.3f} s")
    print(f"LedoitWolf on all:    {seconds['stacked']:7.3f} s")
    print(f"largest difference in precision, relative to the largest entry: {difference:.0e}")
    held = [8 * n * PATCHES * dims / 2**20 for n in (min(BATCH, count), count)]
    print(f"embeddings held in float64: ours {held[0]:.0f} MiB, LedoitWolf {held[1]:.0f} MiB")
    baseline = seconds["stacked"]
    title = f"patch density, {count} images"
    common.result(title, seconds["ours"], baseline, "s", "LedoitWolf on all patches")


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=16, help="images of the patch embeddings")
    arguments = parser.parse_args()
    print(common.machine("numpy", "scipy", "scikit-learn"))
    for dims in DIMENSIONS:
        images(dims, arguments.rounds)
    patches(arguments.images, DIMENSIONS[0], arguments.rounds)


if __name__ == "__main__":
    main()
