"""Files of weights, as Keras writes them."""

import keras
import numpy as np
import pytest

from cutpaste_tf.models import weights


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_are_read_back(tmp_path, ending):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path, values = tmp_path / f"a{ending}", model.get_weights()
    (weights.save if ending == ".weights.h5" else keras.Model.save)(model, path)
    model.set_weights([0.0 * value - 1.0 for value in values])
    assert weights.try_load(model, path)
    np.testing.assert_array_equal(model.get_weights()[0], values[0])
