"""Data sets that TensorFlow Datasets fetches from the network."""

import contextlib
import socket

import numpy as np


def read(name: str, server: str, data_dir: str, *splits: str) -> list[dict[str, np.ndarray]] | None:
    """Reads a data set, which is fetched from a server the first time.

    Returns for each split, such as "train", the values of each feature, [N, ...]; None if the data
    set cannot be had, for any reason.
    """
    import tensorflow_datasets as tfds

    with contextlib.suppress(Exception):
        builder = tfds.builder(name, data_dir=data_dir or None)
        # TensorFlow Datasets tries for minutes if the server does not answer.
        if builder.data_path.exists() or is_reachable(server):
            builder.download_and_prepare()
            return [_arrays(builder.as_dataset(split=split, batch_size=1000)) for split in splits]
    return None


def _arrays(data):
    """All of a data set's values, by the features' names."""
    batches = list(data.as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def is_reachable(server: str) -> bool:
    """Returns whether a server accepts HTTPS connections."""
    try:
        socket.create_connection((server, 443), timeout=5.0).close()
    except OSError:
        return False
    return True
