"""Runs or resumes run `r` of a graph file on a SQLite store, as another process would.

Usage: executor_process.py start|resume GRAPH STORE [DEATH [DURABILITY]]

DEATH is before-write:STEP, after-write:STEP or nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import cast

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.engine import Durability
from stargraph.errors import StargraphError
from stargraph.graph import Graph


class Mortal(SQLiteCheckpointer):
    """Kills its process before or after it writes a step."""

    moment = ""
    step = -1

    async def write(self, checkpoint: Checkpoint) -> None:
        if self.moment == "before-write" and checkpoint.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().write(checkpoint)
        if self.moment == "after-write" and checkpoint.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(how: str, graph_file: str, path: str, death: str = "", durability: str = "sync") -> dict[str, object]:
    checkpointer = Mortal(path)
    checkpointer.moment, _, step = death.partition(":")
    checkpointer.step = int(step or -1)
    async with checkpointer:
        run = await Graph.from_file(graph_file).start(
            checkpointer=checkpointer, run_id="r", durability=cast("Durability", durability)
        )
        try:
            summary = await (run.start() if how == "start" else run.resume("r"))
        except StargraphError as error:
            return {"error": type(error).__name__, "reason": error.reason}
        return {"status": summary.status, "last_step": summary.last_step}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
