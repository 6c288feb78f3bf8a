"""One round: a fleet executes runs on a store under fire, and an oracle looks at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from stargraph.graph import Graph
from stargraph_torture import graphs
from stargraph_torture.arenas import ARENAS, Arena
from stargraph_torture.fleet import Fleet
from stargraph_torture.folders import folder_in_memory
from stargraph_torture.ledger import read_ledger
from stargraph_torture.nemesis import Nemesis, faults_on
from stargraph_torture.oracle import Verdict, examine
from stargraph_torture.recorder import Store
from stargraph_torture.worker import FOUGHT, Assignment

FINISHING = 180.0
"""Seconds in which the fleet must finish once nobody disturbs it any more."""


@dataclass(frozen=True)
class RoundPlan:
    """What a round is made of.

    Attributes:
        driver: `sqlite`, `postgres` or `s3`.
        seed: decides which faults come, and when.
        runs: how many runs are executed, child runs not counted.
        workers: how many processes execute them.
        at_once: how many runs each of them executes at the same time.
        pause: seconds between two faults on processes, and between two on the store, on average; 0 for no faults.
        seconds: how long faults come, at most.
        planted: a bug to put between the engine and the driver.
    """

    driver: str
    seed: int
    runs: int = 100
    workers: int = 4
    at_once: int = 8
    pause: float = 0.3
    seconds: float = 600.0
    planted: str | None = None


@dataclass
class RoundResult:
    """What came of a round.

    Attributes:
        plan: the round.
        verdict: what the oracle found.
        faults: what was injected, by its kind.
        impossible: what could not be, and why.
        seconds: how long it took.
    """

    plan: RoundPlan
    verdict: Verdict
    faults: Counter[str]
    impossible: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def report(self) -> str:
        """Return the broken promises, and how to play the round again."""
        lines = [f"{self.plan}", *self.verdict.violations]
        return "\n".join([*lines, f"To play it again: STARGRAPH_TORTURE_SEED={self.plan.seed}"])


async def play(plan: RoundPlan) -> RoundResult:
    """Play a round.

    Args:
        plan: what it is made of.
    """
    begun = time.monotonic()
    tally: Counter[str] = Counter()
    with folder_in_memory() as folder:
        async with ARENAS[plan.driver](folder) as arena:
            with mock.patch.dict("os.environ", arena.environment):
                graphs.write_graphs(folder)
                run_ids = graphs.run_ids(plan.runs)
                fleet = Fleet(_assignments(plan, folder, arena, run_ids))
                try:
                    hung = await _fight(plan, fleet, arena, tally, folder / FOUGHT)
                finally:
                    fleet.end()
                verdict = await _judge(folder, arena, run_ids)
                verdict.violations += [*hung, *fleet.unexpected, *_complaints(folder)]
    return RoundResult(plan, verdict, tally, arena.impossible, time.monotonic() - begun)


def _assignments(plan: RoundPlan, folder: Path, arena: Arena, run_ids: list[str]) -> list[Assignment]:
    return [
        Assignment(
            number=number,
            folder=folder,
            # Who is not disturbed waits for others as long as any user does.
            open_store=arena.open_from_afar if plan.pause else arena.open_at_rest,
            run_ids=tuple(run_ids[number :: plan.workers]),
            at_once=plan.at_once,
            environment=arena.environment,
            planted=plan.planted,
            is_fought=bool(plan.pause),
        )
        for number in range(plan.workers)
    ]


async def _fight(plan: RoundPlan, fleet: Fleet, arena: Arena, tally: Counter[str], fought: Path) -> list[str]:
    """Let the nemesis rage while the fleet works; return who did not finish afterwards.

    Args:
        fought: the file without which no worker finishes.
    """
    watch = asyncio.create_task(fleet.watch())
    nemeses = []
    if plan.pause:
        for name, faults in (("processes", faults_on(fleet)), ("store", arena.faults)):
            nemeses.append(Nemesis(faults, Random(f"{plan.seed} {name}"), plan.pause, tally))
    raging = [asyncio.create_task(nemesis.rage()) for nemesis in nemeses]
    striking = asyncio.create_task(_until_struck(nemeses))
    await asyncio.wait([striking, *raging], return_when=asyncio.FIRST_COMPLETED)
    striking.cancel()
    fought.touch()
    await asyncio.wait([watch, *raging], timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in raging:
        task.cancel()
    ends = await asyncio.gather(*raging, return_exceptions=True)
    broken = [repr(end) for end in ends if not isinstance(end, asyncio.CancelledError)]
    if broken:
        raise RuntimeError(f"the nemesis failed: {broken}")
    await asyncio.wait([watch], timeout=FINISHING)
    hung = []
    if not watch.done():
        await fleet.ask_what_runs()
        hung = [f"worker {number} hangs in {fleet.open_runs(number)}" for number in fleet.at_work]
        watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    return hung


async def _until_struck(nemeses: Sequence[Nemesis]) -> None:
    """Wait until each of them has injected a fault."""
    for nemesis in nemeses:
        await nemesis.struck.wait()


async def _judge(folder: Path, arena: Arena, run_ids: list[str]) -> Verdict:
    store = arena.open_at_rest()
    await store.bootstrap()
    try:
        loaded, ledger = graphs.load_graphs(folder), read_ledger(folder / "ledger")
        await _cancel_again(store, loaded, ledger)
        return await examine(store, ledger, run_ids, await graphs.undisturbed(loaded))
    finally:
        await store.close()


async def _cancel_again(store: Store, loaded: Mapping[str, Graph], ledger: Sequence[Mapping[str, Any]]) -> None:
    """Repeat every cancellation: one whose process was lost half-way may have left a child run open."""
    for run_id in dict.fromkeys(line["run"] for line in ledger if line["what"] == "cancelling"):
        latest = await store.read_latest(run_id)
        if latest is not None and latest.status == "cancelled":
            await (await loaded[graphs.graph_of(run_id)].start(checkpointer=store, run_id=run_id)).cancel(grace=0)


def _complaints(folder: Path) -> list[str]:
    """What workers have written to their standard errors: nothing."""
    return [f"{file.name}: {file.read_text()[-4000:]}" for file in folder.glob("stderr-*") if file.stat().st_size]
