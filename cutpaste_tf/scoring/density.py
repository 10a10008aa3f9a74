"""Densities of normal features, by scikit-learn, and their anomaly scores (Section 2.3).

Everything is float64: with 60 to 391 images against 512 features and more, float32 covariances
are ill-conditioned beyond use.
"""

import os
import warnings

import numpy as np
import scipy.linalg
import sklearn.covariance
import sklearn.exceptions
import sklearn.mixture
import sklearn.neighbors

from cutpaste_tf.files import UserError, read_npz, replacing

# Different normal images that a density and its threshold take. The threshold is of scores by
# densities that were fitted without the image, and each of those takes three: of two, Ledoit and
# Wolf's estimate shrinks nothing, and knows of a single direction in which images differ.
LEAST_IMAGES = 4
# All that a mixture's scores depend on, with the letters of its dimensions.
_OF_MIXTURES = {"weights_": "K", "means_": "KD", "precisions_cholesky_": "KDD"}
ROUNDING = 1e-12  # of features that a network computes in float32: relative, squared


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
            least = least_variance(np.mean(features**2), variance, dims)
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
        density.mean, density.precision = shaped(arrays, mean="D", precision="DD")
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
        features, bandwidth = shaped(arrays, features="ND", bandwidth="")
        return cls()._set(features, float(bandwidth))

    def _set(self, features, bandwidth):
        self.features, self.bandwidth = features, bandwidth
        self._estimate = sklearn.neighbors.KernelDensity(bandwidth=bandwidth).fit(features)
        return self


class MixtureDensity:
    """Mixture of 2 or more Gaussians (footnote 1); the score is the negative log-density.

    By scikit-learn, with full covariances. A component has few images, and features are many, so
    what Ledoit and Wolf's estimate adds to the diagonal of one Gaussian, times the number of
    components, is added to each: with K components an image's share in one is a K-th.
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
        least = max(1e-9 * variance, ROUNDING * np.mean(features**2))
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
        shaped(arrays, **_OF_MIXTURES)
        for name in _OF_MIXTURES:
            setattr(density.mixture, name, arrays[name])
        return density


Density = GaussianDensity | KernelDensity | MixtureDensity


def make(kind: str) -> Density:
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
    """Scores normal images, [N, D] or [N, K, D] of K tiles, by densities fitted without them.

    A density scores its own images as more normal than others. `seen`, bool [N, K], has the tiles
    that it is fitted to. Returns float64 [N] or [N, K], five-fold; none of fewer than 4 images.
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


def held_out_parts(count: int) -> list[np.ndarray]:
    """Divides different images into five contiguous blocks of indices; none of fewer than 4 images.

    Neighbours in time are alike, as new images and those of the training are not: what is held out
    has its neighbours with it. `data.load` has the images in order, and `pipeline.without_copies`
    each of them once.
    """
    return np.array_split(np.arange(count), min(5, count)) if count >= LEAST_IMAGES else []


def check_variation(vary: bool) -> None:
    """Raises a UserError where normal images' features differ by no more than rounding.

    Any part would score as a good one by a network that gives all images the same features, and
    none by a density of images that are the same.
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


def load(path: str | os.PathLike, cls: type | None = None) -> Density:
    """Reads what `save` wrote, a density of this module or of the given class."""
    arrays = read_npz(path)
    try:
        kind = str(arrays.pop("kind"))
        return (cls or type(make(kind))).from_arrays(kind, arrays)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: holds no density of a run; copy the run again") from error


def shaped(arrays: dict[str, np.ndarray], **letters: str) -> list[np.ndarray]:
    """Returns arrays in the order of `letters`, one for each dimension; equal ones: equal lengths.

    An array that is not there is a KeyError; one that has other dimensions is a ValueError.
    """
    lengths = {}
    for name, axes in letters.items():
        pairs = zip(axes, arrays[name].shape, strict=True)
        if any(lengths.setdefault(axis, length) != length for axis, length in pairs):
            raise ValueError(name)
    return [arrays[name] for name in letters]


def _negative_logs(estimate, features):
    """By scikit-learn, which takes no empty arrays."""
    return -estimate.score_samples(features) if len(features) else np.zeros([0])


def _checked(features):
    features = np.asarray(features, np.float64)
    check_finite(features)
    return features


def check_finite(features: np.ndarray) -> None:
    """Refuses features that are no numbers."""
    if not np.isfinite(features).all():
        raise UserError(
            "the network's features are not finite; did the training diverge? Lower its learning "
            "rate"
        )


def _check_spread(features):
    """Refuses [N, D] features that are all the same."""
    check_variation(np.mean(features.var(axis=0)) > ROUNDING * np.mean(features**2))


def least_variance(size: float, variance: float | np.ndarray, dims: int) -> float | np.ndarray:
    """The variance below which a covariance's least counts as none.

    It is within the rounding of features of a mean square, or of the inverse of a covariance
    [dims, dims] whose diagonal has a mean.
    """
    return ROUNDING * (size + dims * variance)


def _inverse(covariance):
    """The inverse of a positive definite matrix, symmetric to the last bit."""
    half = scipy.linalg.solve_triangular(
        scipy.linalg.cholesky(covariance, lower=True), np.eye(len(covariance)), lower=True
    )
    return half.T @ half


def _unit(features):
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
