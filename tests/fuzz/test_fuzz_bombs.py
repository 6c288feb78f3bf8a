"""Records that would fill the memory are refused."""

from __future__ import annotations

import subprocess
import sys

from support.fuzzing import bombs
from support.torture.fleet import TESTS


def test_bombs_are_refused_in_bounded_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzzing.bombs"], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(bombs.BOMBS)
