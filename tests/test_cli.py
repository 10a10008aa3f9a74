"""What all commands share: flags, the lines of errors, full disks and Ctrl-C."""

import errno
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT, command
from PIL import Image

from cutpaste_tf import choices, cli
from cutpaste_tf.config import FIELDS, GROUPS
from cutpaste_tf.files import UserError


@pytest.mark.parametrize(
    ("outcome", "status", "line"),
    [
        (None, 0, ""),
        (1, 1, ""),
        (UserError("--x=1: must\n  be 2"), 2, "error: --x=1: must be 2\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (KeyboardInterrupt("some of it is there"), 130, "some of it is there\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_what_ends_a_command_is_a_status_and_a_line_at_most(capsys, outcome, status, line):
    @cli.command(interrupted="stopped")
    def main(arguments):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert main(["x"]) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.ENOTDIR, "Not a directory", "x"), r"\(Not a directory\)"),
        (RuntimeError("h5py says: Permission denied, and more"), r"\(Permission denied\)"),
        (UserError("as it is"), "as it is"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), None),
        (ValueError("a fault of the program"), None),
    ],
)
def test_a_disk_that_cannot_be_written_is_a_line(error, part):
    expected = UserError if part is not None else type(error)
    with pytest.raises(expected, match=part) as raised, cli.writing("--output", "x"):
        raise error
    assert "\n" not in str(raised.value)


