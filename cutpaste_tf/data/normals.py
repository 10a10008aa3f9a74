"""What a run keeps of its normal training images, so that densities can be made anew of them.

Nothing here imports TensorFlow, unless the data set does.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from cutpaste_tf import data
from cutpaste_tf.config import Config
from cutpaste_tf.data import fingerprint
from cutpaste_tf.data.split import Split, normal
from cutpaste_tf.files import UserError, replacing


@dataclasses.dataclass(frozen=True)
class Normals:
    """N normal images, of K tiles each, and what a network and its densities made of them.

    Attributes:
      names: str [N], as in normal_scores.csv.
      paths: str [N], the files of those that are not of the run's data set; "" of the others.
      sha256: str [N], in hexadecimal, of the images' contents.
      seen: bool [N, K], which tiles hold anything that is looked at.
      embeddings: float32 [N, K, D]; [N, 0, 0] of a patch model.
      map_scores: float64 [N, K], the maps' largest, cross-validated; [N, 0] where there are none.
      peaks: float64 [N, 1], the largest pixel of each map; [N, 0] where there are none.
    """

    names: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray
    seen: np.ndarray
    embeddings: np.ndarray
    map_scores: np.ndarray
    peaks: np.ndarray

    @classmethod
    def of(cls, split: Split, seen: np.ndarray, paths: Sequence[str] | None = None) -> "Normals":
        """Returns what is known of images before a network has seen them.

        Args:
          split: the N images.
          seen: bool [N * K].
          paths: as above; of images of the run's data set by default.

        Raises:
          UserError: if a file cannot be read.
        """
        count = len(split)
        return cls(
            names=np.array(split.names, np.str_),
            paths=np.array([""] * count if paths is None else paths, np.str_),
            sha256=np.array([fingerprint.digest(image).hex() for image in split.images], np.str_),
            seen=seen.reshape(count, len(seen) // max(count, 1)),
            embeddings=np.zeros([count, 0, 0], np.float32),
            map_scores=np.zeros([count, 0]),
            peaks=np.zeros([count, 0]),
        )

    def having(
        self, embeddings: np.ndarray | None, map_scores: np.ndarray, peaks: np.ndarray
    ) -> "Normals":
        """Returns the same images with what was made of them.

        Args:
          embeddings: [N * K, D]; None of a patch model.
          map_scores: [N * K], or none.
          peaks: [N], or none.
        """
        count, tiles = self.seen.shape
        more = {}
        if embeddings is not None:
            more["embeddings"] = embeddings.reshape(count, tiles, embeddings.shape[-1])
        return dataclasses.replace(
            self,
            map_scores=map_scores.reshape(count, tiles if len(map_scores) else 0),
            peaks=peaks.reshape(count, 1 if len(peaks) else 0),
            **more,
        )

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Normals":
        """Returns some of the images, in the order of their indices, int [M]."""
        arrays = vars(self).items()
        return Normals(**{name: array[np.asarray(indices, int)] for name, array in arrays})

    def joined(self, other: "Normals") -> "Normals":
        """Returns these images and then others, by the same network; itself if there are none."""
        if not len(other):
            return self
        arrays = vars(self).items()
        return Normals(**{n: np.concatenate([x, getattr(other, n)]) for n, x in arrays})

    def split(self, config: Config) -> Split:
        """Finds the images' contents.

        Args:
          config: the run's settings; those without a path are looked for in its data set.

        Returns:
          The images in their order.

        Raises:
          UserError: if the data set is not where it was, or an image is no longer in it.
        """
        known = {}
        if not self.paths.all():
            train = data.load(config).train
            known = dict(zip(train.names, train.images, strict=True))
        names, paths = self.names.tolist(), self.paths.tolist()
        missing = (n for n, path in zip(names, paths, strict=True) if not path and n not in known)
        if (first := next(missing, None)) is not None:
            raise UserError(f"{first}: is no longer among the training images")
        pairs = zip(names, paths, strict=True)
        return normal(names, [path or known[name] for name, path in pairs])

    def save(self, path: str | os.PathLike) -> None:
        """Writes them as .npz, without pickle."""
        save_arrays(path, vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Normals":
        """Reads what `save` wrote; a UserError if that cannot be."""
        arrays = load_arrays(path)
        with unreadable(path):
            made = cls(**arrays)
            kinds = {"U": ("names", "paths", "sha256"), "b": ("seen",)}
            kinds["f"] = ("embeddings", "map_scores", "peaks")
            for kind, names in kinds.items():
                for name in names:
                    array = arrays[name]
                    if array.dtype.kind != kind or len(array) != len(made):
                        raise ValueError(f"{name} does not fit")
                    if kind == "f" and not np.isfinite(array).all():
                        raise ValueError(f"{name} must be finite")
            return made


@contextlib.contextmanager
def unreadable(path: str | os.PathLike) -> Iterator[None]:
    """Makes a UserError that names a file of whatever its contents raise in the block."""
    try:
        yield
    # A damaged or hostile archive makes zipfile, zlib and NumPy raise almost anything.
    except Exception as error:
        raise UserError(f"{path}: not readable as what a run keeps for refit ({error})") from error


def save_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as .npz, without pickle, and atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote; a UserError if that cannot be."""
    with unreadable(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
