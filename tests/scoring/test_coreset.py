"""The normal vectors that nearest neighbours are searched among."""

import numpy as np
from scipy.spatial.distance import cdist

from cutpaste_tf.scoring import coreset


def test_each_chosen_vector_is_the_farthest_from_those_before_it():
    vectors = np.random.default_rng(0).normal(size=(300, 5))
    chosen, level = coreset.choose(vectors, 40)
    numbers = cdist(chosen, vectors).argmin(axis=1)
    assert numbers[0] == np.linalg.norm(vectors, axis=1).argmax()
    for count in range(1, 40):
        least = cdist(vectors, vectors[numbers[:count]]).min(axis=1)
        assert least[numbers[count]] >= least.max() * (1 - 1e-4)
    least = cdist(vectors, chosen).min(axis=1)
    np.testing.assert_allclose(level, np.sqrt(np.mean(least**2)), rtol=1e-4)


def test_no_more_are_chosen_than_there_are():
    vectors = np.eye(3)
    chosen, level = coreset.choose(vectors)
    assert sorted(chosen.tolist()) == sorted(vectors.tolist())
    assert level == 0.0
