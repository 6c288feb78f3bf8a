"""Whether other processes live."""

from __future__ import annotations

import os


def is_gone(pid: int) -> bool:
    """Return whether no process has this id, not even one that has ended and was not waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
