"""What fits on the machines of a cluster, and Ray that is not there."""

import sys

import pytest

from cutpaste_tf import cluster
from cutpaste_tf.files import UserError


def test_runs_fit_on_machines_one_by_one():
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}, {"CPU": 3.0, "GPU": 2.0}]
    assert cluster.count_slots(nodes, 1.0, 0.0, "run") == 15
    assert cluster.count_slots(nodes, 2.0, 1.0, "run") == 2  # one GPU, and CPUs for one
    assert cluster.count_slots(nodes, 1.0, 0.5, "run") == 5  # two, and CPUs for three
    for cpus, gpus in ((9.0, 0.0), (1.0, 3.0), (5.0, 1.0)):
        with pytest.raises(UserError, match="_per_run.*no machine is large enough"):
            cluster.count_slots(nodes, cpus, gpus, "run")


def test_what_is_missing_is_a_user_error(monkeypatch):
    with pytest.raises(UserError, match=r"^--ray=127.0.0.1:1: Ray cannot be .*refused"):
        cluster.start("127.0.0.1:1", "--ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--ray: needs the package ray; pip install"):
        cluster.start(None, "--ray")
