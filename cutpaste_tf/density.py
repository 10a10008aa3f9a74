"""Densities of normal features, by scikit-learn, and their anomaly scores (Section 2.3).

Everything is float64: with 60 to 391 images against 512 features and more, float32 covariances
are ill-conditioned beyond use.
"""

import copy
import os
import warnings
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import sklearn.covariance
import sklearn.exceptions
import sklearn.mixture
import sklearn.model_selection
import sklearn.neighbors
import tensorflow as tf

from cutpaste_tf.files import UserError, replacing

# Different normal images that a density and its threshold take. The threshold is of scores by
# densities that were fitted without the image, and each of those takes three: of two, Ledoit and
# Wolf's estimate shrinks nothing, and knows of a single direction in which images differ.
LEAST_IMAGES = 4
_FIT_MEMORY = 2**26  # bytes of scatters that are turned into Gaussians at a time
_OF_MIXTURES = ("weights_", "means_", "precisions_cholesky_")  # all that their scores depend on
_ROUNDING = 1e-12  # of features that a network computes in float32: relative, squared


class GaussianDensity:
    """Gaussian density estimator (Equation 2): the anomaly score is the Mahalanobis distance.

    Args:
      kind: "gde" estimates the covariance by Ledoit and Wolf's shrinkage, which stays well
        conditioned with fewer images than features, as Rippel et al. (the paper's [43]) do. "gmm"
        is that of the authors' companion code (their [52]): features are brought to unit length,
        and the covariance is scikit-learn's one-component mixture's, the maximum-likelihood one
        with 1e-6 added to its diagonal.

    Attributes:
      unit_length: whether features are brought to unit length first.
      mean: float64 [D], after `fit`.
      precision: float64 [D, D], the inverse covariance, after `fit`.
    """

    def __init__(self, kind: str = "gde"):
        self.kind, self.unit_length = kind, kind == "gmm"

    def fit(self, features: np.ndarray) -> "GaussianDensity":
        """Fits the density.

        Args:
          features: [N, D] of un-augmented normal training images.

        Returns:
          Itself.

        Raises:
          UserError: if the features are not finite, or all the same but for rounding.
        """
        features = _checked(features)
        if self.kind == "gde":
            _check_spread(features)
            # scikit-learn's own inverse is by eigenvalues, at nine tenths of the time of the fit.
            estimate = _ledoit_wolf(features)
            covariance, dims = estimate.covariance_, features.shape[1]
            variance = np.trace(covariance) / dims
            # Of two different images, each as often, nothing is shrunk: in all directions but one
            # there would be no variance to divide by.
            least = _least_variance(np.mean(features**2), variance, dims)
            if estimate.shrinkage_ * variance < least:
                covariance = covariance + least * np.eye(dims)
            self.mean, self.precision = estimate.location_, _inverse(covariance)
        else:
            features = _unit(features)
            _check_spread(features)
            mixture = sklearn.mixture.GaussianMixture(1, covariance_type="full", reg_covar=1e-6)
            estimate = mixture.fit(features)
            self.mean, self.precision = estimate.means_[0], estimate.precisions_[0]
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        """Scores features.

        Args:
          features: [N, D].

        Returns:
          float64 [N]: Mahalanobis distances; higher is more anomalous.
        """
        features = _checked(features)
        centred = (_unit(features) if self.unit_length else features) - self.mean
        squared = np.einsum("nd,nd->n", centred @ self.precision, centred)
        return np.sqrt(np.maximum(squared, 0.0))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `save` writes."""
        return {"mean": self.mean, "precision": self.precision}

    @classmethod
    def from_arrays(cls, kind: str, arrays: dict[str, np.ndarray]) -> "GaussianDensity":
        """Makes a fitted density out of what `arrays` returned."""
        density = cls(kind)
        density.mean, density.precision = arrays["mean"], arrays["precision"]
        return density


def _ledoit_wolf(features):
    with warnings.catch_warnings():
        # It is told how many images there are, and one is a density too.
        warnings.filterwarnings("ignore", "Only one sample available")
        return sklearn.covariance.LedoitWolf(store_precision=False).fit(features)


class KernelDensity:
    """Kernel density estimator on unit-length features; the score is the negative log-density.

    The Gaussian kernel exp(-gamma |x - y|^2) has gamma = 10 / (D * var), as in the authors'
    companion code, with the variance over all entries of the normalised training features.
    """

    kind = "kde"

    def fit(self, features: np.ndarray) -> "KernelDensity":
        """Fits the density to [N, D] features of un-augmented normal training images.

        Features that are not finite, or all the same but for rounding, are a UserError.
        """
        features = _unit(_checked(features))
        _check_spread(features)
        variance = max(float(features.var()), 1e-12)
        gamma = 10.0 / (features.shape[1] * variance)
        return self._set(features, float(np.sqrt(0.5 / gamma)))

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 [N] negative log-densities of [N, D] features."""
        features = _unit(_checked(features))
        return _negative_logs(self._estimate, features)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `save` writes."""
        return {"features": self.features, "bandwidth": np.float64(self.bandwidth)}

    @classmethod
    def from_arrays(cls, kind: str, arrays: dict[str, np.ndarray]) -> "KernelDensity":
        """Makes a fitted density out of what `arrays` returned."""
        del kind  # There is one.
        return cls()._set(arrays["features"], float(arrays["bandwidth"]))

    def _set(self, features, bandwidth):
        self.features, self.bandwidth = features, bandwidth
        self._estimate = sklearn.neighbors.KernelDensity(bandwidth=bandwidth).fit(features)
        return self


class MixtureDensity:
    """Mixture of several Gaussians (footnote 1); the score is the negative log-density.

    By scikit-learn, with full covariances. A component has few images, and features are many, so
    what Ledoit and Wolf's estimate adds to the diagonal of one Gaussian, times the number of
    components, is added to each: with K components an image's share in one is a K-th.

    Args:
      components: K, at least 2; `GaussianDensity` is the mixture of one.

    Attributes:
      mixture: scikit-learn's estimate, after `fit`.
    """

    def __init__(self, components: int):
        self.kind = f"gmm{components}"
        self.mixture = sklearn.mixture.GaussianMixture(components, n_init=3, random_state=0)

    def fit(self, features: np.ndarray) -> "MixtureDensity":
        """Fits the density to [N, D] features of un-augmented normal training images, N >= K.

        Features that are not finite, or all the same but for rounding, are a UserError.
        """
        features = _checked(features)
        _check_spread(features)
        estimate = _ledoit_wolf(features)
        variance = np.trace(estimate.covariance_) / features.shape[1]
        added = min(self.mixture.n_components * estimate.shrinkage_, 1.0) * variance
        least = max(1e-9 * variance, _ROUNDING * np.mean(features**2))
        self.mixture.reg_covar = max(added, least)
        with warnings.catch_warnings():
            # Images that are the same fill fewer clusters, and a fit that has not converged in its
            # steps is a density all the same.
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            self.mixture.fit(features)
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 [N] negative log-densities of [N, D] features."""
        return _negative_logs(self.mixture, _checked(features))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `save` writes: `_OF_MIXTURES`."""
        return {name: getattr(self.mixture, name) for name in _OF_MIXTURES}

    @classmethod
    def from_arrays(cls, kind: str, arrays: dict[str, np.ndarray]) -> "MixtureDensity":
        """Makes a fitted density out of what `arrays` returned."""
        density = cls(components(kind))
        for name in _OF_MIXTURES:
            setattr(density.mixture, name, arrays[name])
        return density


class LocationGaussians:
    """Gaussians of patch embeddings: one for each location of an image, or one for all.

    Args:
      mean: float64 [L, D]; L is the number of locations, or 1.
      whitener: [L, D, D], W with W^T W the inverse covariance. Kept in float32 for several
        locations: 57 x 57 of them with 512 dimensions take 3.4 GB so, and twice that in float64.
      level: float64 [L], the root mean square of the distances that it was fitted to.
    """

    kind = "patch_gde"

    def __init__(self, mean: np.ndarray, whitener: np.ndarray, level: np.ndarray):
        self.mean, self.whitener, self.level = mean, whitener, level

    def score(self, features: np.ndarray, start: int = 0) -> np.ndarray:
        """Scores the embeddings of consecutive locations.

        Args:
          features: [N, M, D].
          start: the first one's location; M + start is at most L, where L is not 1.

        Returns:
          [N, M]: Mahalanobis distances, float64 for one Gaussian and float32 for several.

        Raises:
          UserError: if the features are not finite.
        """
        _check_finite(features)
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
        return cls(arrays["mean"], arrays["whitener"], arrays["level"])


class MapGaussians:
    """Gaussians of the vectors of feature maps, and what the scores of normal images are.

    Args:
      gaussians: of K maps' places, row by row, L = K * h * w of them; or K, one for each map.
      grid: K, h and w.
      usual: float64 [2, 2]: mean and standard deviation of normal images' scores, first those of
        the pooled features, then those of maps; [0, 2] where there are none.
    """

    kind = "map_gde"

    def __init__(self, gaussians: LocationGaussians, grid: tuple[int, int, int], usual: np.ndarray):
        self.gaussians, self.grid, self.usual = gaussians, grid, usual

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Scores the places of feature maps.

        Args:
          vectors: [N, K, h, w, D].

        Returns:
          float32 [N, h, w], Mahalanobis distances; of K maps the root of the sum of their squares.
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
        """Averages two scores of images after each was standardised by normal images'.

        Args:
          pooled: [N], of the pooled features.
          largest: [N], the maps' largest.

        Returns:
          float64 [N].
        """
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
        return cls(gaussians, tuple(arrays["grid"].tolist()), arrays["usual"])


class GaussianStatistics:
    """What Gaussians with Ledoit and Wolf's shrinkage need to know, gathered batch by batch.

    Args:
      locations: the number of Gaussians, L.
      dims: length of the features, D.
      like: others that these are to be taken from, by `without`.
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
        _check_finite(features)
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
        """Returns the statistics of places with those around them.

        Args:
          grid: K, h and w: the locations are K maps' places, row by row, L = K * h * w.
          reach: how many rows and columns on either side belong to a place's neighbourhood.

        Returns:
          Those of all neighbourhoods that lie in the map as a whole, in as many locations.
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
        return bool(np.mean(self._variance(slice(None))) > _ROUNDING * self._size)

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
        least = _least_variance(size, variance, dims)
        added = np.where(shrinkage * variance + floor < least, least, floor)
        shrunk[:, np.arange(dims), np.arange(dims)] += (shrinkage * variance + added)[:, None]
        identity = tf.eye(dims, batch_shape=[len(shrunk)], dtype=tf.float64)
        whitener = tf.linalg.triangular_solve(tf.linalg.cholesky(shrunk), identity).numpy()
        level = np.sqrt(np.maximum(np.sum((whitener @ covariance) * whitener, axis=(1, 2)), 0.0))
        if len(self._sum) > 1:
            whitener = whitener.astype(np.float32)
        return LocationGaussians(self._origin + mean, whitener, level)


Density = GaussianDensity | KernelDensity | MixtureDensity | LocationGaussians | MapGaussians


_KINDS = {
    "gde": GaussianDensity,
    "gmm": GaussianDensity,
    "kde": KernelDensity,
    LocationGaussians.kind: LocationGaussians,
    MapGaussians.kind: MapGaussians,
}


def make(kind: str) -> GaussianDensity | KernelDensity | MixtureDensity:
    """Makes an unfitted density: "gde", "gmm", "kde", or "gmmK" with K components from 2."""
    if kind == "kde":
        return KernelDensity()
    return MixtureDensity(count) if (count := components(kind)) > 1 else GaussianDensity(kind)


def components(kind: str) -> int:
    """Returns of how many Gaussians a density is a mixture; 1 for those that are none."""
    return int(kind.removeprefix("gmm") or 1) if kind.startswith("gmm") else 1


def cross_validated_scores(
    kind: str, features: np.ndarray, seen: np.ndarray | None = None
) -> np.ndarray:
    """Scores normal images by densities that were fitted without them.

    A density scores the images that it was fitted to as more normal than any others, so these
    scores, not those, tell what normal images get.

    Args:
      kind: as in `make`.
      features: [N, D] of un-augmented normal training images, or [N, K, D] of their K tiles.
      seen: bool [N, K], which tiles densities are fitted to; all by default.

    Returns:
      float64 [N] or [N, K], five-fold; empty where there are fewer than 4 images.

    Raises:
      UserError: as in `GaussianDensity.fit`, of any part's density.
    """
    seen = np.ones(features.shape[:-1], bool) if seen is None else seen
    parts = held_out_parts(len(features))
    scores = np.empty([len(features) if parts else 0, *features.shape[1:-1]])
    for held_out in parts:
        others = np.setdiff1d(np.arange(len(features)), held_out)
        fitted = make(kind).fit(features[others][seen[others]])
        found = fitted.score(features[held_out].reshape(-1, features.shape[-1]))
        scores[held_out] = found.reshape(len(held_out), *scores.shape[1:])
    return scores


def held_out_parts(count: int, folds: int = 5) -> list[np.ndarray]:
    """Divides images for cross-validation, by a fixed random order.

    Args:
      count: the number of images.
      folds: how many parts.

    Returns:
      The indices of each part, int64; no parts where there are fewer than 4 images.
    """
    if count < LEAST_IMAGES:
        return []
    parts = sklearn.model_selection.KFold(min(folds, count), shuffle=True, random_state=0)
    return [held_out for _, held_out in parts.split(np.empty([count, 1]))]


def check_variation(vary: bool) -> None:
    """Refuses normal images that a density has nothing to learn of.

    Args:
      vary: whether their features differ by more than rounding.

    Raises:
      UserError: if not. Any part would score as a good one by a network that gives all images the
        same features, and none by a density of images that are the same.
    """
    if not vary:
        raise UserError(
            "the network's features of the normal training images are the same but for rounding; "
            "did the training diverge? Lower its learning rate, or take images that differ more"
        )


def save(density: Density, path: str | os.PathLike) -> None:
    """Writes a fitted density as .npz, without pickle, and atomically.

    Args:
      density: what to write.
      path: the file.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, kind=np.array(density.kind), **density.arrays())