def test_a_decorations_fault_is_a_warning_but_for_a_full_disk(capsys):
    with cli.faults_as_warnings("roc.png: not drawn"):
        raise ValueError("no\ncurve")
    assert capsys.readouterr().err == "warning: roc.png: not drawn (ValueError: no curve)\n"
    with pytest.raises(OSError), cli.faults_as_warnings("roc.png: not drawn"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_not_utf8_are_printed_as_text(monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    name = os.fsdecode(b"caf\xe9")

    @cli.command()
    def main(arguments):
        print(f"written to {name}", flush=True)
        raise UserError(f"{name}: there is no such file")

    assert main(["x"]) == 2
    lines = ("written to caf\\udce9\n", "error: caf\\udce9: there is no such file\n")
    assert tuple(stream.buffer.getvalue().decode() for stream in streams) == lines


def test_libraries_are_quiet_and_keras_takes_tensorflow(tmp_path):
    Image.new("P", (20, 20)).save(tmp_path / "x.png", transparency=bytes([0, 255]))
    code = """
import sys
from PIL import Image
from cutpaste_tf import cli
cli.prepare_libraries()
import keras
import matplotlib.font_manager
assert keras.backend.backend() == "tensorflow"
Image.MAX_IMAGE_PIXELS = 300
Image.open(sys.argv[1]).convert("L")
matplotlib.font_manager._log.warning("Matplotlib is building the font cache")
"""
    program, backend = (sys.executable, "-c", code), os.environ | {"KERAS_BACKEND": "jax"}
    done = command(tmp_path / "x.png", program=program, env=backend)
    assert done.returncode == 0, done.stderr
    assert not re.search("PIL|Image|atplotlib", done.stderr)


def test_a_parser_takes_no_abbreviations_and_raises_its_complaints():
    parser = cli.Parser("x", "")
    parser.add_threshold()
    parser.add("port", choices.whole(1, 65535), "the port", parse=int)
    assert vars(parser.parse_args(["--threshold=2", "--port=7"])) == {
        "threshold": 2.0, "false_positive_rate": None, "port": 7
    }  # fmt: skip
    rates = ("--false_positive_rate=0", "--false_positive_rate=1.5")
    for flag in (
        "--thresh=2",
        "--threshold=high",
        "--threshold=nan",
        "--port=0",
        "--port=x",
        *rates,
    ):
        with pytest.raises(UserError, match=flag.split("=")[0]):
            parser.parse_args([flag])
    for flag in ("--treshold=2", "--treshold"):
        with pytest.raises(UserError, match=f"{flag}; did you mean --threshold?"):
            parser.parse_args([flag])
    with pytest.raises(UserError, match="--images$"):
        parser.parse_args(["--images"])


def test_help_has_every_flag_once_in_its_group_with_default_and_rule(capsys):
    with pytest.raises(SystemExit):
        cli.parse_runs(["--help"], "Trains.")
    text = capsys.readouterr().out
    headings = [text.index(f"\n{group}:\n") for group in GROUPS]
    assert headings == sorted(headings)
    for group, first, end in zip(GROUPS, headings, [*headings[1:], len(text)], strict=True):
        names = re.findall(r"^  --(\w+) \S", text[first:end], re.MULTILINE)
        assert names == [n for n, f in FIELDS.items() if f.metadata["group"] == group]
    assert max(map(len, text.splitlines())) <= 100
    assert "  --steps 65536 " in text
    assert "(one of squash, pad)" in text


@pytest.mark.parametrize("start", ["# of caf\xe9s", "--steps=7", "", "--flagfile={}/b.flags"])
def test_a_flag_file_is_read_as_windows_writes_it(start, tmp_path):
    (tmp_path / "b.flags").write_bytes("// b\r\n  --steps=7\r\n".encode("utf-8-sig"))
    file = tmp_path / "own.flags"
    lines = [start.format(tmp_path), "", "--steps=7", "--category=caf\xe9", "--data_dir=a b"]
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    (tmp_path / "caf\xe9" / "train" / "good").mkdir(parents=True)
    for flags in ([f"--flagfile={file}"], ["--flagfile", str(file)]):
        more = ["--dataset=folder", f"--data_dir={tmp_path}", "--width=0.5"]
        (run,) = cli.parse_runs([*flags, *more])
        assert (run.steps, run.category, run.width) == (7, "caf\xe9", 0.5)


def test_a_bare_name_is_a_flag_file_of_the_package_and_a_path_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lite0", "lite0.flags", "own", "c/d.flags"):
        pathlib.Path(name).parent.mkdir(exist_ok=True)
        pathlib.Path(name).write_text(f"--category={name}\n")
    assert cli.find_flagfile("lite0") == str(ROOT / "experiments" / "lite0.flags")
    assert [cli.find_flagfile(name, "c") for name in ("d.flags", "lite0.flags")] == [
        os.path.join("c", "d.flags"),
        os.path.join("c", "lite0.flags"),
    ]
    for name in ("lite0.flags", "own", "c/d.flags", str(tmp_path / "own")):
        assert cli.find_flagfile(name) == name
    with pytest.raises(UserError, match=r"--flagfile=lite9: there is no such .* demo, .* lite0, "):
        cli.find_flagfile("lite9")


def test_an_installed_package_has_the_flag_files(tmp_path):
    build = ["egg_info", f"--egg-base={tmp_path}", "build_py", f"--build-lib={tmp_path}"]
    subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=ROOT, check=True)
    (tmp_path / "own.flags").write_text("--flagfile=resnet18_scar\n")  # which names paper.flags
    code = "from cutpaste_tf import cli; print(*cli._with_flagfiles(['--flagfile=own.flags']))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    python = [sys.executable, "-c", code]
    lines = subprocess.check_output(python, cwd=tmp_path, env=environment, text=True).split()
    assert {"--steps=65536", "--task=scar"} <= set(lines)
    installed = {path.name for path in (tmp_path / "cutpaste_tf" / "experiments").glob("*.flags")}
    assert installed == {path.name for path in (ROOT / "experiments").glob("*.flags")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--flagfile=own.flags\n", "--flagfile=own.flags: includes itself"),
        (b"--data_dir=caf\xe9\n", r"--flagfile=own.flags: cannot be read \(not UTF-8\)"),
        (None, "--flagfile=own.flags: cannot be read"),
    ],
)
def test_a_flag_file_that_cannot_be_read_is_named(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        pathlib.Path("own.flags").write_bytes(content)
    with pytest.raises(UserError, match=message):
        cli.parse_runs(["--flagfile=own.flags"])


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ("", False),
        ("--jit_compile", True),
        ("--jit_compile --nojit_compile", False),
        ("--nojit_compile --jit_compile=True", True),
        ("--jit_compile --jit_compile=false", False),
    ],
)
def test_switches_are_written_as_in_absl(flags, value):
    (run,) = cli.parse_runs(["--dataset=textures", "--category=brick", *flags.split()])
    assert run.jit_compile is value
