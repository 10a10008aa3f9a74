"""CIFAR-10 for semantic outliers: one class is normal, the nine others are not (Section 5.4).

The protocol of the paper's [20, 52]: the 5,000 training images of a class are for training, and all
10,000 test images for testing, those of other classes as anomalous. TensorFlow Datasets fetches
CIFAR-10 (162 MiB) the first time.
"""

import numpy as np

from cutpaste_tf.choices import CIFAR10_CLASSES
from cutpaste_tf.data import download
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.files import UserError

_SERVER = "www.cs.toronto.edu"


def load(data_dir: str, category: str) -> Category:
    """Loads one class as normal; the defect type of an anomalous image is its class."""
    splits = download.read("cifar10", _SERVER, data_dir, "train", "test")
    if splits is None:
        where = data_dir or "~/tensorflow_datasets"
        raise UserError(
            f"--dataset=cifar10: CIFAR-10 is not in {where}, and {_SERVER} could not be reached; "
            "run tfds build cifar10 on another machine, copy its folder, and name it by --data_dir"
        )
    train, test = (_split(features, category) for features in splits)
    return Category(train.subset(np.flatnonzero(train.labels == 0)), test)


def _split(features, category):
    order = np.argsort(features["id"], kind="stable")
    classes = [CIFAR10_CLASSES[label] for label in features["label"][order]]
    return Split(
        names=[name.decode() for name in features["id"][order]],
        images=list(features["image"][order]),
        defect_types=["good" if name == category else name for name in classes],
        masks=[None] * len(order),
    )
