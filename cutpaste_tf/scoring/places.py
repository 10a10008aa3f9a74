"""Scores images place by place: what patches and feature maps have in common.

Each place of a map has a vector. Its anomaly score is the Mahalanobis distance by one Gaussian for
all places, or by one for each place (the two choices of Appendix A.5).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from keras import ops

from cutpaste_tf.scoring import coreset, layers
from cutpaste_tf.scoring import density as densities
from cutpaste_tf.scoring.gaussians import Gaussians, GaussianStatistics
from cutpaste_tf.scoring.scorer import Fit, Scorer, collect

_HELD = 2**30  # bytes of normal images' vectors that are kept, not computed again, at most
REACH = 1  # rows and columns around a place: its neighbourhood has nine places


class PlacesScorer(Scorer):
    """Scores images by the vectors of maps' places.

    The embedding has `vectors`, float32 [B, M, h, w, D], of M maps of the same places.

    Attributes:
      locations: "shared", one Gaussian for all places; "separate", one for each place; "nearby",
        one for each place, of its own vectors and those around it; or "nearest", the nearest of
        normal vectors of all places, by the distance that their shared Gaussian defines.
    """

    locations: str
    least_variance = 0.0  # as `GaussianStatistics.fit` takes it

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of maps, M, and their height and width in places."""
        return self._shape[:3]

    @property
    def bands(self) -> list[tuple[int, int]]:
        """Rows of places that are fitted at a time: the first and the last, exclusive."""
        return [(0, self.grid[1])]

    @functools.cached_property
    def _shape(self):
        return tuple(self.embedding(self.network).output["vectors"].shape[1:])

    def level(self, fit: Fit) -> float:
        """Returns the usual score of a normal place."""
        squared = fit.places.level.reshape(self.grid[0], -1) ** 2
        return float(np.mean(np.sqrt(np.sum(squared, axis=0))))

    def head(self, fit: Fit, dtype: str = "float64") -> Callable:
        """See `Scorer`."""
        distances = self._distances(fit.places, dtype)
        return lambda embedded: {"places": distances(embedded["vectors"])}

    def _distances(self, gaussians, dtype="float64"):
        """Returns a function from vectors, [B, M, h, w, D], to distances, float32 [B, h, w].

        The distances of M maps are joined: the root of the sum of their squares.
        """
        maps, dims = self.grid[0], self._shape[3]
        whiten = layers.whiten(gaussians.mean, gaussians.whitener, dtype)
        nearest = None if gaussians.nearest is None else layers.nearest(gaussians.nearest)
        count = len(gaussians.mean)

        def distances(vectors):
            height, width = vectors.shape[2:4]
            each = maps * height * width // count  # vectors that share a Gaussian
            white = whiten(ops.reshape(vectors, (-1, count, each, dims)))
            squared = ops.sum(ops.square(white), axis=-1) if nearest is None else nearest(white)
            squared = ops.sum(ops.reshape(squared, (-1, maps, height, width)), axis=1)
            return ops.cast(ops.sqrt(squared), "float32")

        return distances

    def _fit_places(self, images, validate):
        """Fits the Gaussians.

        Returns them; the pooled features, [N, K, D] by name; and, with `validate`, the images'
        small maps, float32 [N, K, h, w], by Gaussians fitted without them, else None.
        """
        networks, height, width, dims = self._shape
        in_bands, maps = len(self.bands) > 1, []
        if in_bands:
            gaussians = Gaussians.empty(networks * height * width, dims)
        for rows in self.bands:
            total, held, features = self._statistics(rows), [], []
            size = images.inputs * np.prod(self._shape) * (rows[1] - rows[0]) / height * 4
            hold = validate and size <= _HELD
            for batch in self._batches(images, rows):
                self._add(total, batch)
                features.append(self._features(batch))
                if hold:
                    held.append(batch)
            densities.check_variation(total.vary)
            batches_of = self._batches_of(images, rows, collect(held) if hold else None)
            if in_bands:
                gaussians.put(rows[0] * width, self._gaussians(total))
            else:
                gaussians = self._gaussians(total, batches_of, np.arange(images.count))
            if validate:
                score = functools.partial(
                    self._score_without, total, rows, batches_of, images.count
                )
                maps.append(densities.cross_validated(images.count, score))
        features = {n: images.split_tiles(x) for n, x in collect(features).items()}
        maps = images.split_tiles(np.concatenate(maps, axis=1)) if maps else None
        return gaussians, features, maps

    def _batches_of(self, images, rows, held):
        """Returns a function from images' indices, int [n], to batches, kept or embedded again."""

        def batches_of(part):
            if held is None:
                return self._batches(images.subset(part), rows)
            numbers = images.numbers(part)
            return [{name: values[numbers] for name, values in held.items()}]

        return batches_of

    def _score_without(self, total, rows, batches_of, count, part):
        """Scores some images' inputs, [n * K, ...], by the Gaussians of all other images."""
        own = self._statistics(rows, like=total)
        for batch in batches_of(part):
            self._add(own, batch)
        others = np.setdiff1d(np.arange(count), part)
        distances = self._distances(self._gaussians(total.without(own), batches_of, others))
        return np.concatenate([np.asarray(distances(b["vectors"])) for b in batches_of(part)])

    def _batches(self, images, rows):
        """Yields batches of embedded inputs, with which of their places are in the region."""
        inside, first = self.inside(images), 0
        for batch in self.embedded(images, rows):
            batch = {name: np.asarray(values) for name, values in batch.items()}
            if inside is not None:
                count = len(batch["vectors"])
                batch["inside"] = inside.reshape(-1, *inside.shape[2:])[first : first + count]
                first += count
            yield batch

    def _statistics(self, rows, like=None):
        """Returns empty statistics for some rows of places."""
        maps, _, width, dims = self._shape
        count = maps if self._one_gaussian else maps * (rows[1] - rows[0]) * width
        return GaussianStatistics(count, dims, like)

    def _add(self, statistics, batch):
        """Adds a batch's vectors; a Gaussian of all places takes only those in the region."""
        vectors = batch["vectors"]
        if not self._one_gaussian:
            statistics.update(vectors.reshape(len(vectors), -1, vectors.shape[-1]))
            return
        statistics.update(_vectors_in_region(batch))

    @property
    def _one_gaussian(self):
        """Whether all places have one Gaussian."""
        return self.locations in ("shared", "nearest")

    def _gaussians(self, statistics, batches_of=None, part=None):
        """Fits the Gaussians to statistics; "nearest" needs the batches of their images, `part`."""
        maps, height, width = self.grid
        if self.locations == "nearest":
            return self._with_nearest(statistics.fit(self.least_variance, maps), batches_of(part))
        if self.locations != "nearby":
            return statistics.fit(self.least_variance, maps)
        reach = min(REACH, (min(height, width) - 1) // 2)
        fitted = statistics.of_neighbourhoods(self.grid, reach).fit(self.least_variance, maps)
        # A place at the border takes the nearest neighbourhood that lies wholly in the map.
        inner = np.arange(len(fitted.mean)).reshape(maps, height - 2 * reach, width - 2 * reach)
        return fitted.take(np.pad(inner, [(0, 0), *[(reach, reach)] * 2], mode="edge").ravel())

    def _with_nearest(self, gaussians, batches):
        """Adds the vectors to search among to the Gaussian of all places of each map."""
        rng, keys = np.random.default_rng(0), np.zeros([0])
        drawn = np.zeros([0, *gaussians.mean.shape], np.float32)
        for batch in batches:
            drawn = np.concatenate([drawn, _vectors_in_region(batch)])
            # The vectors with the smallest random keys are a fair draw of all so far.
            keys = np.concatenate([keys, rng.random(len(drawn) - len(keys))])
            kept = np.sort(np.argsort(keys)[: coreset.CANDIDATES])
            drawn, keys = drawn[kept], keys[kept]
        white = (drawn.transpose(1, 0, 2) - gaussians.mean[:, None]) @ gaussians.whitener
        stored, levels = zip(*map(coreset.choose, white), strict=True)
        return dataclasses.replace(gaussians, nearest=np.stack(stored), level=np.array(levels))


def _vectors_in_region(batch):
    """Returns the vectors of a batch's places in the region, [n, M, D]."""
    vectors = np.moveaxis(batch["vectors"], 1, 3)
    return vectors[batch.get("inside", np.ones(vectors.shape[:3], bool))]
