"""ELPV: electroluminescence images of solar cells (Deitsch et al., Solar Energy 2019).

2,624 grey images of 300x300 pixels, in the package `elpv-dataset` (extra `demo`), licensed
CC BY-NC-SA 4.0. Each has a probability of being defective, 0, 1/3, 2/3 or 1, by expert judgement,
and a type: mono- or polycrystalline, the two categories here.

Cells of probability 0 are normal: a fixed four fifths of them are for training, the others for
testing. Cells of probability 1 are anomalous. Cells that the experts were unsure about (1/3, 2/3)
are left out, since no verdict on them is right or wrong. There are no masks.
"""

import numpy as np

from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.files import UserError

TRAIN_SHARE = 0.8
_SPLIT_SEED = 0


def load(data_dir: str, category: str) -> Category:
    """Loads the cells of one type from the package; `data_dir` is not used."""
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise UserError(
            '--dataset=elpv: needs the package elpv-dataset; pip install "cutpaste-tf[demo]"'
        ) from error
    images, probabilities, types = load_dataset()

    def split(indices):
        return Split(
            names=[f"images/cell{index + 1:04d}.png" for index in indices],
            images=list(images[indices]),
            defect_types=["defective" if p else "good" for p in probabilities[indices]],
            masks=[None] * len(indices),
        )

    functional = np.flatnonzero((types == category) & (probabilities == 0.0))
    defective = np.flatnonzero((types == category) & (probabilities == 1.0))
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(functional))
    train, held_out = np.split(functional[order], [round(TRAIN_SHARE * len(functional))])
    return Category(split(np.sort(train)), split(np.concatenate([np.sort(held_out), defective])))
