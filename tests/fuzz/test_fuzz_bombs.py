"""Records that would fill the memory are refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stargraph_torture.fleet import SEARCH_PATH
from stargraph_torture.fuzzing import bombs

pytestmark = pytest.mark.thorough


def test_bombs_are_refused_in_bounded_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stargraph_torture.fuzzing.bombs"],
        env={**os.environ, "PYTHONPATH": SEARCH_PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(bombs.BOMBS)
