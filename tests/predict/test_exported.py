"""What an exported file says of its run: written, read, and refused."""

import base64
import dataclasses
import json
import operator
import tracemalloc
import zlib

import numpy as np
import pytest

from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.predict import exported
from cutpaste_tf.predict.exported import Description
from cutpaste_tf.threshold import Threshold, at_rate

# 128 MiB of zeros.
BOMB = base64.b64encode(zlib.compress(bytes(2**27))).decode()


@pytest.fixture
def description():
    return Description(
        run="part/seed_0",
        config=Config(dataset="folder", data_dir="x", category="part", image_size=(32, 48)),
        bits=12,
        threshold=Threshold(0.1 + 0.2, 0.01, 3),
        normal_scores=np.array([1.0, 1.0 / 3.0, 2.0]),
        level=None,
        pixel_threshold=7.5,
        roi=np.random.default_rng(0).random([5, 7]) > 0.5,
        versions={"cutpaste-tf": "0.2.0"},
    )


def read(text):
    return Description.read({exported.KEY: text, "other": "x"}, "--model=a.onnx")


def test_numbers_are_read_back_to_the_last_bit(description):
    found = read(description.to_json())
    for field in dataclasses.fields(Description):
        ours, theirs = getattr(found, field.name), getattr(description, field.name)
        equal = np.array_equal if isinstance(theirs, np.ndarray) else operator.eq
        assert equal(ours, theirs)
    assert found.roi.dtype == bool
    without = dataclasses.replace(description, roi=None, pixel_threshold=None)
    assert (read(without.to_json()).roi, read(without.to_json()).pixel_threshold) == (None, None)


def test_thresholds(description):
    assert description.choose_threshold(None, None, "x") == description.threshold
    assert description.choose_threshold(5.0, None, "x") == Threshold(5.0)
    at_half = Threshold(at_rate(description.normal_scores, 0.5), 0.5, 3)
    assert description.choose_threshold(None, 0.5, "x") == at_half
    for options in ((1.0, 0.5), (np.nan, None), (None, 1.0)):
        with pytest.raises(UserError, match="--threshold|--false_positive_rate"):
            description.choose_threshold(*options, "x")
    without = dataclasses.replace(description, normal_scores=np.zeros([0]))
    with pytest.raises(UserError, match=r"a\.onnx: has no scores of normal images"):
        without.choose_threshold(None, 0.5, "--model=a.onnx")


def test_what_cannot_be_read_is_named(description):
    values = json.loads(description.to_json())
    for metadata, message in (
        ({}, r"--model=a\.onnx: says nothing of a run.*export the run again"),
        (values | {"format": 99}, "says nothing of a run"),
        (values | {"settings": {"format": 1}}, r"--model=a\.onnx: .*another version"),
        ("{", "says nothing of a run"),
    ):
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        with pytest.raises(UserError, match=message):
            Description.read({exported.KEY: text} if metadata != {} else {}, "--model=a.onnx")


@pytest.mark.parametrize(
    "metadata",
    [
        {"roi": {"shape": [13000, 13000], "bits": BOMB}},
        {"roi": {"shape": [10**6, 10**6], "bits": BOMB}},
        {"roi": {"shape": [-3, -3], "bits": BOMB}},
        {"roi": {"shape": [5, 7], "bits": "AAAA"}},
        {"normal_scores": [float("nan")]},
        {"normal_scores": [10**400]},
        {"normal_scores": "1"},
        {"threshold": {"value": "high"}},
        {"threshold": {"value": 1.0, "false_positive_rate": 0.1}},
        {"level": "x"},
        {"pixel_threshold": 10**400},
        {"bits": 99},
        {"run": 1},
    ],
)
def test_what_no_export_writes_is_refused(description, metadata):
    text = json.dumps(json.loads(description.to_json()) | metadata)
    tracemalloc.start()
    with pytest.raises(UserError, match="says nothing of a run"):
        read(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26
