"""Files that are whole or not there, and locks, two of whose holders are real processes."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from cutpaste_tf.files import UserError, as_text, locked, replacing

HOLDER = """
import sys
from cutpaste_tf.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_what_was_there_stays_if_it_does_not_end_well(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault), replacing(path) as temporary:
        temporary.write_text("ne")
        raise fault
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def holder(tmp_path):
    """A process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run" / "lock")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Stra\u00dfe \u65e5\u672c $1".encode(), "Stra\u00dfe \u65e5\u672c $1"),
        (b"caf\xe9/\xff.png", "caf\\udce9/\\udcff.png"),
    ],
)
def test_names_become_text_that_is_utf8(name, text):
    assert as_text(os.fsdecode(name)) == text
    # As Python prints it on stderr.
    assert os.fsdecode(name).encode("utf-8", "backslashreplace") == text.encode()
