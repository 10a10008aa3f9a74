"""Data sets: which images there are (`load`), and the tf.data pipelines that read them.

A category of a data set is a `Category`: normal images to train on, and test images that may be
missing. `load` finds them and refuses what is broken before anything is trained.
"""

import dataclasses

from cutpaste_tf.config import Config
from cutpaste_tf.data.split import Category, natural
from cutpaste_tf.files import UserError, as_text


def load(config: Config) -> Category:
    """Finds the images of one category.

    Args:
      config: names the data set, where it is and the category.

    Returns:
      The category's images, checked to exist; files are not yet opened. Those to train on are in
      the natural order of their names, which for most cameras is the order in time.

    Raises:
      UserError: naming what is missing or unreadable.
    """
    category = _load(config)
    for split in (category.train, category.test):
        for path in (*split.images, *split.masks):
            if isinstance(path, str) and as_text(path) != path:
                raise UserError(f"{path}: its name is not UTF-8; rename it")
    train = category.train
    in_order = sorted(range(len(train)), key=lambda i: natural(train.names[i]))
    return dataclasses.replace(category, train=train.subset(in_order))


def _load(config):
    # Imported where needed: each brings packages along that the others do without.
    if config.dataset == "elpv":
        from cutpaste_tf.data import elpv

        return elpv.load(config.category)
    if config.dataset == "textures":
        from cutpaste_tf.data import textures

        return textures.load(config.category)
    if config.dataset == "cifar10":
        from cutpaste_tf.data import cifar10

        return cifar10.load(config.data_dir, config.category)
    if config.dataset == "mvtec_ad":
        from cutpaste_tf.data import mvtec_ad

        return mvtec_ad.load(config.data_dir, config.category)
    from cutpaste_tf.data import folder

    return folder.load(folder.category_root(config.data_dir, config.category))
