"""Gaussians by place: of patches (Appendix A.5), and of the vectors of feature maps.

All is float64, as in `density`, except the whiteners of several places.
"""

import copy
import dataclasses

import numpy as np
import tensorflow as tf

from cutpaste_tf.scoring import density as densities

_FIT_MEMORY = 2**26  # bytes of the scatters that are turned into Gaussians at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussians:
    """L Gaussians of vectors of length D.

    Attributes:
      mean: float64 [L, D].
      whitener: [L, D, D]; the length of (vector - mean) @ whitener is the Mahalanobis distance. It
        is float32 for several places: 57 x 57 places with 512 dimensions take 3.4 GB.
      level: float64 [L], the root mean square distance of the vectors that each was fitted to.
      nearest: float32 [L, N, D] or None: whitened normal vectors; distances are then to the
        nearest of these instead of the mean.
    """

    mean: np.ndarray
    whitener: np.ndarray
    level: np.ndarray
    nearest: np.ndarray | None = None

    def take(self, places: np.ndarray) -> "Gaussians":
        """Returns the Gaussians of some places, int [M], which may repeat."""
        return Gaussians(self.mean[places], self.whitener[places], self.level[places])

    @classmethod
    def empty(cls, count: int, dims: int) -> "Gaussians":
        """Allocates Gaussians of several places, for `put` to fill; joining takes twice as much."""
        whitener = np.zeros([count, dims, dims], np.float32)
        return cls(np.zeros([count, dims]), whitener, np.zeros([count]))

    def put(self, first: int, part: "Gaussians") -> None:
        """Writes the Gaussians of some places, from the place `first` on."""
        for name in ("mean", "whitener", "level"):
            values = getattr(part, name)
            getattr(self, name)[first : first + len(values)] = values


class GaussianStatistics:
    """Statistics for L Gaussians with Ledoit and Wolf's shrinkage, gathered batch by batch.

    `like`: the statistics of all images, if these belong to some of them. Both then have the same
    origin, so that `like.without(these)` can subtract.
    """

    def __init__(self, locations: int, dims: int, like: "GaussianStatistics | None" = None):
        self._count = 0
        self._origin = None if like is None else like._origin
        self._sum = np.zeros([locations, dims])
        self._scatter = np.zeros([locations, dims, dims])
        self._third = np.zeros([locations, dims])
        self._fourth = np.zeros([locations])

    def update(self, features: np.ndarray) -> None:
        """Adds features, [N, L, D], of un-augmented normal images; UserError if not finite."""
        features = np.asarray(features, np.float64)
        densities.check_finite(features)
        if not len(features):
            return
        if self._origin is None:
            # Moments are about a typical value: about zero, large means would hide the spread.
            self._origin = features.mean(axis=(0, 1))
        y = features - self._origin
        squared = np.sum(y * y, axis=-1)
        self._count += len(y)
        self._sum += y.sum(axis=0)
        self._scatter += y.transpose(1, 2, 0) @ y.transpose(1, 0, 2)
        self._third += np.einsum("nl,nld->ld", squared, y)
        self._fourth += np.sum(squared * squared, axis=0)

    def without(self, part: "GaussianStatistics") -> "GaussianStatistics":
        """Returns the statistics of all features but those of a part, which has `like` these."""
        rest = copy.copy(self)
        for name in ("_count", "_sum", "_scatter", "_third", "_fourth"):
            setattr(rest, name, getattr(self, name) - getattr(part, name))
        return rest

    def of_neighbourhoods(self, grid: tuple[int, int, int], reach: int) -> "GaussianStatistics":
        """Returns the statistics of places with those up to `reach` rows and columns around them.

        The locations are those of a grid of M maps of h x w, row by row. The result has one for
        each neighbourhood that lies wholly in a map: M * (h - 2 reach) * (w - 2 reach).
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

    def fit(self, least_variance: float = 0.0, maps: int = 1) -> Gaussians:
        """Fits the Gaussians; each location needs at least one feature.

        `least_variance` is added to all variances, as a share of the mean variance of the map that
        a location belongs to. The locations are those of `maps` maps, one after the other.
        """
        if not self._count:
            raise ValueError("there are no features to fit a density to")
        locations, dims = self._sum.shape
        # A few locations at a time, since this needs several times the memory of their scatters.
        step = max(1, _FIT_MEMORY // (8 * dims * dims))
        # A location where all images are the same has no variance to divide by.
        usual = np.mean(self._variance(slice(None)).reshape(maps, -1), axis=1)
        floor = np.repeat((1e-9 + least_variance) * usual + 1e-30, locations // maps)
        size = self._mean_square
        if locations == 1:
            return self._fit(slice(None), floor, size)
        gaussians = Gaussians.empty(locations, dims)
        for first in range(0, locations, step):
            part = slice(first, first + step)
            gaussians.put(first, self._fit(part, floor[part], size))
        return gaussians

    @property
    def vary(self) -> bool:
        """Whether the features of any location differ by more than rounding."""
        return bool(np.mean(self._variance(slice(None))) > densities.ROUNDING * self._mean_square)

    @property
    def _mean_square(self):
        """The mean square of the features."""
        mean = self._sum / self._count
        trace = np.trace(self._scatter, axis1=1, axis2=2) / self._count
        about_zero = trace + np.sum(self._origin * (self._origin + 2.0 * mean), axis=1)
        return float(np.mean(about_zero)) / mean.shape[1]

    def _variance(self, part):
        trace = np.trace(self._scatter[part], axis1=1, axis2=2) / self._count
        mean = self._sum[part] / self._count
        return (trace - np.sum(mean * mean, axis=1)) / mean.shape[1]

    def _fit(self, part, floor, size):
        n, dims = self._count, self._sum.shape[1]
        scatter, mean = self._scatter[part], self._sum[part] / n
        product = np.einsum("ld,lde,le->l", mean, scatter, mean)
        square = np.sum(mean * mean, axis=1)
        # The sum of the fourth powers of the distances from the mean, multiplied out.
        fourth = (
            self._fourth[part]
            + 4.0 * product
            + n * square**2
            - 4.0 * np.sum(mean * self._third[part], axis=1)
            + 2.0 * square * np.trace(scatter, axis1=1, axis2=2)
            - 4.0 * square * np.sum(mean * self._sum[part], axis=1)
        )
        covariance = scatter / n - mean[:, :, None] * mean[:, None, :]
        # Ledoit and Wolf (2004), as in scikit-learn's ledoit_wolf.
        variance = self._variance(part)
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
        inverse = tf.linalg.triangular_solve(tf.linalg.cholesky(shrunk), identity).numpy()
        whitener = np.ascontiguousarray(inverse.transpose(0, 2, 1))
        level = np.sqrt(np.maximum(np.sum((covariance @ whitener) * whitener, axis=(1, 2)), 0.0))
        return Gaussians(self._origin + mean, whitener, level)
