"""Times anomaly maps by feature maps against those of a patch model.

    python experiments/benchmarks/anomaly_maps.py [--rounds=5] [--size=256]

The baseline is the paper's patch model (Appendix A.5): ResNet-18 on patches of 32 with stride 4,
and one Gaussian for all of them. Scores without maps, by the same networks, are timed too. Weights
and images are random, which does not change the time.
"""

import common
import numpy as np

NORMAL = 40  # images that densities are fitted to


def main() -> None:
    """Prints each kind's seconds per image, and the megabytes of what is fitted."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--images", type=int, default=32, help="images in a measurement")
    parser.add_argument("--patch_images", type=int, default=2, help="the same, for the patch model")
    arguments = parser.parse_args()

    from cutpaste_tf.config import Config
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.models.backbone import build_backbone, copy_network, side_by_side
    from cutpaste_tf.scoring.detector import make_scorer

    def images(count, seed):
        shape = [count, arguments.size, arguments.size, 3]
        pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        return pipeline.of_arrays(pixels, arguments.size)

    made_of = {"dataset": "folder", "data_dir": ".", "category": "none"}
    lite = {"backbone": "efficientnet_lite0", "features": "level7"}
    two = {"weights": "some.weights.h5", "keep_pretrained": True}  # as in lite0.flags
    kinds = {
        "patch model": {"patch_size": 64},
        "Lite0, a score alone": lite,
        "Lite0, score and map": lite | {"maps": "features"},
        "Lite0, score and map, block5": lite | {"maps": "features", "map_levels": "block5"},
        "two Lite0, score and map": lite | two | {"maps": "features"},
        "ResNet-18, a score alone": {},
        "ResNet-18, score and map": {"maps": "features"},
    }
    timers, counts, megabytes = {}, {}, {}
    for name, flags in kinds.items():
        config = Config(**made_of, image_size=arguments.size, **flags)
        network = build_backbone(config, initial_weights=False)
        if config.keep_pretrained:
            network = side_by_side(copy_network(network), network)
        scorer = make_scorer(config, network)
        patches = bool(config.patch_size)
        counts[name] = arguments.patch_images if patches else arguments.images
        fit = scorer.fit(images(2 if patches else NORMAL, 0))
        tested = images(counts[name], 2)

        def score(scorer=scorer, fit=fit, tested=tested):
            scored = scorer.score(fit, tested)
            if scored.maps is not None:
                scored.maps.read(range(tested.count))

        timers[name] = common.timed(score)
        megabytes[name] = sum(array.nbytes for array in fit.arrays().values()) / 1e6
    seconds = common.medians(timers, arguments.rounds)
    print(common.machine("tensorflow", "keras"))
    each = {name: median / counts[name] for name, median in seconds.items()}
    baseline = next(iter(each))
    for name, one in each.items():
        print(
            f"{name:32s} {one:8.4f} s an image  {megabytes[name]:8.1f} MB  "
            f"{each[baseline] / one:7.1f} times the rate"
        )
        if name != baseline:
            common.result(f"anomaly maps, {name}", one, each[baseline], "s an image", baseline)


if __name__ == "__main__":
    main()
