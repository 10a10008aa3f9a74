"""Measures the Gaussians of a patch model's places at the paper's settings: time and memory.

    python experiments/benchmarks/locations.py [--places=3249] [--dims=512] [--images=240]

The script fits one Gaussian for each of 57x57 places to made embeddings of 240 images, a band of
places at a time as a patch model does, and scores 64 images. The baseline does the same by NumPy
alone, with inverses of Cholesky factors, and products place by place. It is timed on a share of the
places.
"""

import resource
import time

import common
import numpy as np

BAND = 114  # places at a time: two rows
SHARE = 10  # the baseline is timed on one place in so many


def main() -> None:
    """Prints the seconds per image of fit and scoring, and the process's peak memory."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--places", type=int, default=57 * 57, help="Gaussians")
    parser.add_argument("--dims", type=int, default=512, help="length of an embedding")
    parser.add_argument("--images", type=int, default=240, help="normal images")
    arguments = parser.parse_args()

    from cutpaste_tf.scoring import layers
    from cutpaste_tf.scoring.gaussians import Gaussians, GaussianStatistics

    rng = np.random.default_rng(0)
    some = rng.normal(size=[arguments.images, BAND, arguments.dims]).astype(np.float32)
    tests = rng.normal(size=[64, BAND, arguments.dims]).astype(np.float32)
    bands = -(-arguments.places // BAND)

    fitting, gaussians = 0.0, Gaussians.empty(bands * BAND, arguments.dims)
    for band in range(bands):
        began = time.perf_counter()
        statistics = GaussianStatistics(BAND, arguments.dims)
        for batch in np.array_split(some + band, 8):
            statistics.update(batch)
        gaussians.put(band * BAND, statistics.fit())
        fitting += time.perf_counter() - began
    del statistics
    whiten = layers.whiten(gaussians.mean, gaussians.whitener)
    everywhere = np.tile(tests[:8], (1, bands, 1))[:, :, None]
    whiten(everywhere)
    began = time.perf_counter()
    for _ in range(8):
        whiten(everywhere)
    scoring = (time.perf_counter() - began) / len(tests)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    places = BAND // SHARE
    part, shown = some[:, :places].astype(np.float64), tests[:, :places]
    began = time.perf_counter()
    centred = part - part.mean(axis=0)
    scatter = centred.transpose(1, 2, 0) @ centred.transpose(1, 0, 2) / len(part)
    scatter[:, np.arange(arguments.dims), np.arange(arguments.dims)] += 0.1
    whitener = np.linalg.inv(np.linalg.cholesky(scatter)).astype(np.float32)
    plain_fit = (time.perf_counter() - began) * arguments.places / places
    began = time.perf_counter()
    for image in shown:  # image by image
        np.linalg.norm(whitener @ image[:, :, None], axis=1)
    plain_score = (time.perf_counter() - began) * arguments.places / places / len(shown)

    print(common.machine("tensorflow", "numpy"))
    print(
        f"{arguments.places} places, {arguments.dims} features, {arguments.images} images: fitted "
        f"in {fitting:.1f} s, scored in {scoring:.3f} s an image, {peak:.1f} GiB at most"
    )
    count = arguments.images
    common.result(
        "Gaussians of places, fit", fitting / count, plain_fit / count, "s an image", "NumPy"
    )
    common.result("Gaussians of places, score", scoring, plain_score, "s an image", "one by one")


if __name__ == "__main__":
    main()
