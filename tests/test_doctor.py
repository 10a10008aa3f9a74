"""What the machine has, and what is missing."""

import tensorflow as tf
from conftest import assert_user_error, call

from cutpaste_tf import doctor


def test_a_report_has_what_a_bug_report_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    printed = call(capsys, doctor.main).stdout
    for text in (f"tensorflow {tf.__version__}", "PU", "built", "oneDNN", "GiB of memory"):
        assert text in printed
    assert f"none in {tmp_path / 'models'}" in printed
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnetb4_notop.h5").touch()
    assert "efficientnetb4_notop.h5" in doctor.facts()["ImageNet weights of B0 to B7"]
    assert not any("B0 to B7" in problem for problem in doctor.problems())


def test_a_problem_comes_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "_driver", lambda: "NVIDIA 580")
    assert any('pip install "cutpaste-tf[gpu]"' in problem for problem in doctor.problems())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert any("unset it" in problem for problem in doctor.problems())


def test_a_mistake_is_one_line(capsys):
    assert_user_error(call(capsys, doctor.main, "--colour"), "--colour")
