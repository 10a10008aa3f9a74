"""Densities of normal images' pooled features, and Keras layers that score by them (Section 2.3).

Everything is fitted in float64: with 60 to 391 images against 512 features and more, float32
covariances are ill-conditioned beyond use.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable

import keras
import numpy as np
import scipy.linalg
import sklearn.covariance
import sklearn.mixture
from keras import ops

from cutpaste_tf.files import UserError
from cutpaste_tf.scoring import layers

# A density and its threshold need so many different normal images. The threshold is chosen by
# scores of densities that were fitted without the image, and such a density needs three images:
# with two, Ledoit and Wolf's estimate shrinks nothing, and has variance in one direction only.
LEAST_IMAGES = 4
ROUNDING = 1e-12  # the relative error, squared, of features that a network computes in float32


@dataclasses.dataclass(frozen=True, eq=False)
class Density:
    """A fitted density.

    Attributes:
      kind: as --density names it: "gde", "gmm" or "kde".
      arrays: what was fitted, float64, by name.
    """

    kind: str
    arrays: dict[str, np.ndarray]

    def layer(self, dtype: str = "float64") -> keras.Model:
        """Returns a model of Keras's own layers that scores by the density.

        Args:
          dtype: the dtype of the computation.

        Returns:
          A model from features, [B, D], to a dict of `score`, [B], and, for one Gaussian, `slope`,
          [B, D], the gradient of the negative log-density by the features.
        """
        return _METHODS[self.kind][1](self, dtype)

    @functools.cached_property
    def _layer(self):
        return self.layer()

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns the anomaly scores, float64 [...], of features, [..., D]."""
        features = np.asarray(features, np.float64)
        scores = self._layer(features.reshape(-1, features.shape[-1]))["score"]
        return np.asarray(scores).reshape(features.shape[:-1])


def fit(kind: str, features: np.ndarray) -> Density:
    """Fits a density.

    Args:
      kind: as in `Density`.
      features: [N, D] of un-augmented normal training images.

    Raises:
      UserError: if the features are not finite, or all the same but for rounding.
    """
    features = np.asarray(features, np.float64)
    check_finite(features)
    if kind in _OF_UNIT_LENGTH:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    check_variation(np.mean(features.var(axis=0)) > ROUNDING * np.mean(features**2))
    return Density(kind, _METHODS[kind][0](features))


def cross_validated(count: int, score_without: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Scores normal images, each by a density that was fitted without it.

    A density scores its own images as more normal than new ones. The images are divided into five
    contiguous blocks, so that neighbours in time are held out together: they are more alike than
    new images are to those of the training.

    `score_without` fits to all of the `count` images but some, int [n], and returns the scores of
    these, [n, ...]. Returns [N, ...]; [0] for fewer than LEAST_IMAGES.
    """
    if count < LEAST_IMAGES:
        return np.zeros([0])
    parts = np.array_split(np.arange(count), min(5, count))
    return np.concatenate([score_without(part) for part in parts])


def cross_validated_scores(kind: str, features: np.ndarray, in_region: np.ndarray) -> np.ndarray:
    """Scores normal images' tiles by densities of pooled features, as `cross_validated` does.

    Takes features, [N, K, D], fits to the tiles in the region, bool [N, K], and returns float64
    [N, K].
    """

    def score_without(part):
        others = np.setdiff1d(np.arange(len(features)), part)
        return fit(kind, features[others][in_region[others]]).score(features[part])

    return cross_validated(len(features), score_without)


def check_variation(vary: bool) -> None:
    """Refuses normal images' features that differ by no more than rounding.

    If a network gives all images the same features, every part scores as good; if all images are
    the same, no part does.
    """
    if not vary:
        raise UserError(
            "the network's features of the normal training images are the same but for rounding; "
            "did the training diverge? Lower its learning rate, or take images that differ more"
        )


def check_finite(features: np.ndarray) -> None:
    """Refuses features that are not finite."""
    if not np.isfinite(features).all():
        raise UserError(
            "the network's features are not finite; did the training diverge? Lower its learning "
            "rate"
        )


def least_variance(size: float, variance: float | np.ndarray, dims: int) -> float | np.ndarray:
    """Returns the variance below which a covariance's smallest variance counts as zero.

    It is the rounding error of features with the mean square `size`, and of the inverse of a
    covariance [dims, dims] with the mean `variance` on its diagonal.
    """
    return ROUNDING * (size + dims * variance)


def _fit_gde(features):
    """One Gaussian with Ledoit and Wolf's shrinkage, as in Rippel et al. (the paper's [43]).

    It stays well conditioned with fewer images than features.
    """
    with warnings.catch_warnings():
        # The run says how many images there are.
        warnings.filterwarnings("ignore", "Only one sample available")
        estimate = sklearn.covariance.LedoitWolf(store_precision=False).fit(features)
    covariance, dims = estimate.covariance_, features.shape[1]
    variance = np.trace(covariance) / dims
    # Two different images, each equally often, shrink nothing, and there is no variance to divide
    # by in any direction but one.
    least = least_variance(np.mean(features**2), variance, dims)
    if estimate.shrinkage_ * variance < least:
        covariance = covariance + least * np.eye(dims)
    # scikit-learn inverts by eigenvalues, which would take nine tenths of the fit's time.
    factor = scipy.linalg.cholesky(covariance, lower=True)
    inverse = scipy.linalg.solve_triangular(factor, np.eye(dims), lower=True)
    return {"mean": estimate.location_, "whitener": np.ascontiguousarray(inverse.T)}


def _fit_gmm(features):
    """One Gaussian by maximum likelihood, as in the authors' companion code (their [52])."""
    mixture = sklearn.mixture.GaussianMixture(1, covariance_type="full", reg_covar=1e-6)
    mixture.fit(features)
    return {"mean": mixture.means_[0], "whitener": mixture.precisions_cholesky_[0]}


