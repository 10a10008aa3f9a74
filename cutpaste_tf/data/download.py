"""Data sets that TensorFlow Datasets fetches from the network."""

import contextlib
import socket
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def prepare_builder(
    name: str, server: str, data_dir: str | None = None
) -> "tfds.core.DatasetBuilder | None":
    """Finds a data set, or fetches it from a server; None if it cannot be had, for any reason."""
    import tensorflow_datasets as tfds

    with contextlib.suppress(Exception):
        builder = tfds.builder(name, data_dir=data_dir)
        # TensorFlow Datasets tries for minutes where nobody answers.
        if builder.data_path.exists() or is_reachable(server):
            builder.download_and_prepare()
            return builder
    return None


def read(builder: "tfds.core.DatasetBuilder", split: str) -> dict[str, np.ndarray]:
    """Reads a split, such as "train": each feature's values, [N, ...], in the files' order."""
    import tensorflow_datasets as tfds

    data = builder.as_dataset(split=split, shuffle_files=False).batch(1000)
    batches = list(tfds.as_numpy(data))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def is_reachable(server: str, seconds: float = 5.0) -> bool:
    """Returns whether a server takes connections, for HTTPS."""
    try:
        socket.create_connection((server, 443), timeout=seconds).close()
    except OSError:
        return False
    return True
