"""What the processes that the kit starts have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO


def python_path() -> str:
    """Return the value of PYTHONPATH with which another interpreter finds the modules that this one finds."""
    return os.pathsep.join(filter(None, sys.path))


def answers_on_stdout(path: Sequence[str]) -> TextIO:
    """Begin a process that was started to answer on stdout, and return that stream.

    Whatever else is written to stdout, by a driver for example, goes to stderr.

    Args:
        path: the `sys.path` of the process that started this one.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path[:] = path
    return channel
