"""Sweeps: what runs they plan, what they do about failures, and real ones on a local Ray."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, assert_user_error, make_mvtec

from cutpaste_tf import cluster, sweep
from cutpaste_tf.files import UserError

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


def test_a_wrong_flag_is_a_user_error():
    with pytest.raises(UserError, match="--jitter"):
        sweep.plan(["resnet18_rotation"], "w", ["--data_dir=x", "--jitter=0.3"])
    with pytest.raises(UserError, match="--distribution"):
        sweep.plan(["resnet18_cutout"], "w", ["--data_dir=x", "--distribution=multi_worker"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--experiments"),
        (["--experiments=table9"], "table9"),
        (["--experiments=table1", "--retries=-1"], "--retries=-1"),
        (["--experiments=table1", "--cpus_per_run=0"], "--cpus_per_run=0"),
        (["--experiments=table1", "--gpus_per_run=1.5"], "--gpus_per_run=1.5"),
        (["--experiments=table1", "--workdir="], "--workdir"),
        (["--experiments=table1", "--steps=x", "--data_dir=x"], "--steps=x"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys):
    assert sweep.main(["sweep", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1


def test_list_names_every_row_with_its_command(capsys):
    assert sweep.main(["sweep", "--list"]) == 0
    printed = capsys.readouterr().out
    for part in ("table1:", "table8:", "resnet18_rotation", "resnet18_jitter_0.3: python -m "):
        assert part in printed
    assert "--flagfile=experiments/resnet18_cutpaste_3way.flags --learning_rate=0.1\n" in printed


class FakeRay:
    """Hands back what `submit` was told to, in the order of submission."""

    class exceptions:
        class RayError(Exception):
            pass

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        if isinstance(reference[1], Exception):
            raise reference[1]
        return reference[1]


def watched(outcomes, retries):
    """Watches jobs named by the outcomes' keys; returns the failures and how often each ran."""
    ran = dict.fromkeys(outcomes, 0)

    def submit(job):
        outcome = outcomes[job][min(ran[job], len(outcomes[job]) - 1)]
        ran[job] += 1
        return (f"{job} {ran[job]}", outcome)

    return sweep._watch(FakeRay(), list(outcomes), submit, retries), ran


def test_failures_are_tried_again_and_told_at_last(capsys):
    good, bad = sweep.Outcome(0.75), sweep.Outcome(error="it broke")
    wrong = sweep.Outcome(error="a wrong folder", final=True)
    killed = FakeRay.exceptions.RayError("the worker died")
    failed, ran = watched(
        {
            "fine": [good],
            "twice": [bad, killed, good],
            "broken": [bad],
            "mistaken": [wrong],
            "unmeasured": [sweep.Outcome()],
        },
        retries=2,
    )
    assert dict(failed) == {"broken": "it broke", "mistaken": "a wrong folder"}
    assert ran == {"fine": 1, "twice": 3, "broken": 3, "mistaken": 1, "unmeasured": 1}
    printed = capsys.readouterr().out
    assert "twice failed, try 1 of 2: it broke" in printed
    assert "twice failed, try 2 of 2: RayError: the worker died" in printed
    assert "fine: image AUROC 75.0" in printed
    assert "run 5/5: " in printed


def test_no_retries():
    failed, ran = watched({"broken": [sweep.Outcome(error="it broke")]}, retries=0)
    assert ran == {"broken": 1}
    assert failed == [("broken", "it broke")]


# Real ones.


def start(workdir, *more, experiments="resnet18_cutout,resnet18_scar"):
    arguments = [
        *(sys.executable, "-m", "cutpaste_tf.sweep", f"--experiments={experiments}"),
        *(f"--workdir={workdir}", *more),
    ]
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        # A shell has what it starts in the background ignore the signal, the tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def workers(process, deadline):
    """The processes that train for a sweep, once there are two."""
    import psutil

    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                # Ray names a worker by what it does at present.
                if "_train_one" in " ".join(child.cmdline()):
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        if len(found) >= 2:
            return found
        time.sleep(0.1)
    raise AssertionError("no two workers")


