"""A run's files."""

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import QUICK, ROOT, read_scores

from cutpaste_tf import flags, main
from cutpaste_tf.config import Config
from cutpaste_tf.data.split import normal
from cutpaste_tf.files import UserError
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


HOLDER = """
import sys
from cutpaste_tf.config import Config
from cutpaste_tf.run import files
with files.locked(Config.from_json(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_is_one_commands_until_that_ends_or_is_killed(
    small_backbone, quick_views, mvtec, tmp_path, capsys
):
    base = ["main", "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path}", *QUICK]
    first, second = flags.parse([*base, "--seed=0,1"])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, first.to_json()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    for seeds in ("0", "1,0"):
        assert main.main([*base, f"--seed={seeds}"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {first.run_dir}: another command is at this run; wait ")
        assert told.count("\n") == 1
        assert not (second.run_dir / "config.json").exists()  # nor is the other begun
    assert main.main([*base, "--seed=1"]) == 0  # beside it
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main.main([*base, "--seed=0,1"]) == 0


def test_a_run_that_another_command_has_begun_meanwhile_is_left_alone(mvtec, tmp_path):
    config = Config(dataset="folder", data_dir=str(mvtec), category="part", workdir=str(tmp_path))
    files.make_run_dir(config)
    with pytest.raises(UserError, match="another command has just been at this run; start again"):
        files.begin(config, "new", None)


def test_a_relative_data_dir_is_kept_as_an_absolute_one(mvtec, tmp_path, monkeypatch):
    monkeypatch.chdir(mvtec.parent)
    config = Config(dataset="folder", data_dir=mvtec.name, category="part", workdir="runs")
    files.make_run_dir(config)
    assert Config.load(config.run_dir).data_dir == str(mvtec)
    assert files.run_state(config) == "interrupted"
    cifar10 = Config(dataset="cifar10", category="cat", workdir="runs")
    files.make_run_dir(cifar10)
    assert Config.load(cifar10.run_dir).data_dir == ""


def test_another_runs_setting_is_told_as_its_flag_is_written(tmp_path):
    config = Config(dataset="textures", category="brick", workdir=str(tmp_path), tiles=(2, 3))
    files.make_run_dir(config)
    other = dataclasses.replace(config, tiles=(1, 3))
    with pytest.raises(UserError, match="holds a run with --tiles=2x3, not 1x3; name another"):
        files.run_state(other)


def test_the_worst_normal_images_are_on_top(tmp_path):
    files.write_normal_scores(tmp_path, ["a", "b", "c", "d"], np.array([1.0, 3.0, 0.5, 3.0]))
    lines = (tmp_path / "normal_scores.csv").read_text().splitlines()
    assert lines == ["path,score", "b,3.0", "d,3.0", "a,1.0", "c,0.5"]
    files.write_normal_scores(tmp_path, ["a"], np.zeros([0]))
    assert (tmp_path / "normal_scores.csv").read_text().splitlines() == ["path,score"]
