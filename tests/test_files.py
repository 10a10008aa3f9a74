"""Files that are whole or not there, and locks, two of whose holders are real processes."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from conftest import ROOT, command

from cutpaste_tf import files
from cutpaste_tf.files import UserError, as_text, locked, read_npz, replacing

HOLDER = """
import sys
from cutpaste_tf.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("fault", [None, OSError, KeyboardInterrupt])
def test_a_file_takes_its_name_when_it_is_whole(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault) if fault else contextlib.nullcontext(), replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        if fault:
            raise fault
    assert path.read_text() == ("old" if fault else "new")
    assert list(tmp_path.iterdir()) == [path]


@contextlib.contextmanager
def running(program, *arguments):
    """A process that holds something until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def holder(tmp_path):
    with running(HOLDER, tmp_path / "run" / "lock") as process:
        yield process


def test_a_lock_is_one_processs_until_that_ends_or_is_killed(holder, tmp_path):
    lock = tmp_path / "run" / "lock"
    with pytest.raises(UserError, match="^wait$"), locked(lock, "wait"):
        pass
    with locked(tmp_path / "other" / "lock", "wait"):  # is nobody's
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pytest.raises(ZeroDivisionError), locked(lock, "wait"):
        raise ZeroDivisionError
    with locked(lock, "wait"):  # A block that raised has let go.
        pass


def test_who_waits_comes_next(holder, tmp_path):
    entered = threading.Event()

    def wait():
        with locked(tmp_path / "run" / "lock"):
            entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.2)
    holder.communicate("")
    assert entered.wait(30)
    waiting.join()


def test_names_become_text_that_is_utf8():
    assert as_text("Stra\u00dfe \u65e5\u672c $1") == "Stra\u00dfe \u65e5\u672c $1"
    assert as_text(os.fsdecode(b"caf\xe9/\xff.png")) == "caf\\udce9/\\udcff.png"


def test_printed_names_are_escaped_and_stay_readable(capsys):
    files.say("x\nnormal 0.1  good.png\x1b[2K\u202egnp.jpg")
    assert capsys.readouterr().out == "x\\nnormal 0.1  good.png\\x1b[2K\\u202egnp.jpg\n"
    files.warn("Größe_日本.png \\ 'a b'")
    assert capsys.readouterr().err == "Größe_日本.png \\ 'a b'\n"


@pytest.mark.parametrize("redirect", ["> /dev/full 2> /dev/full", ">&- 2>&-", "| true", "2>&-"])
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, redirect):
    code = """
import sys
from cutpaste_tf import cli, files

@cli.command()
def work(arguments):
    for _ in range(3000):
        files.say("some text")
        files.warn("a warning")
    open(sys.argv[1], "w").write("done")
    return 0

sys.exit(work())
"""
    line = f'set -o pipefail; "$0" -c "$1" "$2" {redirect}'
    done = command(sys.executable, code, tmp_path / "x", program=("bash", "-c", line))
    assert (tmp_path / "x").read_text() == "done"
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    "write",
    [
        lambda path: claiming(path, (10**9, 10**9)),
        lambda path: claiming(path, (2,)),
        lambda path: np.savez(path, mean=np.array([np.nan])),
        lambda path: np.savez(path, mean=np.array([{}], object)),
        lambda path: path.write_bytes(b"PK"),
    ],
)
def test_damaged_arrays_are_a_users_error(tmp_path, write):
    write(tmp_path / "density.npz")
    with pytest.raises(UserError, match="density.npz: damaged"):
        read_npz(tmp_path / "density.npz")


def claiming(path, shape):
    """Writes an npz file whose array says that it has a shape, and has eight bytes."""
    header = io.BytesIO()
    values = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, values)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mean.npy", header.getvalue() + bytes(8))
