"""Locks among processes, two of them real."""

import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from cutpaste_tf import locks

pytest.importorskip("fcntl", reason="Windows has no such locks")

HOLDER = """
import sys
from cutpaste_tf import locks
with locks.held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


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


def test_a_lock_is_one_processs_and_gone_afterwards(holder, tmp_path):
    lock = tmp_path / "run" / "lock"
    with pytest.raises(locks.HeldError) as error, locks.held(lock):
        pass
    assert f"process {holder.pid} on " in str(error.value)
    assert " since 2" in str(error.value)
    with locks.held(tmp_path / "other" / "lock"):  # is nobody's
        pass
    holder.communicate("")
    assert not lock.exists()
    with locks.held(lock):
        assert lock.is_file()
    assert not lock.exists()


def test_a_killed_processs_lock_is_free(holder, tmp_path):
    lock = tmp_path / "run" / "lock"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in lock.read_text()
    with locks.held(lock):
        assert str(holder.pid) not in lock.read_text()
    assert not lock.exists()


def test_who_waits_comes_next(holder, tmp_path):
    lock = tmp_path / "run" / "lock"
    entered, told = threading.Event(), threading.Event()

    def wait():
        with locks.held(lock, wait=True):
            entered.set()
            told.wait(30)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.is_set()
    holder.communicate("")
    assert entered.wait(30)
    # The file that it waited for is gone; it holds the one that is there.
    with pytest.raises(locks.HeldError), locks.held(lock):
        pass
    told.set()
    waiting.join()
    assert not lock.exists()


def test_a_block_that_raises_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), locks.held(tmp_path / "lock"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["module", "file system"])
def test_where_there_are_no_locks_all_go_on(missing, tmp_path, monkeypatch):
    def unknown(*arguments):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    if missing == "module":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", unknown)
    with locks.held(tmp_path / "lock"), locks.held(tmp_path / "lock"):
        pass
