"""Data sets, and the way of their images to the network.

`load` takes the name of a data set, its folder and a category, and returns a `Category`: which
images there are. `pipeline.prepare` makes of these `Images`, the network's inputs.
"""

import dataclasses
import importlib

from cutpaste_tf.config import Config
from cutpaste_tf.data.split import Category, natural_order


def load(config: Config) -> Category:
    """Finds the images of one category, and reads its masks; a UserError names what is missing.

    The training images are in the natural order of their names: for most cameras the order in time.
    """
    # Each data set is a module of this package, and needs packages that the others do not.
    dataset = importlib.import_module(f"cutpaste_tf.data.{config.dataset}")
    category = dataset.load(config.data_dir, config.category)
    train = category.train
    in_order = sorted(range(len(train)), key=lambda i: natural_order(train.names[i]))
    return dataclasses.replace(category, train=train.subset(in_order))
