"""What fits on the machines of a cluster, and Ray that is not there."""

import os
import sys

import pytest

from cutpaste_tf import cluster
from cutpaste_tf.files import UserError


class FakeRay:
    """Has machines with these resources, and one that is gone."""

    def __init__(self, *resources):
        self._nodes = [{"Resources": r, "Alive": True} for r in resources]
        self._nodes.append({"Resources": {"CPU": 100.0, "GPU": 10.0}, "Alive": False})

    def nodes(self):
        return self._nodes


def test_runs_fit_on_machines_one_by_one():
    ray = FakeRay({"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}, {"CPU": 3.0, "GPU": 2.0})
    assert cluster.share_out(ray, "run", 1.0, 0.0)[2] == 15
    assert cluster.share_out(ray, "run", 2.0, 1.0)[2] == 2  # one GPU, and CPUs for one
    assert cluster.share_out(ray, "run", 1.0, 0.5)[2] == 5  # two, and CPUs for three
    assert cluster.share_out(FakeRay({"CPU": 9.0, "GPU": 1.0}), "run", 1.0, 0.2)[2] == 5
    for cpus, gpus in ((9.0, 0.0), (1.0, 3.0), (5.0, 1.0)):
        with pytest.raises(UserError, match="_per_run.*no machine is large enough"):
            cluster.share_out(ray, "run", cpus, gpus)


def test_what_each_gets_where_nothing_is_asked_for():
    assert cluster.share_out(FakeRay({"CPU": 4.0}), "run", None, None) == (1.0, 0.0, 4)
    ray = FakeRay({"CPU": 64.0, "GPU": 8.0}, {"CPU": 24.0, "GPU": 4.0}, {"CPU": 2.0})
    assert cluster.share_out(ray, "run", None, None) == (6.0, 1.0, 12)
    assert cluster.share_out(ray, "run", None, 0.5) == (3.0, 0.5, 24)


def test_what_is_missing_is_a_user_error(monkeypatch):
    with pytest.raises(UserError, match=r"^--ray=127.0.0.1:1: Ray cannot be .*refused"):
        cluster.start("127.0.0.1:1", "--ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--ray: needs the package ray; pip install"):
        cluster.start(None, "--ray")


def test_a_worker_keeps_to_its_share(monkeypatch):
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    for name in (*names, "CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH"):
        monkeypatch.setenv(name, "")  # and as it was, at the end
    assert cluster.prepare_worker(1.5, 0.0) == 2
    assert {os.environ[name] for name in names} == {"2"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == ""
    cluster.prepare_worker(1.0, 0.5)
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
