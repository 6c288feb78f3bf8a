"""What the process tells its caller by its exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What the process tells its caller."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WAITING = 3
    PAUSED = 4
    CANCELLED = 5
    CONFLICT = 6
    STORE = 7
    INTERNAL = 70
    OUTPUT = 74
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


EXIT_CODES: Final = """\b
Exit codes:
  0  done                         6    another executor has the run
  1  failed, or a replay differs  7    the store is unavailable or damaged
  2  wrong usage or bad input     70   a fault of Stargraph or of a driver
  3  it waits for input or a time 74   a result could not be written
  4  the run is paused            130  interrupted (143: by SIGTERM)
  5  the run was cancelled
"""