def load(path: str | os.PathLike) -> Density:
    """Reads what `save` wrote.

    Args:
      path: the file; its checksum has been found right.

    Returns:
      The fitted density.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    kind = str(arrays.pop("kind"))
    loads = MixtureDensity if components(kind) > 1 else _KINDS[kind]
    return loads.from_arrays(kind, arrays)


def _negative_logs(estimate, features):
    """By scikit-learn, which takes no empty arrays."""
    return -estimate.score_samples(features) if len(features) else np.zeros([0])


def _checked(features):
    features = np.asarray(features, np.float64)
    _check_finite(features)
    return features


def _check_finite(features):
    if not np.isfinite(features).all():
        raise UserError(
            "the network's features are not finite; did the training diverge? Lower its learning "
            "rate"
        )


def _check_spread(features):
    """Refuses [N, D] features that are all the same."""
    check_variation(np.mean(features.var(axis=0)) > _ROUNDING * np.mean(features**2))


def _least_variance(size, variance, dims):
    """The variance below which a covariance's least counts as none.

    It is within the rounding of features of a mean square, or of the inverse of a covariance
    [dims, dims] whose diagonal has a mean.
    """
    return _ROUNDING * (size + dims * variance)


def _inverse(covariance):
    """The inverse of a positive definite matrix, symmetric to the last bit."""
    half = scipy.linalg.solve_triangular(
        scipy.linalg.cholesky(covariance, lower=True), np.eye(len(covariance)), lower=True
    )
    return half.T @ half


def _unit(features):
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
