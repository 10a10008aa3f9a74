"""A baseline of localisation without any network: a Gaussian for each pixel's colour.

    python experiments/benchmarks/pixel_gaussian.py --data_dir=DIR --category=NAME [--image_size=N]

The script fits mean and covariance of each pixel's colour to the normal training images. A test
pixel's score is its Mahalanobis distance, as it is and smoothed. Prints pixel AUROC, AP and AUPRO.
"""

import argparse
import os

import numpy as np
import scipy.ndimage

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import cutpaste_tf  # noqa: F401 - before TensorFlow


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--category", required=True)
    parser.add_argument("--image_size", type=int, default=256)
    arguments = parser.parse_args()

    from cutpaste_tf.data import folder, pipeline
    from cutpaste_tf.data.preparation import mask_of_size, resize_map
    from cutpaste_tf.scoring import metrics

    size = arguments.image_size
    category = folder.load(arguments.data_dir, arguments.category)
    images = [pipeline.prepare(split, size) for split in (category.train, category.test)]
    train, test = (each.stored.numpy().astype(np.float64) for each in images)
    mean = train.mean(axis=0)
    centred = (train - mean).transpose(1, 2, 3, 0)
    covariance = centred @ centred.transpose(0, 1, 3, 2) / len(train) + np.eye(3)
    precision = np.linalg.inv(covariance)
    print(f"{arguments.category}, {size}x{size}, a Gaussian for each pixel")
    for deviation in (0, size // 64, size // 25):
        pixels = metrics.PixelScores()
        for image, mask, own in zip(test, category.test.masks, images[1].sizes, strict=True):
            difference = image - mean
            squared = np.einsum("hwc,hwcd,hwd->hw", difference, precision, difference)
            smoothed = scipy.ndimage.gaussian_filter(np.sqrt(squared), deviation)
            pixels.add(resize_map(smoothed, own), mask_of_size(mask, own))
        found = ", ".join(f"{name} {100 * x:.1f}" for name, x in pixels.compute().items())
        print(f"smoothed by {deviation:2d} pixels: {found}")


if __name__ == "__main__":
    main()
