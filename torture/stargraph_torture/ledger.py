"""What happened, as those saw it who did it: a file that only grows, apart from every store."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Ledger:
    """Appends lines to a file that many processes share; each is on disk before `add` returns.

    One file holds the effects of nodes and the acknowledgements of checkpoints, so that their order is known.

    Args:
        path: the file; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def add(self, what: str, **facts: object) -> None:
        """Append one line.

        Args:
            what: the kind of line: `effect`, `acknowledged`, `odd`.
            facts: what there is to say.
        """
        line = json.dumps({"what": what, "at": time.monotonic(), "process": os.getpid(), **facts}) + "\n"
        # In one call: lines of several processes never mix, and one that is killed leaves no half of a line.
        written = os.write(self._file, line.encode())
        assert written == len(line)
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ledger, in order.

    Args:
        path: the file.
    """
    with path.open() as lines:
        return [json.loads(line) for line in lines]
