"""Damaged files of all kinds end in one line: a few examples, or FUZZ_SECONDS of them."""

import os
import subprocess
import sys

from conftest import ROOT


def test_no_file_ends_in_a_traceback_a_hang_or_a_gigabyte():
    seconds = float(os.environ.get("FUZZ_SECONDS", 0))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz.py"), str(seconds)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds + 120,
    )
    assert done.returncode == 0, done.stderr
