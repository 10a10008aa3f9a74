"""Times pixel AUROC and AUPRO: ours, by counting pixels in bins, against plain ones.

    python experiments/benchmarks/pixel_metrics.py [--rounds=5] [--images=20] [--size=256]

The baselines are scikit-learn's roc_auc_score on all pixels, and AUPRO as it is usually computed.
That finds the regions of each mask once, and at each of 200 thresholds their mean overlap and the
false positive rate, and integrates up to 0.3. The AUROCs must agree to 0.0001, and the AUPROs as
nearly as 200 thresholds allow. Rounds alternate; the medians are printed.
"""

import common
import numpy as np
import scipy.ndimage
import sklearn.metrics

from cutpaste_tf.scoring import metrics

LIMIT, THRESHOLDS = 0.3, 200


def made_maps(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns smooth anomaly maps, float32 [count, size, size], and masks; half have no defect."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    maps, masks = [], []
    for number in range(count):
        mask = np.zeros((size, size), bool)
        for _ in range((number % 2) * rng.integers(1, 4)):
            y, x = rng.integers(0, size, 2)
            height, width = rng.uniform(0.02, 0.12, 2) * size
            mask |= ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=mask.shape), size / 32)
        blurred = scipy.ndimage.gaussian_filter(mask.astype(np.float64), size / 64)
        maps.append(noise / noise.std() + 2.0 * blurred)
        masks.append(mask)
    return np.stack(maps).astype(np.float32), np.stack(masks)


def ours(maps: np.ndarray, masks: np.ndarray) -> dict[str, float | None]:
    """Returns all that `PixelScores` computes."""
    pixels = metrics.PixelScores()
    for one, mask in zip(maps, masks, strict=True):
        pixels.add(one, mask)
    return pixels.compute(LIMIT)


def plain_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    """Returns scikit-learn's AUROC of all pixels."""
    return float(sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel()))


def plain_aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    """Returns AUPRO by 200 thresholds."""
    regions = []
    for number, mask in enumerate(masks):
        labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(number, labels == label) for label in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.linspace(maps.max(), maps.min(), THRESHOLDS):
        above = maps >= threshold
        overlaps.append(np.mean([above[number][region].mean() for number, region in regions]))
        rates.append((above & ~masks).sum() / (~masks).sum())
    inside = np.linspace(0.0, LIMIT, 1000)
    return float(np.trapezoid(np.interp(inside, rates, overlaps), inside) / LIMIT)


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    data = made_maps(arguments.images, arguments.size)
    found, auroc, aupro = ours(*data), plain_auroc(*data), plain_aupro(*data)
    methods = {"ours": ours, "auroc": plain_auroc, "aupro": plain_aupro}
    seconds = common.medians(
        {name: common.timed(lambda m=method: m(*data)) for name, method in methods.items()},
        arguments.rounds,
    )
    print(common.machine("numpy", "scipy", "scikit-learn"))
    print(f"{arguments.images} maps of {arguments.size}x{arguments.size}")
    print(f"ours, AUROC, AP and AUPRO:      {seconds['ours']:7.3f} s")
    print(f"scikit-learn's AUROC:           {seconds['auroc']:7.3f} s")
    print(f"AUPRO at {THRESHOLDS} thresholds:        {seconds['aupro']:7.3f} s")
    print(f"pixel AUROC {found['pixel_auroc']:.6f}, scikit-learn's {auroc:.6f}")
    print(f"AUPRO {found['pixel_aupro']:.4f}, at {THRESHOLDS} thresholds {aupro:.4f}")
    if abs(found["pixel_auroc"] - auroc) > 1e-4 or abs(found["pixel_aupro"] - aupro) > 0.01:
        raise SystemExit("the numbers do not agree")
    both = seconds["auroc"] + seconds["aupro"]
    common.result("pixel metrics", seconds["ours"], both, "s", "scikit-learn and 200 thresholds")
    common.result("pixel metrics", seconds["ours"], seconds["auroc"], "s", "scikit-learn's AUROC")


if __name__ == "__main__":
    main()
