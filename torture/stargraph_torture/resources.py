"""What a process holds: descriptors, threads, tasks, temporary files, connections of a server, memory."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.checkpoints import chain

from stargraph.checkpoint.protocol import RunDeletion
from stargraph.graph import Graph
from stargraph.ir import parse_graph
from stargraph_torture.recorder import Store

_SETTLING = 60.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Held:
    """What a process holds at a moment."""

    descriptors: int
    threads: int
    tasks: int
    files: int

    @classmethod
    def now(cls, temporary: Path) -> Held:
        """Count.

        Args:
            temporary: where temporary files are made.
        """
        gc.collect()
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")),
            # The loop keeps the threads in which sync nodes have run.
            threads=sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate()),
            tasks=len(asyncio.all_tasks()),
            files=sum(len(files) + len(folders) for _, folders, files in os.walk(temporary)),
        )

    def more_than(self, other: Held) -> bool:
        """Return whether anything is held that was not before."""
        return any(getattr(self, name) > getattr(other, name) for name in self.__dataclass_fields__)


async def settled(before: Held, temporary: Path) -> Held:
    """Return what is held once what was let go is gone, or at last.

    Args:
        before: what was held before.
        temporary: where temporary files are made.
    """
    deadline = time.monotonic() + _SETTLING
    while (now := Held.now(temporary)).more_than(before) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return now


async def open_cancel_close(open_store: Callable[[], Store], graph: Graph, number: int, rng: random.Random) -> None:
    """Open a store, cancel what is done to it at some moment, and close it.

    Args:
        open_store: makes a handle.
        graph: a graph to run.
        number: makes the run ids differ.
        rng: chooses the moment.
    """
    store = open_store()

    async def use() -> None:
        await store.bootstrap()
        log = chain(4, run_id=f"chain-{number}")
        run = await graph.start(checkpointer=store, run_id=f"run-{number}")
        await asyncio.gather(run.start(), store.write_many(log), *(store.read_latest(each.run_id) for each in log))

    work = asyncio.create_task(use())
    await asyncio.sleep(rng.random() * 0.1)
    work.cancel()
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    await store.close()
    if isinstance(outcome, Exception):
        raise outcome


SOAK = """
id: soak
state_schema: {n: {type: int, default: 0}, text: {type: str, default: ""}}
nodes:
  - {id: count, kind: "stargraph_torture.resources:count"}
rules:
  - {id: again, when: {node: count, if: "state.n % 500 != 0"}, then: [{kind: goto, target: count}]}
"""
"""Runs of 500 steps."""


async def count(state: Any) -> dict[str, Any]:
    """Counts up, and changes a text."""
    return {"n": state.n + 1, "text": f"{state.n}" * 100}


@dataclass(frozen=True)
class Growth:
    """How memory grew over a soak.

    Attributes:
        steps: how many steps were executed.
        bytes_per_step: the slope of the resident memory over the steps, after the first fifth, by least squares.
        first: resident bytes after the first fifth.
        last: resident bytes at the end.
    """

    steps: int
    bytes_per_step: float
    first: int
    last: int


async def soak(store: Store, deletion: RunDeletion, steps: int) -> Growth:
    """Execute runs one after the other, remove each, and watch the memory.

    Args:
        store: where.
        deletion: the same store, to keep it small.
        steps: how many, at least.
    """
    graph = Graph(parse_graph(SOAK))
    seen: list[tuple[int, int]] = []
    done = 0
    while done < steps:
        run = await graph.start(checkpointer=store, run_id=f"soak-{done}")
        summary = await run.start()
        assert summary.status == "done", summary.error
        done += summary.last_step + 1
        await deletion.delete_run(run.run_id)
        seen.append((done, resident_bytes()))
    rest = seen[len(seen) // 5 :]
    slope = statistics.linear_regression([at for at, _ in rest], [size for _, size in rest]).slope
    return Growth(done, slope, rest[0][1], rest[-1][1])


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
