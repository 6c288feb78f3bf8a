"""The process of a single run: `python -m stargraph.dask._alone`, its job on stdin."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Execute the run of the job."""
    job = json.loads(sys.stdin.buffer.read())
    sys.path[:] = [*dict.fromkeys([*sys.path, *job["path"]])]
    from stargraph.dask._tasks import execute

    os.environ[job["ticket"]["store"]["variable"]] = job["address"]
    found = execute(job["ticket"])
    draft = Path(f"{job['answer']}.draft")
    draft.write_text(json.dumps(found))
    draft.rename(job["answer"])


if __name__ == "__main__":
    main()
