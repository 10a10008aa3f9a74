"""Files of weights that hold more than they have bytes for."""

import os

import h5py
import keras
import numpy as np
import pytest

from cutpaste_tf.models import weights


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_are_read_back(tmp_path, ending):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path = tmp_path / f"a{ending}"
    (weights.save if ending == ".weights.h5" else keras.Model.save)(model, path)
    assert weights.try_load(model, path)


@pytest.mark.parametrize(
    "options", [{"shape": (10**11,)}, {"data": np.zeros(10**7), "chunks": True}]
)
def test_a_file_that_unpacks_to_more_is_not_loaded(tmp_path, monkeypatch, options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    weights.save(model, path := tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        packed = {"compression": "gzip"} if "data" in options else {}
        file.create_dataset("more", **options, **packed)
    monkeypatch.setattr(model, "load_weights", lambda path: pytest.fail("it is unpacked"))
    assert os.path.getsize(path) < 2**20
    assert not weights.try_load(model, path)
