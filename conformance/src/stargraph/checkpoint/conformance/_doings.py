"""What other processes do, as the system tells it: whether they work, or wait for somebody.

Seconds do not tell that on a busy machine, where a process that waits for nobody may take any time for a write.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TICK: Final = 0.02
"""Seconds between two looks."""

_BUSY: Final = frozenset("RD")
"""States of a thread that has a processor, stands in line for one, or waits for a disk."""


class Doings:
    """What some processes have done since this was made, as far as they were looked at every `TICK` seconds.

    Where the system does not tell, a process counts as one that waits.

    Attributes:
        waited: seconds in which none of their threads had anything to do.
        worked: seconds for which they had a processor, together.
    """

    def __init__(self, *processes: int) -> None:
        self._folders = [Path("/proc") / str(process) for process in processes]
        self._before = self._processor_seconds()
        self.waited = 0.0
        self.worked = 0.0

    def look(self) -> None:
        """Look at the processes, once a tick has passed."""
        if _BUSY.isdisjoint(self._states()):
            self.waited += TICK
        self.worked = self._processor_seconds() - self._before

    def _states(self) -> Iterator[str]:
        for folder in self._folders:
            for thread in (folder / "task").glob("*/stat"):
                yield from _facts(thread)[:1]

    def _processor_seconds(self) -> float:
        # Of whole processes, so that it goes on after the end of a thread: user and system time.
        ticks = sum(sum(map(int, _facts(folder / "stat")[11:13])) for folder in self._folders)
        return ticks / os.sysconf("SC_CLK_TCK")


def _facts(file: Path) -> list[str]:
    """Return what a `stat` file tells after the name, from the state on; nothing if there is none."""
    with contextlib.suppress(OSError):  # the thread has ended, or the system has no such files
        return file.read_text(errors="replace").rpartition(")")[2].split()
    return []
