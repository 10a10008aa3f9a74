"""CIFAR-10 for semantic outliers: one class is normal, the nine others are not (Section 5.4).

The protocol of the paper's [20, 52]: the 5,000 training images of a class are for training, and all
10,000 test images for testing, those of other classes as anomalous. By TensorFlow Datasets, which
fetches it (162 MiB) where it is not there yet.
"""

import numpy as np

from cutpaste_tf.choices import CIFAR10_CLASSES
from cutpaste_tf.data import download
from cutpaste_tf.data.split import Category, Split, normal
from cutpaste_tf.files import UserError

_SERVER = "www.cs.toronto.edu"


def load(data_dir: str, category: str) -> Category:
    """Loads one class as normal; the defect type of an anomalous image is its class."""
    builder = download.prepare_builder("cifar10", _SERVER, data_dir or None)
    if builder is None:
        where = data_dir or "~/tensorflow_datasets"
        raise UserError(
            f"--dataset=cifar10: not in {where}, and {_SERVER} could not be reached; fetch it "
            "where you can, with tfds build cifar10, and name its folder by --data_dir"
        )

    def read(split):
        features = download.read(builder, split)
        order = np.argsort(features["id"], kind="stable")
        names = [name.decode() for name in features["id"][order]]
        return names, features["image"][order], features["label"][order]

    wanted = CIFAR10_CLASSES.index(category)
    names, images, labels = read("train")
    chosen = np.flatnonzero(labels == wanted)
    if not len(chosen):
        raise UserError(f"--category={category}: there are no images of it in {builder.data_path}")
    train = normal([names[i] for i in chosen], list(images[chosen]))
    names, images, labels = read("test")
    kinds = ["good" if label == wanted else CIFAR10_CLASSES[label] for label in labels]
    test = Split(
        names=names,
        images=list(images),
        labels=(labels != wanted).astype(np.int64),
        defect_types=kinds,
        masks=[None] * len(names),
    )
    return Category(train, test)
