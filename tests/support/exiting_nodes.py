"""Nodes that raise what is meant for the process; they can be sent to another one."""

from __future__ import annotations

import sys
from typing import Any


def exits(state: Any) -> None:
    """Call sys.exit()."""
    sys.exit(3)


def interrupted(state: Any) -> None:
    """Do as if ctrl-C was pressed."""
    raise KeyboardInterrupt
