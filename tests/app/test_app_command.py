"""The page's command line."""

import importlib.metadata
import socket
import subprocess
import sys

import pytest
from conftest import IMAGE_RUN, PATCH_RUN, ROOT, assert_user_error

from cutpaste_tf.app import __main__ as command
from cutpaste_tf.files import UserError


def start(*arguments):
    """Runs the command line in this process; returns its exit status."""
    return command.main(["app", *map(str, arguments)])


def test_finished_runs_are_named_relative_to_the_work_directory(app_runs, tmp_path, monkeypatch):
    root = app_runs[0]
    assert command.finished_runs(str(root)) == {
        IMAGE_RUN: root / IMAGE_RUN,
        PATCH_RUN: root / PATCH_RUN,
    }
    assert command.finished_runs(None, str(root / PATCH_RUN)) == {IMAGE_RUN: root / PATCH_RUN}
    # The folder that is searched may be a run itself, and may be the current one.
    monkeypatch.chdir(root / IMAGE_RUN)
    assert list(command.finished_runs(".")) == [IMAGE_RUN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workdir=DIR or --run=RUNDIR"),
        (["--workdir=.", "--run=."], "give either --workdir=DIR or --run=RUNDIR"),
        (["--workdir=missing"], "--workdir=missing: there is no such folder"),
        (["--workdir=empty"], "--workdir=empty: no finished runs there"),
        (["--run=empty"], "--run=empty: there is no results.json; has the run finished?"),
        (["--run=run", "--port=0"], "--port=0: must be a whole number"),
        (["--run=run", "--port=65536"], "--port=65536: must be a whole number from 1 to 65535"),
        (["--run=run", "--port=x"], "--port"),
        (["--run=run", "--hos=127.0.0.1"], "--hos"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    tmp_path, monkeypatch, capsys, arguments, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    status = start(*arguments)
    done = subprocess.CompletedProcess(arguments, status, *capsys.readouterr())
    assert_user_error(done, message)


def test_mistakes_are_told_before_anything_heavy_is_imported():
    code = (
        "import sys; from cutpaste_tf.app.__main__ import main; "
        "status = main(['app', '--workdir=missing']);"
        "print(status, {'tensorflow', 'keras', 'gradio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 set()\n", done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken(app_runs):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        flags = [f"--run={app_runs[0] / IMAGE_RUN}", f"--port={other.getsockname()[1]}"]
        program = [sys.executable, "-m", "cutpaste_tf.app", *flags]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"error: --host=127.0.0.1 {flags[1]}: the server does not start (" in done.stderr


def keep_environment(monkeypatch):
    """Has what `serve` sets set back at the end of the test."""
    for name in ("GRADIO_TEMP_DIR", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(command.signal, "signal", lambda *arguments: None)


@pytest.mark.parametrize("version", [None, "5.50.0", "6.9.1"])
def test_gradio_missing_or_too_old(app_runs, monkeypatch, capsys, version):
    def look_up(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", look_up)
    assert start(f"--run={app_runs[0] / IMAGE_RUN}") == 2
    error = capsys.readouterr().err
    needed = "the web page needs gradio 6.17 or later"
    assert error == f'error: {needed}: pip install "cutpaste-tf[app]"\n'


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", 0), ("localhost", 0), ("::1", 0), ("0.0.0.0", 1)]
)
def test_a_host_that_others_reach_is_warned_of(monkeypatch, capsys, host, warned):
    keep_environment(monkeypatch)

    def stop(inspector):
        raise UserError("so far")

    from cutpaste_tf.app import page

    monkeypatch.setattr(page, "build_page", stop)
    with pytest.raises(UserError, match="so far"):
        command.serve(None, host, 7860)
    warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert len(warnings) == warned
    if warned:
        assert "anyone who reaches it can use the page" in warnings[0]
