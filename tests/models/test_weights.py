"""Files of weights that hold more than they have bytes for."""

import os

import h5py
import keras
import numpy as np
import pytest

from cutpaste_tf.models import weights


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_are_read_back(tmp_path, model, ending):
    path, values = tmp_path / f"a{ending}", model.get_weights()
    (weights.save if ending == ".weights.h5" else keras.Model.save)(model, path)
    model.set_weights([0.0 * value - 1.0 for value in values])
    assert weights.try_load(model, path)
    np.testing.assert_array_equal(model.get_weights()[0], values[0])


@pytest.mark.parametrize(
    "options", [{"shape": (10**11,)}, {"data": np.zeros(10**7), "chunks": True}]
)
def test_a_file_that_unpacks_to_more_is_not_loaded(tmp_path, model, monkeypatch, options):
    weights.save(model, path := tmp_path / "a.weights.h5")
    with h5py.File(path, "a") as file:
        packed = {"compression": "gzip"} if "data" in options else {}
        file.create_dataset("more", **options, **packed)
    monkeypatch.setattr(model, "load_weights", lambda path: pytest.fail("it is unpacked"))
    assert os.path.getsize(path) < 2**20
    assert not weights.try_load(model, path)