def _fit_kde(features):
    """Gaussian kernels exp(-gamma |x - y|^2) with gamma = 10 / (D * variance), as in [52].

    The variance is that of all entries of the features, which have unit length.
    """
    gamma = 10.0 / (features.shape[1] * max(float(features.var()), 1e-12))
    return {"features": features, "gamma": np.float64(gamma)}


def _gaussian_layer(density, dtype):
    """The Mahalanobis distance, the root of Equation 2, and the gradient of half its square."""
    mean, whitener = density.arrays["mean"], density.arrays["whitener"]
    given = keras.Input([len(mean)], dtype=dtype)
    features, lengths = _unit(given) if density.kind in _OF_UNIT_LENGTH else (given, None)
    whiten = layers.whiten(mean[None], whitener[None], dtype)
    white = whiten(ops.expand_dims(ops.expand_dims(features, 1), 1))[:, 0, 0]
    slope = layers.product(whitener.T, dtype)(white)
    if lengths is not None:  # The score does not depend on the features' length.
        along = ops.sum(slope * features, axis=-1, keepdims=True)
        slope = (slope - along * features) / lengths
    return keras.Model(given, {"score": layers.length(white), "slope": slope})


def _kernel_layer(density, dtype):
    """The negative log-density of kernels on unit length."""
    features, gamma = density.arrays["features"], float(density.arrays["gamma"])
    count, dims = features.shape
    given = keras.Input([dims], dtype=dtype)
    # With x and y of length one, -gamma |x - y|^2 is 2 gamma xy - 2 gamma.
    products = layers.product(2.0 * gamma * features.T, dtype)(_unit(given)[0])
    normaliser = np.log(count) + 0.5 * dims * np.log(np.pi / gamma)
    log_density = ops.logsumexp(products, axis=-1) - 2.0 * gamma - float(normaliser)
    return keras.Model(given, {"score": -log_density})


def _unit(features):
    """Features of unit length, and the lengths that they had, [B, 1]."""
    lengths = ops.maximum(ops.expand_dims(layers.length(features), -1), 1e-12)
    return features / lengths, lengths


# How each kind is fitted, and the layers that score by it.
_METHODS = {
    "gde": (_fit_gde, _gaussian_layer),
    "gmm": (_fit_gmm, _gaussian_layer),
    "kde": (_fit_kde, _kernel_layer),
}
_OF_UNIT_LENGTH = ("gmm", "kde")  # kinds whose features are first scaled to unit length
