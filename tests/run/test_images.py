"""Runs whose images have changed since they were begun."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import QUICK, ROOT, make_mvtec, pattern, write_image

from cutpaste_tf import data, flags, main
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.run import files, images


@pytest.fixture
def config(mvtec, tmp_path):
    return Config(
        dataset="folder", data_dir=str(mvtec), category="part", workdir=str(tmp_path / "runs")
    )


def add_image(root, part="train/good"):
    write_image(root / "part" / part / "new.png", pattern(np.random.default_rng(9)))


def began(config):
    (now,) = images.check([config], ["new"])
    files.make_run_dir(config, now)
    (config.run_dir / "checkpoints").mkdir()


def test_what_was_refused_before_its_training_is_begun_again(config, mvtec):
    (now,) = images.check([config], ["new"])
    files.make_run_dir(config, now)
    add_image(mvtec)
    (later,) = images.check([config], ["interrupted"])
    assert later["train"]["images"] == 9


@pytest.mark.parametrize("state", ["interrupted", "finished"])
def test_changed_images_are_told_with_their_numbers(config, mvtec, state, capsys):
    began(config)
    assert images.check([config], [state]) == [None]
    add_image(mvtec)
    with pytest.raises(UserError) as error:
        images.check([config], [state])
    assert str(error.value).startswith(
        f"{config.run_dir}: was trained with other training images (8 then, 9 now); "
        "--allow_changed_data "
    )
    (mvtec / "part/test/good/000.png").unlink()
    with pytest.raises(UserError, match=r"9 now\) and other test images \(8 then, 7 now\);"):
        images.check([config], [state])
    allowed = dataclasses.replace(config, allow_changed_data=True)
    (now,) = images.check([allowed], [state])
    told = capsys.readouterr().err
    if state == "finished":  # stays as it is
        assert now is None
        assert told.startswith(f"warning: {config.run_dir}: was trained with other training images")
        assert told.count("\n") == 1
    else:
        assert told == ""
        files.begin(allowed, "interrupted", now)
        assert images.check([config], [state]) == [None]
        assert Config.load(config.run_dir).steps == config.steps


def test_runs_that_do_not_say_what_their_images_were_are_not_refused(config, mvtec):
    files.make_run_dir(config)
    (config.run_dir / "checkpoints").mkdir()
    add_image(mvtec)
    assert images.check([config], ["interrupted"]) == [None]
    path = config.run_dir / "config.json"
    values = json.loads(path.read_text())
    for damaged in (5, {"train": 3, "test": {}}, {"train": {"images": 8}}):
        path.write_text(json.dumps(values | {"data": damaged}))
        assert images.check([config], ["interrupted"]) == [None]


def test_a_finished_run_is_skipped_where_its_images_are_not(config, mvtec, capsys):
    began(config)
    mvtec.rename(mvtec.with_name("moved"))
    assert images.check([config], ["finished"]) == [None]
    assert "not compared with the images" in capsys.readouterr().err
    with pytest.raises(UserError, match="train/good: there is no such folder"):
        images.check([config], ["interrupted"])


def test_seeds_share_what_is_read(config, monkeypatch):
    calls, load = [], data.load
    monkeypatch.setattr(data, "load", lambda one: calls.append(one.category) or load(one))
    runs = [dataclasses.replace(config, seed=seed) for seed in range(3)]
    found = images.check(runs, ["new"] * 3)
    assert calls == ["part"]
    assert found[0] == found[2]
    assert found[0] is not None


def test_a_folders_images_are_compared_without_tensorflow(config):
    began(config)
    code = (
        "import sys; from cutpaste_tf.config import Config; from cutpaste_tf.run import images;"
        "assert images.check([Config.from_json(sys.argv[1])], ['finished']) == [None];"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, config.to_json()], cwd=ROOT, check=True)


def test_the_flag_is_no_setting_of_the_result(config):
    allowed = dataclasses.replace(config, allow_changed_data=True)
    assert config.differences(allowed) == []
    assert config.fingerprint() == allowed.fingerprint()


def test_a_command_refuses_and_goes_on_when_it_is_told_to(
    small_backbone, quick_views, mvtec, tmp_path, capsys
):
    base = ["main", "--dataset=folder", f"--data_dir={mvtec}", f"--workdir={tmp_path}", *QUICK]
    assert main.main(base) == 0
    run_dir = tmp_path / "part" / "seed_0"
    before = (run_dir / "results.json").read_text()
    add_image(mvtec, "test/hole")
    capsys.readouterr()
    assert main.main(base) == 2
    assert capsys.readouterr().err.startswith(f"error: {run_dir}: was trained with other test ")
    assert main.main([*base, "--allow_changed_data"]) == 0
    assert (run_dir / "results.json").read_text() == before
    assert capsys.readouterr().err.startswith(f"warning: {run_dir}: ")
    (run_dir / "results.json").unlink()
    assert main.main(base) == 2
    assert main.main([*base, "--allow_changed_data"]) == 0
    assert json.loads((run_dir / "results.json").read_text())["num_test"] == 9
    assert main.main(base) == 0
    (run,) = flags.parse(base)
    assert files.recorded_images(run.run_dir)["test"]["images"] == 9


def test_other_categories_have_images_of_their_own(tmp_path):
    make_mvtec(tmp_path / "data", "a", train=3)
    make_mvtec(tmp_path / "data", "b", train=4)
    runs = flags.parse(["main", "--dataset=folder", f"--data_dir={tmp_path / 'data'}", *QUICK])
    found = images.check(runs, ["new", "new"])
    assert [one["train"]["images"] for one in found] == [3, 4]
