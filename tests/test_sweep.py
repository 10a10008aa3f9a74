"""Sweeps: what runs they plan, what they do about failures, and real ones on a local Ray."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, assert_user_error, call, command, make_mvtec

from cutpaste_tf import cluster, sweep

SMALL = ["--dataset=textures", "--category=brick,grass", "--seed=0,1", *TINY]


def test_plan_has_all_runs_of_all_experiments_seed_by_seed():
    jobs = sweep.plan(["resnet18_cutout", "resnet18_scar"], "somewhere", SMALL)
    assert [(j.experiment, j.config.category, j.config.seed) for j in jobs] == [
        (experiment, category, seed)
        for seed in (0, 1)
        for experiment in ("resnet18_cutout", "resnet18_scar")
        for category in ("brick", "grass")
    ]
    assert len({job.config.run_dir for job in jobs}) == 8
    assert str(jobs[0].config.run_dir) == "somewhere/resnet18_cutout/brick/seed_0"
    assert {job.config.task for job in jobs} == {"cutout", "scar"}
    assert {job.config.steps for job in jobs} == {6}


def test_what_makes_a_row_is_not_overridden():
    jobs = sweep.plan(["table7"], "w", ["--data_dir=x", "--steps=6", "--learning_rate=0.5"])
    by_name = {job.experiment: job.config for job in jobs}
    assert by_name["resnet18_learning_rate_0.1"].learning_rate == 0.1
    assert by_name["resnet18_epochs_384"].steps == 384 * 256
    assert by_name["resnet18_cutpaste_3way"].steps == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--experiments"),
        (["--experiments=table9"], "table9"),
        (["--experiments=table1", "--retries=-1"], "--retries=-1"),
        (["--experiments=table1", "--cpus_per_run=0"], "--cpus_per_run=0"),
        (["--experiments=table1", "--gpus_per_run=1.5"], "--gpus_per_run=1.5"),
        (["--experiments=table1", "--steps=x", "--data_dir=x"], "--steps=x"),
        (["--experiments=resnet18_rotation", "--data_dir=x", "--jitter=0.3"], "--jitter=0.3"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys):
    assert_user_error(call(capsys, sweep.main, *arguments), message)


def test_list_names_every_row_with_its_command(capsys):
    printed = call(capsys, sweep.main, "--list").stdout
    for part in ("table1:", "table8:", "resnet18_rotation", "resnet18_jitter_0.3: python -m "):
        assert part in printed
    assert "--flagfile=resnet18_cutpaste_3way --learning_rate=0.1\n" in printed


class FakeRay:
    """Hands back the references themselves, in their order."""

    class exceptions:
        class RayError(Exception):
            pass

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        if isinstance(reference, Exception):
            raise reference
        return json.loads(reference)


def test_how_each_run_ended_is_told(capsys):
    killed = FakeRay.exceptions.RayError("a traceback\nthe worker died")
    outcomes = {
        '{"image_auroc": 0.75}': "fine",
        '{"image_auroc": null}': "unmeasured",
        '"a wrong folder"': "mistaken",
        killed: "lost",
    }
    failed = sweep._watch(FakeRay(), outcomes)
    assert failed == [("mistaken", "a wrong folder"), ("lost", "RayError: the worker died")]
    printed, errors = capsys.readouterr()
    assert "fine: image AUROC 75.0" in printed
    assert "unmeasured: no image AUROC" in printed
    assert "lost: failed: RayError: the worker died" in printed
    assert not errors  # no bar where there is no terminal


# Real ones.


def start(workdir, *more, experiments="resnet18_cutout,resnet18_scar"):
    flags = [f"--experiments={experiments}", f"--workdir={workdir}", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "cutpaste_tf.sweep", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        # A shell has what it starts in the background ignore the signal, the tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, err
    return subprocess.CompletedProcess([], status, out, err)


def workers(process):
    """The processes that train for a sweep."""
    import psutil

    result = []
    for child in psutil.Process(process.pid).children(recursive=True):
        # Ray names a worker by what it does at present.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ray::_train" in " ".join(child.cmdline()):
                result.append(child)
    return result


def wait_for_two(process, find):
    """Waits until a function finds two of something, and returns them."""
    deadline = time.monotonic() + 600
    while len(pair := find()) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return pair


@pytest.mark.xdist_group("ray")
@pytest.mark.slow
def test_a_sweep_on_two_workers_outlives_one_of_them(tmp_path, monkeypatch, capsys):
    # Without training, for the time that it takes.
    flags = ["--dataset=folder", f"--data_dir={make_mvtec(tmp_path / 'data')}", *TINY, "--steps=0"]
    process = start(tmp_path / "runs", *flags, "--seed=0")
    wait_for_two(process, lambda: workers(process))[0].send_signal(signal.SIGKILL)
    done = finish(process)
    assert "2 runs, 2 at a time" in done.stdout
    assert "2 of 2 runs finished" in done.stdout
    results = sorted(path.parent for path in (tmp_path / "runs").rglob("results.json"))
    assert len(results) == 2
    for run_dir in results:
        assert "image AUROC" in (run_dir / sweep.LOG).read_text()
    # Again: nothing is left to do, and Ray is not even started.
    monkeypatch.setattr(cluster, "start", None)
    names = "--experiments=resnet18_cutout,resnet18_scar"
    again = call(capsys, sweep.main, names, f"--workdir={tmp_path / 'runs'}", *flags, "--seed=0")
    assert "2 runs, 2 finished already" in again.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path):
    flags = ["--dataset=folder", f"--data_dir={make_mvtec(tmp_path / 'data')}", *TINY]
    flags += ["--batch_size=2", "--steps=640", "--seed=0"]
    process = start(tmp_path / "runs", *flags)
    wait_for_two(process, lambda: list((tmp_path / "runs").rglob("backup/training.npz")))
    process.send_signal(signal.SIGINT)
    assert "start again to resume" in finish(process, 130).stderr
    assert not list((tmp_path / "runs").rglob("results.json"))
    assert "2 of 2 runs finished" in finish(start(tmp_path / "runs", *flags)).stdout
    for log in (tmp_path / "runs").rglob(sweep.LOG):
        assert "resuming at step" in log.read_text()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_mistake_in_a_run_is_told_and_the_others_go_on(tmp_path):
    data = make_mvtec(tmp_path / "data", "good_part")
    make_mvtec(data, "torn_part")
    broken = data / "torn_part" / "train" / "good" / "000.png"
    broken.write_bytes(broken.read_bytes()[:200])
    flags = ["--dataset=folder", f"--data_dir={data}", *TINY, "--steps=0", "--seed=0"]
    done = finish(start(tmp_path / "runs", *flags, experiments="resnet18_cutout"), 1)
    assert "1 of 2 runs finished" in done.stdout
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert "torn_part" in failed
    assert str(broken) in failed
    (log,) = (tmp_path / "runs").rglob(f"torn_part/seed_0/{sweep.LOG}")
    assert log.read_text().count("error: ") == 1  # a mistake is not tried again


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("flag", ["--cpus_per_run=1000", "--ray_address=127.0.0.1:1"])
def test_more_than_there_is_and_no_cluster_are_user_errors(tmp_path, flag):
    process = start(tmp_path / "runs", "--dataset=textures", *TINY, "--seed=0", flag)
    assert_user_error(finish(process, 2), flag)
    assert not (tmp_path / "runs").exists()


def test_a_run_in_a_worker_says_how_it_ended(tmp_path, small_backbone, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Paths are relative to where a sweep was started.
    make_mvtec(tmp_path / "data", train=6, good=2, bad=2)
    flags = ["--dataset=folder", "--data_dir=data", *TINY, "--seed=0"]
    (job,) = sweep.plan(["resnet18_cutout"], "runs", flags)
    # A worker's process is its own; this one is not.
    monkeypatch.setattr(cluster, "prepare_worker", lambda cpus, gpus: None)
    text, folder = job.config.to_json(), str(tmp_path)
    assert str(job.config.run_dir) in sweep._train(text, folder, 2.0, 0.0)  # is not there
    assert "no" in sweep._train(text, str(tmp_path / "no"), 2.0, 0.0)
    job.config.run_dir.mkdir(parents=True)
    outcome = sweep._train(text, folder, 2.0, 0.0)
    assert outcome["image_auroc"] is not None
    assert sweep._train(text, folder, 2.0, 0.0) == outcome  # finished already
    (job.config.run_dir / "results.json").write_text("{")
    assert "results.json" in sweep._train(text, folder, 2.0, 0.0)


def test_planning_imports_no_tensorflow():
    code = (
        "import sys; from cutpaste_tf import sweep; sweep.plan(['table8'], 'w', ['--data_dir=x']);"
        "assert 'tensorflow' not in sys.modules and 'ray' not in sys.modules"
    )
    assert command(program=(sys.executable, "-c", code)).returncode == 0