@pytest.mark.xdist_group("ray")
def test_a_sweep_on_two_workers_outlives_one_of_them(tmp_path, monkeypatch, capsys):
    # Without training, for the time that it takes.
    flags = ["--dataset=folder", f"--data_dir={make_mvtec(tmp_path / 'data')}", *TINY, "--steps=0"]
    process = start(tmp_path / "runs", *flags, "--seed=0")
    workers(process, time.monotonic() + 90)[0].send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "2 runs, 2 at a time" in out
    assert out.count("failed, try 1 of 2: ") == 1
    assert "2 of 2 runs finished" in out
    results = sorted(path.parent for path in (tmp_path / "runs").rglob("results.json"))
    assert len(results) == 2
    for run_dir in results:
        assert "image AUROC" in (run_dir / sweep.LOG).read_text()
    # Again: nothing is left to do, and Ray is not even started.
    monkeypatch.setattr(cluster, "start", None)
    names = "--experiments=resnet18_cutout,resnet18_scar"
    assert sweep.main(["sweep", names, f"--workdir={tmp_path / 'runs'}", *flags, "--seed=0"]) == 0
    assert "2 runs, 2 finished already" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path):
    flags = ["--dataset=folder", f"--data_dir={make_mvtec(tmp_path / 'data')}", *TINY]
    flags += ["--batch_size=2", "--steps=1600", "--seed=0"]
    process = start(tmp_path / "runs", *flags)
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "runs").rglob("backup/training.npz"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "start again to resume" in err
    assert not list((tmp_path / "runs").rglob("results.json"))
    process = start(tmp_path / "runs", *flags)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "2 of 2 runs finished" in out
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
    process = start(tmp_path / "runs", *flags, experiments="resnet18_cutout")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "1 of 2 runs finished" in out
    told = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(told) == 1
    assert "torn_part" in told[0]
    assert str(broken) in told[0]
    assert "try 1" not in out  # a mistake is not tried again


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_more_than_there_is_and_no_cluster_are_user_errors(tmp_path):
    flags = ["--dataset=textures", *TINY, "--seed=0"]
    process = start(tmp_path / "runs", *flags, "--cpus_per_run=1000")
    out, err = process.communicate(timeout=120)
    done = subprocess.CompletedProcess([], process.returncode, out, err)
    assert_user_error(done, "--cpus_per_run=1000")
    assert not (tmp_path / "runs").exists()
    process = start(tmp_path / "runs", *flags, "--ray_address=127.0.0.1:1")
    out, err = process.communicate(timeout=300)
    done = subprocess.CompletedProcess([], process.returncode, out, err)
    assert_user_error(done, "--ray_address=127.0.0.1:1")
    assert not (tmp_path / "runs").exists()


def test_a_run_in_a_worker_says_how_it_ended(tmp_path, small_backbone, monkeypatch):
    import tensorflow as tf

    from cutpaste_tf.run import files

    data = make_mvtec(tmp_path / "data", train=6, good=2, bad=2)
    flags = ["--dataset=folder", f"--data_dir={data}", *TINY, "--seed=0"]
    (job,) = sweep.plan(["resnet18_cutout"], str(tmp_path / "runs"), flags)
    # A worker's process is its own; this one is not.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.chdir(tmp_path)
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, lambda count: None)
    text, folder = job.config.to_json(), str(tmp_path)
    outcome = sweep._train_one(text, folder, 2.0, 0.0)
    assert outcome.final  # no machine sees what is not there
    assert str(job.config.run_dir) in outcome.error
    files.make_run_dir(job.config)
    outcome = sweep._train_one(text, folder, 2.0, 0.0)
    results = json.loads((job.config.run_dir / "results.json").read_text())
    assert outcome == sweep.Outcome(results["image_auroc"])
    assert sweep._train_one(text, folder, 2.0, 0.0) == outcome  # finished already
    (job.config.run_dir / "results.json").write_text("{")
    assert sweep._train_one(text, folder, 2.0, 0.0).final


def test_a_run_takes_relative_paths_from_where_the_sweep_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for gpus, name, value in (
        (0, "CUDA_VISIBLE_DEVICES", "-1"),
        (0.5, "TF_FORCE_GPU_ALLOW_GROWTH", "true"),
    ):
        monkeypatch.delenv(name, raising=False)
        (tmp_path / str(gpus)).mkdir()
        sweep._enter(str(tmp_path / str(gpus)), gpus)
        assert os.getcwd() == str(tmp_path / str(gpus))
        assert os.environ.pop(name) == value


def test_what_a_run_needs_is_checked_first(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "none.weights.h5"
    flags = ["--dataset=textures", "--category=brick", *TINY, "--seed=0", f"--weights={weights}"]
    (job,) = sweep.plan(["resnet18_cutout"], str(tmp_path / "runs"), flags)
    assert str(weights) in sweep._check_one(job.config.to_json(), str(tmp_path), 0.0)
    assert "does not see" in sweep._check_one(job.config.to_json(), str(tmp_path / "no"), 0.0)
    flags.pop()
    (job,) = sweep.plan(["resnet18_cutout"], str(tmp_path / "runs"), flags)
    assert sweep._check_one(job.config.to_json(), str(tmp_path), 0.0) == ""


def test_planning_imports_no_tensorflow():
    code = (
        "import sys; from cutpaste_tf import sweep; sweep.plan(['table8'], 'w', ['--data_dir=x']);"
        "assert 'tensorflow' not in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
