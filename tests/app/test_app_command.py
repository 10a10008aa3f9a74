"""The page's command line."""

import importlib.util
import socket
import subprocess
import sys

import pytest
from conftest import IMAGE_RUN, PATCH_RUN, ROOT, assert_user_error

from cutpaste_tf.app import __main__ as command
from cutpaste_tf.files import UserError


def test_finished_runs_are_named_relative_to_the_work_directory(app_runs, monkeypatch):
    root = app_runs[0]
    runs = {name: root / name for name in (IMAGE_RUN, PATCH_RUN)}
    assert command.finished_runs(str(root)) == runs
    assert command.finished_runs(str(root / PATCH_RUN)) == {IMAGE_RUN: root / PATCH_RUN}
    # The folder that is searched may be the current one.
    monkeypatch.chdir(root / IMAGE_RUN)
    assert list(command.finished_runs(".")) == [IMAGE_RUN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --workdir --run is required"),
        (["--workdir=.", "--run=."], "not allowed with"),
        (["--workdir=missing"], "missing: has no finished run"),
        (["--run=empty"], "empty: has no finished run"),
        (["--run=run", "--port=0"], "--port=0: must be a whole number"),
        (["--run=run", "--port=65536"], "--port=65536: must be a whole number from 1 to 65535"),
        (["--run=run"], 'the web page needs gradio: pip install "cutpaste-tf[app]"'),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status = command.main(["app", *arguments])
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


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("::1", 0), ("0.0.0.0", 1)])
def test_a_host_that_others_reach_is_warned_of(monkeypatch, capsys, host, warned):
    for name in ("GRADIO_TEMP_DIR", "no_proxy"):  # What `serve` sets is set back.
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(command.signal, "signal", lambda *arguments: None)

    def stop(inspector):
        raise UserError("so far")

    from cutpaste_tf.app import page

    monkeypatch.setattr(page, "build_page", stop)
    with pytest.raises(UserError, match="so far"):
        command.serve(None, host, 7860)
    assert (
        capsys.readouterr().err.count("anyone who reaches this address can use the page") == warned
    )
