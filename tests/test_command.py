"""What all commands share."""

import errno
import io
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

from cutpaste_tf import command
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError


def raising(error):
    def run():
        raise error

    return run


def test_a_command_without_faults_gives_its_own_status(capsys):
    assert command.exit_status(lambda: 0) == 0
    assert command.exit_status(lambda: 1) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("--x=1: must\n  be 2"), 2, "error: --x=1: must be 2\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (KeyboardInterrupt("some of it is there"), 130, "some of it is there\n"),
    ],
)
def test_what_stops_a_command_is_one_line_and_a_status(capsys, error, status, line):
    assert command.exit_status(raising(error), interrupted="stopped") == status
    assert capsys.readouterr() == ("", line)


def test_a_fault_of_the_programs_own_is_raised():
    with pytest.raises(ZeroDivisionError):
        command.exit_status(raising(ZeroDivisionError()))


@pytest.mark.parametrize("status", [0, 2])
def test_a_reader_that_leaves_is_told_by_the_status_alone(capsys, monkeypatch, tmp_path, status):
    monkeypatch.setattr(os, "dup2", lambda *files: None)
    with open(tmp_path / "stdout", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        found = command.exit_status(raising(BrokenPipeError()), reader_left=status)
    assert found == status
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (RuntimeError("h5py says: Permission denied, and more"), "Permission denied"),
        (UserError("as it is"), "as it is"),
        (ValueError("of the program's"), None),
    ],
)
def test_a_runs_faults_that_the_user_can_mend_are_a_line(error, part):
    config = Config(dataset="textures", workdir="somewhere")
    expected = UserError if part is not None else type(error)
    with (
        pytest.raises(expected, match=part) as raised,
        command.run_faults_as_user_errors(config),
    ):
        raise error
    assert "\n" not in str(raised.value)


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"--output=.*file/x: cannot be written"),
        command.output_faults_as_user_errors(tmp_path / "file" / "x"),
    ):
        pathlib.Path(tmp_path / "file" / "x").mkdir()
    with pytest.raises(BrokenPipeError), command.output_faults_as_user_errors("x"):
        raise BrokenPipeError


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_not_utf8_are_printed_as_text(monkeypatch, encoding):
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    name = os.fsdecode(b"caf\xe9")

    def told():
        print(f"written to {name}", flush=True)
        raise UserError(f"{name}: there is no such file")

    assert command.exit_status(told) == 2
    for stream, line in zip(
        streams.values(), ("written to {}\n", "error: {}: there is no such file\n"), strict=True
    ):
        stream.flush()
        assert stream.buffer.getvalue().decode() == line.format("caf\\udce9")


def test_another_backend_of_keras_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND=jax: must be tensorflow"):
        command.prepare_libraries()


def test_a_parser_takes_no_abbreviations_and_raises_its_complaints():
    parser = command.Parser(prog="x")
    command.add_threshold_flags(parser)
    assert parser.parse_args(["--threshold=2"]).threshold == 2.0
    for flag in ("--thresh=2", "--threshold=high"):
        with pytest.raises(UserError):
            parser.parse_args([flag])


def test_what_pillow_and_matplotlib_say_of_themselves_is_not_shown(tmp_path):
    Image.new("P", (20, 20)).save(tmp_path / "x.png", transparency=bytes([0, 255]))
    code = """
import sys
from PIL import Image
from cutpaste_tf import command
command.prepare_libraries()
import matplotlib.font_manager
Image.MAX_IMAGE_PIXELS = 300
Image.open(sys.argv[1]).convert("L")
matplotlib.font_manager._log.warning("Matplotlib is building the font cache")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    with command.Progress(100, "image", lines.append, done=20) as progress:
        for _ in range(4):
            now[0] += 10.0
            progress.update(10)
            progress.tell()
        progress.say("enough")
    assert lines == [
        "image 40/100: 0:01:00 left",
        "image 60/100: 0:00:40 left",
        "image 60/100: enough, 0:00:40 left",
    ]
