"""The short version of ``benchmarks/crash_test.py``."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_a_killed_run_continues_exactly():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "crash_test.py", "--kills", "3"], capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"killed 3 times .*; (\d+) of \1 runs ended equal", done.stdout)
