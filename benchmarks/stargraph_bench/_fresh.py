"""Opens a store in a process that has done nothing yet, and reads the latest state of a run.

python -m stargraph_bench._fresh, with a request on standard input; prints milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stargraph_bench._contender import Contender, Entry, Place
from stargraph_bench._runs import Run


def open_and_read(contender: Contender) -> float:
    """Return the milliseconds in which a fresh process opens a closed store and reads its run; it imports before.

    Args:
        contender: has made the store and closed it.
    """
    place = asdict(contender.place)
    request = {
        "target": f"{type(contender).__module__.rpartition('.')[2]}:{type(contender).__name__}",
        "place": place | {"folder": str(place["folder"])},
        "where": contender.where(),
        "run_id": contender.runs[0].run_id,
    }
    done = subprocess.run(
        [sys.executable, "-m", "stargraph_bench._fresh"],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


async def _read(request: dict[str, Any]) -> float:
    place = request["place"]
    contender = Entry(request["target"], needs="sys").make(Place(**place | {"folder": Path(place["folder"])}))
    run = Run(request["run_id"], ())
    contender.prepare([run])
    contender.go_to(request["where"])
    await contender.import_modules()
    begun = time.perf_counter()
    await contender.connect()
    await contender.latest(run)
    took = (time.perf_counter() - begun) * 1000
    await contender.close()
    return took


if __name__ == "__main__":
    print(asyncio.run(_read(json.load(sys.stdin))))
