"""A run's files."""

import dataclasses

import numpy as np
import pytest
from conftest import read_scores

from cutpaste_tf.data.split import normal
from cutpaste_tf.run import files


def test_elpv_keeps_its_probability_as_a_column(tmp_path):
    split = normal(["a"], [np.zeros([4, 4], np.uint8)])
    split = dataclasses.replace(split, extra={"defect_probability": [0.3333]})
    files.write_scores(tmp_path, split, np.array([1.5]))
    assert read_scores(tmp_path) == [
        {
            "path": "a",
            "label": "0",
            "defect_type": "good",
            "score": "1.5",
            "defect_probability": "0.3333",
        }
    ]


def test_json_is_whole_or_not_there(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_results(tmp_path, {"image_auroc": float("nan")})
    assert not list(tmp_path.iterdir())
