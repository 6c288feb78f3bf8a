"""Run Python in other processes, as users do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS), **extra}


def start(code: str, *arguments: object, flags: Sequence[str] = (), **extra: str) -> subprocess.Popen[str]:
    """Start a process that runs some code; its arguments are in sys.argv[1:]."""
    return subprocess.Popen(
        [sys.executable, *flags, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env=environment(**extra),
    )


def run(code: str, *arguments: object, flags: Sequence[str] = (), timeout: float = 60, **extra: str) -> str:
    """Run some code to its end, which must be silent and successful; return what it printed."""
    process = start(code, *arguments, flags=flags, **extra)
    output, errors = process.communicate(timeout=timeout)
    assert (process.returncode, errors) == (0, ""), (process.returncode, output, errors)
    return output
