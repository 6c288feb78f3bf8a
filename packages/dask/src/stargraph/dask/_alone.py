"""The process of a single run: `python -m stargraph.dask._alone`, its job on stdin and its answer on stdout."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Execute the run of the job."""
    # No node, and no program that one starts, writes where the answer goes: what they print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.buffer.read())
    sys.path[:] = [*dict.fromkeys([*sys.path, *job["path"]])]
    from stargraph.dask._tasks import execute

    os.environ[job["ticket"]["store"]["variable"]] = job["address"]
    found = execute(job["ticket"])
    with os.fdopen(answer, "w", encoding="ascii") as file:
        file.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
