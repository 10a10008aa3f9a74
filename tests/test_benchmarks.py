"""What the benchmarks count and say; how fast anything is, is not for tests."""

import functools
import importlib
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def module(monkeypatch):
    """Imports one of the scripts, as when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if "benchmarks" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_medians_are_of_alternating_rounds_after_one_to_warm_up(module):
    order, values = [], {"a": [99, 1, 3, 2], "b": [99, 5, 4, 6]}

    def call(name):
        order.append(name)
        return values[name].pop(0)

    methods = {name: functools.partial(call, name) for name in values}
    assert module("common").medians(methods, 3) == {"a": 2, "b": 5}
    assert order == ["a", "b"] * 4


def test_operations_are_those_that_are_published(module):
    from cutpaste_tf.models import resnet

    # torchvision: 1.81 GFLOPS, by multiply-adds, of which the classifier has 0.5 million.
    counted = module("common").multiply_adds(resnet.resnet18(224))
    assert counted == pytest.approx(1.814e9, rel=2e-3)


def test_runs_are_spread_over_gpus(module):
    cost = module("cost")
    assert cost.makespan([1.0] * 10, 1) == 10.0
    assert cost.makespan([1.0] * 10, 8) == 2.0
    assert cost.makespan([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert [cost.span(3600 * hours) for hours in (1.04, 15.2, 100.0)] == ["1.0 h", "15 h", "4 days"]
