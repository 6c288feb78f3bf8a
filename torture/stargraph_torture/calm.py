"""Runs every graph once on a store, with questions, a cancellation and a resume, in a process that must say nothing.

python -X dev -W error -m stargraph_torture.calm FOLDER URL
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from stargraph.checkpoint.protocol import Closing
from stargraph.checkpoint.registry import open_checkpointer
from stargraph_torture.graphs import answer_all, load_graphs


async def main(folder: Path, url: str) -> None:
    asyncio.get_running_loop().slow_callback_duration = 60.0  # others may keep the machine busy
    store = open_checkpointer(url)
    await store.bootstrap()
    for name, graph in load_graphs(folder).items():
        run = await graph.start(checkpointer=store, run_id=f"calm-{name}")
        work = asyncio.create_task(run.start())
        await asyncio.sleep(0.05)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        summary = await (run.start() if await store.read_latest(run.run_id) is None else run.resume())
        while summary.status == "awaiting_input":
            latest = await store.read_latest(run.run_id)
            assert latest is not None
            await answer_all(run, latest)
            summary = await run.resume()
        assert summary.status == "done", summary.error
    assert isinstance(store, Closing)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
    print("done")
