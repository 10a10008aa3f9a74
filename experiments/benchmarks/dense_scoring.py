"""Speed of scoring all patches of an image: ours, with shared work, against crop by crop.

    python experiments/benchmarks/dense_scoring.py [--rounds=3] [--stem=small] [--width=1]

The naive way cuts the patches of an image out and runs the network on them, in batches. Both give
the same scores: the largest relative difference is printed. Rounds alternate; medians count.
"""

import resource

import common
import numpy as np

PATCH = 32


def main() -> None:
    """Measures and prints."""
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--stem", default="large", choices=["large", "small"])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--crops", type=int, default=1024, help="a batch of the naive way")
    arguments = parser.parse_args()

    import keras
    import tensorflow as tf

    from cutpaste_tf import density
    from cutpaste_tf.data import pipeline
    from cutpaste_tf.data.split import normal
    from cutpaste_tf.localize import patch
    from cutpaste_tf.models.resnet import resnet18

    keras.utils.set_random_seed(0)
    backbone = resnet18(None, width=arguments.width, stem=arguments.stem)
    rng = np.random.default_rng(0)
    for layer in backbone.layers:  # statistics such as a trained network has
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(rng.uniform(0.5, 2.0, layer.moving_variance.shape))
            layer.moving_mean.assign(rng.uniform(-0.5, 0.5, layer.moving_mean.shape))
    arrays = list(
        rng.integers(0, 256, (arguments.images, arguments.size, arguments.size, 3), np.uint8)
    )
    images = pipeline.prepare(normal([str(i) for i in range(len(arrays))], arrays), arguments.size)

    @tf.function(reduce_retracing=True)
    def embed_crops(crops):
        return backbone(crops, training=False)["pool"]

    @tf.function
    def cut(image):
        window, step = [1, PATCH, PATCH, 1], [1, arguments.stride, arguments.stride, 1]
        crops = tf.image.extract_patches(image[None], window, step, [1, 1, 1, 1], "VALID")
        return tf.reshape(tf.cast(crops, tf.float32) / 255.0, [-1, PATCH, PATCH, 3])

    embedder = patch.PatchEmbedder(backbone, arguments.size, PATCH, arguments.stride)

    def naive():
        found = []
        for image in images.stored:
            crops = cut(image)
            parts = [
                embed_crops(crops[i : i + arguments.crops])
                for i in range(0, len(crops), arguments.crops)
            ]
            found.append(np.concatenate(parts))
        return np.stack(found)

    def ours():
        bands = [np.concatenate(list(embedder.embeddings(images, b))) for b in embedder.bands]
        whole = np.concatenate(bands, axis=1)
        return whole.reshape(len(whole), -1, whole.shape[-1])

    features = {"naive": naive(), "ours": ours()}  # traces both
    fitted = density.GaussianDensity().fit(features["naive"].reshape(-1, embedder.dimensions))
    scores = {name: fitted.score(f.reshape(-1, f.shape[-1])) for name, f in features.items()}
    difference = np.max(np.abs(scores["ours"] - scores["naive"]) / scores["naive"])

    methods = {"naive": common.timed(naive), "ours": common.timed(ours)}
    taken = common.medians(methods, arguments.rounds)
    seconds = {name: value / arguments.images for name, value in taken.items()}
    patches = embedder.count**2
    print(common.machine("tensorflow"))
    print(
        f"ResNet-18, stem {arguments.stem}, width {arguments.width:g}: {patches} patches of "
        f"{PATCH}x{PATCH}, stride {arguments.stride}, of {arguments.size}x{arguments.size} images"
    )
    for name, value in seconds.items():
        print(f"{name:6s} {value:8.3f} s an image, {patches / value:10.0f} patches/s")
    print(f"largest relative difference in score {difference:.1e}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")
    title = f"patch scoring, stem {arguments.stem}, width {arguments.width:g}"
    baseline = seconds["naive"]
    common.result(title, seconds["ours"], baseline, "s an image", "patches one by one, batched")


if __name__ == "__main__":
    main()
