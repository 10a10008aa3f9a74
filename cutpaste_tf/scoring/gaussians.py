"""Gaussians by location: of patches (Appendix A.5), and of the vectors of feature maps.

Everything is float64, as in `density`; but for the whiteners of many locations.
"""

import copy
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cutpaste_tf.scoring import density as densities

_FIT_MEMORY = 2**26  # bytes of scatters that are turned into Gaussians at a time


class LocationGaussians:
    """Gaussians of patch embeddings: one for each location of an image, L of them, or one for all.

    `mean` is float64 [L, D]; `whitener` [L, D, D], W with W^T W the inverse covariance, in float32
    for several locations: 57 x 57 of them with 512 dimensions take 3.4 GB so. `level`, float64 [L],
    is the root mean square of the distances that each was fitted to.
    """

    kind = "patch_gde"

    def __init__(self, mean: np.ndarray, whitener: np.ndarray, level: np.ndarray):
        self.mean, self.whitener, self.level = mean, whitener, level

    def score(self, features: np.ndarray, start: int = 0) -> np.ndarray:
        """Mahalanobis distances, [N, M], of embeddings, [N, M, D], from location `start` on.

        They are float64 for one Gaussian and float32 for several. Embeddings that are not finite
        are a UserError.
        """
        densities.check_finite(features)
        if len(self.mean) == 1:
            centred = features.astype(np.float64) - self.mean
            return np.linalg.norm(centred @ self.whitener[0].T, axis=-1)
        chosen = slice(start, start + features.shape[1])
        # Centred in float64: the mean may be large beside the spread.
        centred = (features.astype(np.float64) - self.mean[chosen]).astype(np.float32)
        white = tf.matmul(centred.transpose(1, 0, 2), self.whitener[chosen], transpose_b=True)
        return tf.norm(white, axis=2).numpy().T

    def take(self, locations: np.ndarray | slice) -> "LocationGaussians":
        """Returns those of some locations, int [M], each as often as it is named."""
        return LocationGaussians(
            self.mean[locations], self.whitener[locations], self.level[locations]
        )

    @classmethod
    def join(cls, parts: Sequence["LocationGaussians"]) -> "LocationGaussians":
        """Makes one of several, their locations after each other."""
        means = np.concatenate([part.mean for part in parts])
        whiteners = np.concatenate([part.whitener.astype(np.float32, copy=False) for part in parts])
        return cls(means, whiteners, np.concatenate([part.level for part in parts]))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `save` writes."""
        return {"mean": self.mean, "whitener": self.whitener, "level": self.level}

    @classmethod
    def from_arrays(cls, kind: str, arrays: dict[str, np.ndarray]) -> "LocationGaussians":
        """Makes fitted Gaussians out of what `arrays` returned."""
        del kind  # There is one.
        return cls(*densities.shaped(arrays, mean="LD", whitener="LDD", level="L"))


class MapGaussians:
    """Gaussians of the vectors of feature maps, and what the scores of normal images are.

    There is one for each place, row by row, of the grid: K maps of h x w; or K, one for each map.
    `usual`, float64 [2, 2], is mean and standard deviation of normal images' scores, first those of
    the pooled features, then those of maps; [0, 2] where there are none.
    """

    kind = "map_gde"

    def __init__(self, gaussians: LocationGaussians, grid: tuple[int, int, int], usual: np.ndarray):
        self.gaussians, self.grid, self.usual = gaussians, grid, usual

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Returns Mahalanobis distances, float32 [N, h, w], of vectors, [N, K, h, w, D].

        Of K maps they are the root of the sum of their squares.
        """
        count, (maps, height, width) = len(vectors), self.grid
        if len(self.gaussians.mean) == maps:  # one for all places of a map
            places = vectors.reshape(count, maps, height * width, -1)
            each = [self.gaussians.take([k]).score(places[:, k]) for k in range(maps)]
            distances = np.stack(each, axis=1)
        else:
            places = vectors.reshape(count, maps * height * width, -1)
            distances = self.gaussians.score(places).reshape(count, maps, -1)
        total = np.sqrt(np.sum(np.square(distances, dtype=np.float64), axis=1))
        return total.reshape(count, height, width).astype(np.float32)

    def combine(self, pooled: np.ndarray, largest: np.ndarray) -> np.ndarray:
        """Averages images' pooled and largest map scores, [N], each standardised by `usual`."""
        mean, deviation = self.usual.T
        return ((np.stack([pooled, largest], axis=1) - mean) / deviation).mean(axis=1)

    @property
    def level(self) -> float:
        """The usual score of a normal place."""
        level = self.gaussians.level.reshape(self.grid[0], -1)
        return float(np.mean(np.sqrt(np.sum(level**2, axis=0))))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `save` writes."""
        return {**self.gaussians.arrays(), "grid": np.array(self.grid), "usual": self.usual}

    @classmethod
    def from_arrays(cls, kind: str, arrays: dict[str, np.ndarray]) -> "MapGaussians":
        """Makes fitted Gaussians out of what `arrays` returned."""
        gaussians = LocationGaussians.from_arrays(kind, arrays)
        grid, usual = densities.shaped(arrays, grid="G", usual="UV")
        maps, height, width = grid.tolist()
        if len(gaussians.mean) not in (maps, maps * height * width):
            raise ValueError("grid")
        return cls(gaussians, (maps, height, width), usual)


class GaussianStatistics:
    """What L Gaussians with Ledoit and Wolf's shrinkage need to know, gathered batch by batch.

    `like` are others that these are to be taken from, by `without`.
    """

    def __init__(self, locations: int, dims: int, like: "GaussianStatistics | None" = None):
        self._count = 0
        self._origin = None if like is None else like._origin
        self._sum = np.zeros([locations, dims])
        self._scatter = np.zeros([locations, dims, dims])
        self._third = np.zeros([locations, dims])
        self._fourth = np.zeros([locations])

    def update(self, features: np.ndarray) -> None:
        """Adds features, [N, L, D], of un-augmented normal images; a UserError if not finite."""
        features = np.asarray(features, np.float64)
        densities.check_finite(features)
        if not len(features):
            return
        if self._origin is None:
            # Moments about some typical value: about zero, large means would drown the spread.
            self._origin = features.mean(axis=(0, 1))
        y = features - self._origin
        squared = np.sum(y * y, axis=-1)
        self._count += len(y)
        self._sum += y.sum(axis=0)
        self._scatter += y.transpose(1, 2, 0) @ y.transpose(1, 0, 2)
        self._third += np.einsum("nl,nld->ld", squared, y)
        self._fourth += np.sum(squared * squared, axis=0)

    def without(self, part: "GaussianStatistics") -> "GaussianStatistics":
        """Returns the statistics of all features but those of a part, which was made like these."""
        rest = copy.copy(self)
        for name in ("_count", "_sum", "_scatter", "_third", "_fourth"):
            setattr(rest, name, getattr(self, name) - getattr(part, name))
        return rest

    def of_neighbourhoods(self, grid: tuple[int, int, int], reach: int) -> "GaussianStatistics":
        """Returns the statistics of places with those up to `reach` rows and columns around them.

        The locations are those of the grid, K maps of h x w, row by row. The result's are as many
        as there are neighbourhoods that lie in a map as a whole: K * (h - 2 reach) * (w - 2 reach).
        """
        maps, height, width = grid
        height, width = height - 2 * reach, width - 2 * reach
        sides = [(i, j) for i in range(2 * reach + 1) for j in range(2 * reach + 1)]
        around = copy.copy(self)
        around._count = self._count * len(sides)
        for name in ("_sum", "_scatter", "_third", "_fourth"):
            of_places = getattr(self, name)
            of_places = of_places.reshape(*grid, *of_places.shape[1:])
            total = sum(of_places[:, i : i + height, j : j + width] for i, j in sides)
            setattr(around, name, total.reshape(maps * height * width, *total.shape[3:]))
        return around

    def fit(self) -> LocationGaussians:
        """Returns the Gaussians of what was added: one feature at least for each location."""
        if not self._count:
            raise ValueError("there are no features to fit a density to")
        locations, dims = self._sum.shape
        # A few locations at a time: the work needs several times the memory of their scatters.
        step = max(1, _FIT_MEMORY // (8 * dims * dims))
        # A location where all images are the same has no variance to divide by.
        floor = 1e-9 * np.mean(self._variance(slice(None))) + 1e-30
        starts = range(0, locations, step)
        size = self._size
        parts = [self._fit(slice(first, first + step), floor, size) for first in starts]
        return parts[0] if locations == 1 else LocationGaussians.join(parts)

    @property
    def vary(self) -> bool:
        """Whether the features of any location differ by more than rounding."""
        return bool(np.mean(self._variance(slice(None))) > densities.ROUNDING * self._size)

    @property
    def _size(self):
        """The mean square of the features."""
        mean = self._sum / self._count
        trace = np.trace(self._scatter, axis1=1, axis2=2) / self._count
        about_zero = trace + np.sum(self._origin * (self._origin + 2.0 * mean), axis=1)
        return float(np.mean(about_zero)) / mean.shape[1]

    def _variance(self, chosen):
        trace = np.trace(self._scatter[chosen], axis1=1, axis2=2) / self._count
        mean = self._sum[chosen] / self._count
        return (trace - np.sum(mean * mean, axis=1)) / mean.shape[1]

    def _fit(self, chosen, floor, size):
        n, dims = self._count, self._sum.shape[1]
        scatter, mean = self._scatter[chosen], self._sum[chosen] / n
        product = np.einsum("ld,lde,le->l", mean, scatter, mean)
        square = np.sum(mean * mean, axis=1)
        # The sum of the fourth powers of the distances from the mean, multiplied out.
        fourth = (
            self._fourth[chosen]
            + 4.0 * product
            + n * square**2
            - 4.0 * np.sum(mean * self._third[chosen], axis=1)
            + 2.0 * square * np.trace(scatter, axis1=1, axis2=2)
            - 4.0 * square * np.sum(mean * self._sum[chosen], axis=1)
        )
        covariance = scatter / n - mean[:, :, None] * mean[:, None, :]
        # Ledoit and Wolf (2004), as in scikit-learn's ledoit_wolf.
        variance = self._variance(chosen)
        norm = np.sum(covariance**2, axis=(1, 2))
        beta = (fourth / n - norm) / (dims * n)
        delta = norm / dims - variance**2
        beta = np.clip(beta, 0.0, np.maximum(delta, 0.0))
        shrinkage = np.divide(beta, delta, out=np.zeros_like(beta), where=beta > 0.0)
        shrunk = covariance * (1.0 - shrinkage)[:, None, None]
        least = densities.least_variance(size, variance, dims)
        added = np.where(shrinkage * variance + floor < least, least, floor)
        shrunk[:, np.arange(dims), np.arange(dims)] += (shrinkage * variance + added)[:, None]
        identity = tf.eye(dims, batch_shape=[len(shrunk)], dtype=tf.float64)
        whitener = tf.linalg.triangular_solve(tf.linalg.cholesky(shrunk), identity).numpy()
        level = np.sqrt(np.maximum(np.sum((whitener @ covariance) * whitener, axis=(1, 2)), 0.0))
        if len(self._sum) > 1:
            whitener = whitener.astype(np.float32)
        return LocationGaussians(self._origin + mean, whitener, level)
