"""Chooses a few normal vectors that are near to all others, to search nearest neighbours among.

This is the coreset of PatchCore (Roth et al., CVPR 2022).
"""

import numpy as np

CANDIDATES = 20_000  # vectors, drawn at random, that the stored ones are chosen from
STORED = 1_000  # with 2,000, AUPRO on three textures was half a point lower


def choose(vectors: np.ndarray, count: int = STORED) -> tuple[np.ndarray, float]:
    """Chooses vectors one by one, each time the one that is farthest from those chosen.

    Returns `count` of the vectors, [N, D], or all if they are fewer, as float32 [count, D]; and the
    root mean square distance of all vectors to the nearest chosen one.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    chosen, squared = [], np.full(len(vectors), np.inf, np.float32)
    index = int(np.argmax(squares))
    for _ in range(min(count, len(vectors))):
        chosen.append(index)
        to_latest = squares - 2.0 * (vectors @ vectors[index]) + squares[index]
        squared = np.minimum(squared, to_latest)
        index = int(np.argmax(squared))
    return vectors[chosen], float(np.sqrt(np.mean(np.maximum(squared, 0.0))))
