"""The process of a single run: `python -m stargraph.dask._alone`, its job on stdin and its answer on stdout."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Execute the run of the job."""
    # The answer goes through a pipe that no node and no child of one can write to: what they print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.buffer.read())
    sys.path[:] = [*dict.fromkeys([*sys.path, *job["path"]])]
    from stargraph.dask._tasks import execute

    os.environ[job["ticket"]["store"]["variable"]] = job["address"]
    found = execute(job["ticket"])
    with os.fdopen(answer, "w", encoding="ascii") as pipe:
        pipe.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
