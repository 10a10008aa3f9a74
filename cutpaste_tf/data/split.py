"""What is known of a set of images, wherever they come from."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels, in a fixed order.

    Attributes:
      names: what to call each image in tables; a file's path within its data set, or made up.
      images: the N images: paths of files, or uint8 arrays [H, W] or [H, W, C].
      labels: int64 [N], 0 for normal and 1 for anomalous.
      defect_types: "good", or the type of the defect.
      masks: for each image None, a mask's path, or a bool array [H, W] that is True on the
        defect; None for normal images.
    """

    names: Sequence[str]
    images: Sequence[str] | Sequence[np.ndarray]
    labels: np.ndarray
    defect_types: Sequence[str]
    masks: Sequence[str | np.ndarray | None]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """Returns some of the images, in the order of their indices."""
        indices = [int(i) for i in indices]

        def chosen(column):
            return [column[i] for i in indices]

        return Split(
            chosen(self.names),
            chosen(self.images),
            self.labels[indices],
            chosen(self.defect_types),
            chosen(self.masks),
        )

    def examples(self, count: int) -> np.ndarray:
        """Chooses `count` images at most to show, int64 [n], type by type, the normal ones last.

        They are anomalous ones, of each type alike, and normal ones where these are too few.
        """
        groups = {}
        for i in np.argsort(-self.labels, kind="stable"):  # anomalous first
            groups.setdefault((-self.labels[i], self.defect_types[i]), []).append(int(i))
        # One of each type in turn; normal images after all anomalous ones.
        rounds = sorted(
            (group[0], turn, group[1], i)
            for group, members in groups.items()
            for turn, i in enumerate(members)
        )
        chosen = sorted((group, kind, i) for group, _, kind, i in rounds[:count])
        return np.array([i for _, _, i in chosen], np.int64)

    def spread(self, count: int) -> np.ndarray:
        """Chooses `count` images at most, evenly from the first to the last, int64 [n]."""
        count = min(count, len(self))
        return np.linspace(0, len(self) - 1, count).astype(np.int64)

    @property
    def from_files(self) -> bool:
        """Whether the images are paths of files."""
        return len(self.images) > 0 and isinstance(self.images[0], str)


@dataclasses.dataclass(frozen=True)
class Category:
    """One category.

    Attributes:
      train: normal images to train on.
      test: test images; an empty split where there are none.
      notes: lines on what was left out or does not fit.
    """

    train: Split
    test: Split
    notes: Sequence[str] = ()


def natural(name: str) -> str:
    """Returns a key that sorts names as people count: img_2 before img_10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name)


def normal(names: Sequence[str], images: Sequence) -> Split:
    """Makes a split of normal images."""
    return Split(
        names, images, np.zeros(len(names), np.int64), ["good"] * len(names), [None] * len(names)
    )
