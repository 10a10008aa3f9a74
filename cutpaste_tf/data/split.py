"""Sets of images with their labels, wherever they come from."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """N images with their labels, in a fixed order.

    Attributes:
      names: the images' names in tables: a file's path in its data set, or a made-up one.
      images: paths of files, or uint8 arrays [H, W] or [H, W, C].
      defect_types: "good" for normal images, else the type of the defect.
      masks: for each image None, a mask's path, or a bool array [H, W] that is True on the
        defect; None for normal images.
    """

    names: Sequence[str]
    images: Sequence[str] | Sequence[np.ndarray]
    defect_types: Sequence[str]
    masks: Sequence[str | np.ndarray | None]

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int64 [N], 0 for normal and 1 for anomalous."""
        return np.array([kind != "good" for kind in self.defect_types], np.int64)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """Returns some of the images, in the order of their indices."""
        columns = (self.names, self.images, self.defect_types, self.masks)
        return Split(*([column[i] for i in indices] for column in columns))

    def examples(self, count: int) -> np.ndarray:
        """Selects at most `count` images to show, int64 [n], type by type, the normal ones last.

        They are anomalous images, equally many of each type, filled up with normal ones.
        """
        ranked, earlier = [], dict.fromkeys(self.defect_types, 0)
        for i, kind in enumerate(self.defect_types):
            ranked.append((kind == "good", earlier[kind], kind, i))
            earlier[kind] += 1
        selected = sorted((is_good, kind, i) for is_good, _, kind, i in sorted(ranked)[:count])
        return np.array([i for *_, i in selected], np.int64)

    def spread(self, count: int) -> np.ndarray:
        """Selects at most `count` images, evenly from the first to the last, int64 [n]."""
        count = min(count, len(self))
        return np.linspace(0, len(self) - 1, count).astype(np.int64)

    @property
    def from_files(self) -> bool:
        """Whether the images are paths of files."""
        return len(self.images) > 0 and isinstance(self.images[0], str)


@dataclasses.dataclass(frozen=True)
class Category:
    """One category of a data set: normal images to train on, and test images, if there are any.

    `notes` are lines on what was left out or does not fit.
    """

    train: Split
    test: Split
    notes: Sequence[str] = ()


def natural_order(name: str) -> str:
    """Returns a key that sorts names as people count: img_2 before img_10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name)


def normal_split(names: Sequence[str], images: Sequence) -> Split:
    """Makes a split of normal images."""
    return Split(names, images, ["good"] * len(names), [None] * len(names))
