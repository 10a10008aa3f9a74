"""Damaged files of all kinds end in one line: a few examples, or FUZZ_SECONDS of them."""

import os
import sys

from conftest import ROOT, command


def test_no_file_ends_in_a_traceback_a_hang_or_a_gigabyte():
    seconds = float(os.environ.get("FUZZ_SECONDS", 0))
    program = (sys.executable, ROOT / "tests" / "fuzz.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = command(seconds, program=program, env=environment, timeout=seconds + 120)
    assert done.returncode == 0, done.stderr
