"""A backbone by its name, with its weights."""

import numpy as np
import pytest
from training import config

from cutpaste_tf.files import UserError
from cutpaste_tf.models import backbone


def test_initial_weights_come_from_another_runs_file(tmp_path):
    first = backbone.build_backbone(config(seed=1))
    first.save_weights(tmp_path / "one.weights.h5")
    first.save(tmp_path / "one.keras")
    for name in ("one.weights.h5", "one.keras"):
        loaded = backbone.build_backbone(config(weights=str(tmp_path / name)))
        for a, b in zip(first.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match=r"--weights=.*one\.keras.*--width=0\.125"):
        backbone.build_backbone(config(weights=str(tmp_path / "one.keras"), width=0.125))
    (tmp_path / "bad.weights.h5").write_bytes(b"no weights")
    for name, message in (("bad.weights.h5", "not readable"), ("no.keras", "no such file")):
        with pytest.raises(UserError, match=message):
            backbone.build_backbone(config(weights=str(tmp_path / name)))
