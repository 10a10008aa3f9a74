"""Densities of normal features, by scikit-learn, and their anomaly scores (Section 2.3).

Everything is float64: with 60 to 391 images against 512 features and more, float32 covariances
are ill-conditioned beyond use.
"""

import io
import json
import os
import pathlib
import zipfile

import numpy as np
import sklearn.covariance
import sklearn.mixture
import sklearn.neighbors

from cutpaste_tf.errors import UserError

_VERSION = 1


class GaussianDensity:
    """Gaussian density estimator (Equation 2): the anomaly score is the Mahalanobis distance.

    Args:
      kind: "gde" estimates the covariance by Ledoit and Wolf's shrinkage, which stays well
        conditioned with fewer images than features; "gmm" is scikit-learn's one-component full
        covariance mixture, the maximum-likelihood covariance with 1e-6 added to its diagonal, as
        in the authors' companion code.

    Attributes:
      mean: float64 [D], after `fit`.
      precision: float64 [D, D], the inverse covariance, after `fit`.
    """

    def __init__(self, kind: str = "gde"):
        if kind not in ("gde", "gmm"):
            raise ValueError(f"kind must be gde or gmm, not {kind!r}")
        self.kind = kind

    def fit(self, features: np.ndarray) -> "GaussianDensity":
        """Fits the density.

        Args:
          features: [N, D] of un-augmented normal training images.

        Returns:
          Itself.
        """
        features = _checked(features)
        if self.kind == "gde":
            estimate = sklearn.covariance.LedoitWolf().fit(features)
            self.mean, self.precision = estimate.location_, estimate.precision_
        else:
            estimate = sklearn.mixture.GaussianMixture(1, covariance_type="full").fit(features)
            self.mean, self.precision = estimate.means_[0], estimate.precisions_[0]
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        """Scores features.

        Args:
          features: [N, D].

        Returns:
          float64 [N]: Mahalanobis distances; higher is more anomalous.
        """
        centred = _checked(features, len(self.mean)) - self.mean
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
        dims = density.mean.shape[0] if density.mean.ndim == 1 else -1
        if density.precision.shape != (dims, dims):
            raise ValueError("mean and precision do not fit each other")
        return density


class KernelDensity:
    """Kernel density estimator on unit-length features; the score is the negative log-density.

    The Gaussian kernel exp(-gamma |x - y|^2) has gamma = 10 / (D * var), as in the authors'
    companion code, with the variance over all entries of the normalised training features.
    """

    kind = "kde"

    def fit(self, features: np.ndarray) -> "KernelDensity":
        """Fits the density to [N, D] features of un-augmented normal training images."""
        features = _unit(_checked(features))
        variance = max(float(features.var()), 1e-12)
        gamma = 10.0 / (features.shape[1] * variance)
        return self._set(features, float(np.sqrt(0.5 / gamma)))

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 [N] negative log-densities of [N, D] features."""
        features = _unit(_checked(features, self.features.shape[1]))
        return -self._estimate.score_samples(features)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `save` writes."""
        return {"features": self.features, "bandwidth": np.float64(self.bandwidth)}

    @classmethod
    def from_arrays(cls, kind: str, arrays: dict[str, np.ndarray]) -> "KernelDensity":
        """Makes a fitted density out of what `arrays` returned."""
        del kind  # There is one.
        if arrays["features"].ndim != 2:
            raise ValueError("features must have two dimensions")
        return cls()._set(arrays["features"], float(arrays["bandwidth"]))

    def _set(self, features, bandwidth):
        self.features, self.bandwidth = features, bandwidth
        self._estimate = sklearn.neighbors.KernelDensity(bandwidth=bandwidth).fit(features)
        return self


Density = GaussianDensity | KernelDensity


def make(kind: str) -> Density:
    """Makes an unfitted density: "gde", "gmm" or "kde"."""
    return KernelDensity() if kind == "kde" else GaussianDensity(kind)


def save(density: Density, path: str | os.PathLike) -> None:
    """Writes a fitted density as .npz, without pickle, and atomically.

    Args:
      density: what to write.
      path: the file.
    """
    path = pathlib.Path(path)
    header = json.dumps({"kind": density.kind, "version": _VERSION})
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array(header), **density.arrays())
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)


def load(path: str | os.PathLike) -> Density:
    """Reads what `save` wrote.

    Args:
      path: the file.

    Returns:
      The fitted density.

    Raises:
      UserError: if the file is missing, damaged or not a density.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        if header["version"] != _VERSION:
            raise UserError(f"{path}: density of version {header['version']}, not {_VERSION}")
        for name, array in arrays.items():
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite float64")
        kind = header["kind"]
        if kind not in ("gde", "gmm", "kde"):
            raise ValueError(f"unknown kind {kind!r}")
        return (KernelDensity if kind == "kde" else GaussianDensity).from_arrays(kind, arrays)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; has the run finished?") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable density ({error})") from error


def _checked(features, dims=None):
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or (dims is not None and features.shape[1] != dims):
        raise ValueError(f"features must be [N, {dims or 'D'}], not {list(features.shape)}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite; did the training diverge?")
    return features


def _unit(features):
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
