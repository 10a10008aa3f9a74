"""What the machine has, and what is amiss with it."""

import time

import numpy as np
import pytest
import tensorflow as tf
from training import config

from cutpaste_tf import doctor


def test_a_report_has_what_a_bug_report_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "bolt" / "train" / "good").mkdir(parents=True)
    assert doctor.main(["doctor", f"--data_dir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    for text in ("tensorflow " + tf.__version__, "built", "oneDNN", "GiB of memory", "bolt"):
        assert text in printed
    assert f"none in {tmp_path / 'models'}" in printed
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnetb4_notop.h5").touch()
    assert "efficientnetb4_notop.h5" in doctor.facts()["ImageNet weights of B0 to B7"]
    assert not any("B0 to B7" in problem for problem in doctor.problems())


def test_what_is_amiss_comes_with_its_mend(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_driver", lambda: "NVIDIA 580")
    found = doctor.problems(str(tmp_path / "nowhere"))
    assert any('pip install "cutpaste-tf[gpu]"' in problem for problem in found)
    assert any("nowhere" in problem for problem in found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert any("unset it" in problem for problem in doctor.problems())


def test_a_mistake_is_one_line(capsys):
    assert doctor.main(["doctor", "--colour"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def small_step(monkeypatch, small_backbone, quick_views):
    monkeypatch.setattr(doctor, "_STEP_SECONDS", 0.0)
    monkeypatch.setattr(doctor, "_config", lambda name, **flags: config(**flags))


def test_a_case_is_compared_with_the_reference(small_step, tmp_path):
    case = {"experiment": "resnet18_cutpaste_3way", "folder": str(tmp_path)}
    assert doctor._measure(case | {"kind": "float32"})["gradient"] is None
    assert doctor._measure(case | {"kind": "reference"}) == {}
    found = doctor._measure(case | {"kind": "float32"})
    assert found["gradient"] == pytest.approx(0, abs=1e-6)
    assert found["loss"] == pytest.approx(0, abs=1e-6)
    assert found["ms"] > 0
    assert found["memory"] > 0
    # Another gradient is seen to be one.
    path = tmp_path / "resnet18_cutpaste_3way.npz"
    with np.load(path) as file:
        np.savez(path, loss=file["loss"], slope=1.5 * file["slope"])
    assert doctor._measure(case | {"kind": "float32"})["gradient"] == pytest.approx(1 / 3, rel=1e-3)


def test_the_benchmark_prints_each_case_and_what_the_tables_would_take(capsys, monkeypatch):
    def measured(case, until, **environment):
        if case["kind"] == "jit_compile":
            return "not within 9 s"
        off = 0.5 if case["kind"] == "mixed_precision" else 0.01
        times = {"ms": 36.0, "views": 0.1, "memory": 6.0, "input": 99.0}
        return times | {"gradient": off, "loss": 0.001}

    monkeypatch.setattr(doctor, "_in_a_process", measured)
    doctor._benchmark(60.0)
    printed = capsys.readouterr().out
    assert printed.count("as it should be") == printed.count("TOO FAR") == 2
    assert "| ResNet-18 | jit_compile | not within 9 s |" in printed
    assert "Table 1: 450 runs of 65536 steps would train for 295 hours" in printed
    assert "Table 3: 75 runs of 18944 steps" in printed


def test_a_case_that_fails_or_takes_too_long_says_so():
    case = {"experiment": "nothing", "kind": "float32", "folder": "."}
    assert "nothing" in doctor._in_a_process(case, time.monotonic() + 100)
    assert doctor._in_a_process(case, 0.0).startswith("not within")
