"""One battle of a fleet of workers, and what must be true when it is over."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stargraph.checkpoint.protocol import RunSummary
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import StoreUnavailableError
from stargraph.graph import Graph, RunRequest
from stargraph_torture.fleet import SEARCH_PATH
from stargraph_torture.ledger import read_ledger
from stargraph_torture.workers.steps import FOLDER, SECONDS

NODES: Final = 10
POISON: Final = "poison"
_SKEWS: Final = (0.0, 600.0, -600.0, 0.0)
_BEFORE_OUTAGE: Final = 3.0
"""Seconds until the store is taken away."""

_MOST_PATIENCE: Final = 5.0
"""A worker is killed after this many times the usual time between kills, even if the fleet has not gone on."""

_STATE: Final = """\
state_schema:
  done: {type: "list[str]", default: []}
  poison: {type: bool, default: false}
"""


@dataclass(frozen=True, kw_only=True)
class BattlePlan:
    """What is done to a fleet.

    Attributes:
        seed: of all that is random.
        runs: how many runs.
        workers: how many worker processes; two clocks in four are off by ten minutes.
        concurrency: how many runs each of them executes at once.
        node_seconds: how long each of the ten nodes of a run takes.
        kill_every: seconds between two SIGKILLs of a worker; 0 for none.
        outage: for how many seconds the store cannot be reached; 0 for none.
        silent_after: after how many seconds of silence a process counts as gone.
        has_poison: whether one of the runs ends its process.
        is_rolling: whether the workers of the older version, of which half of the runs are, are replaced meanwhile.
        deadline: seconds after which the fleet has failed.
    """

    seed: int
    runs: int
    workers: int = 4
    concurrency: int = 8
    node_seconds: float = 0.02
    kill_every: float = 5.0
    outage: float = 0.0
    silent_after: float = 3.0
    has_poison: bool = True
    is_rolling: bool = True
    deadline: float = 600.0


@dataclass
class Report:
    """What came of it.

    Attributes:
        seconds: from the first worker to the last run.
        cpu: seconds of all workers, the starts of Python included.
        kills: how many workers were killed.
        deaths: how many ended by themselves, as by the poison run.
        done: how many runs are done.
        repeated: how many nodes began again, since their process was lost in them.
        repeated_finished: how many nodes began again after the store had them; there must be none.
        takeovers: seconds from the kill of a worker until a run of it went on, for each.
        takeovers_in_outage: those during which the store could not be reached for a while.
        violations: the promises that were broken; there must be none.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    kills: int = 0
    deaths: int = 0
    done: int = 0
    repeated: int = 0
    repeated_finished: int = 0
    takeovers: list[float] = field(default_factory=list)
    takeovers_in_outage: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """Return it as a row of `COLUMNS`, of which the last ones compare with an undisturbed process."""
        return (
            f"{self.done}",
            f"{self.seconds:.1f}",
            f"{self.done / self.seconds:.1f}",
            f"{self.kills}+{self.deaths}",
            f"{self.repeated_finished}",
            f"{self.repeated}",
            _spread(self.takeovers),
            _spread(self.takeovers_in_outage),
        )


COLUMNS: Final = (
    "done",
    "seconds",
    "runs/s",
    "killed+died",
    "finished nodes repeated",
    "lost nodes repeated",
    "take-over p50/max s",
    "in the outage",
)
"""What `Report.row` returns."""


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):.1f}/{max(times):.1f}" if times else "-"


class Battle:
    """A fleet of workers on one store.

    Args:
        folder: takes the graphs, the ledger and what the workers say.
        url: the store, as the workers reach it.
        plan: what is done to them.
        cut_off: takes the store away for some seconds; None if that cannot be done.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        plan: BattlePlan,
        cut_off: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self._folder = folder
        self._url = url
        self._plan = plan
        self._cut_off = cut_off
        self._run_ids = [f"r{n}" for n in range(plan.runs)]
        self._rng = random.Random(plan.seed)
        self._members: list[subprocess.Popen[bytes]] = []
        self._graphs: list[list[str]] = []
        self._ended: dict[int, float] = {}
        self._outage = (math.inf, math.inf)
        self._report = Report()
        self._old = self._write_graph("v1", "halt")
        self._new = self._write_graph("v2", "end")
        self._ledger = folder / "ledger"
        self._ledger.touch()  # no worker may come so far as to write it

    def _write_graph(self, version: str, end: str) -> str:
        folder = self._folder / version
        folder.mkdir()
        nodes = [f'  - {{id: n{n}, kind: "stargraph_torture.workers.steps:step"}}\n' for n in range(NODES)]
        path = folder / "order.yaml"
        # A description is no part of the version; the name of a node is.
        path.write_text(f"id: order\n{_STATE}nodes:\n{''.join(nodes)}  - {{id: {end}, kind: echo}}\n")
        return str(path)

    async def play(self) -> Report:
        """Enqueue the runs, let the workers execute them under fire, and examine what they left."""
        plan = self._plan
        async with open_checkpointer(self._url) as store:
            await self._enqueue(store)
            cpu, began = children_cpu(), time.monotonic()
            for number in range(plan.workers):
                # Each version has workers, unless there is but one.
                targets = [self._old] if plan.is_rolling and number % 2 == 0 else [self._new]
                self._graphs.append(targets if plan.is_rolling else [self._old, self._new])
                self._members.append(self._spawn(number))
            nemesis = [asyncio.ensure_future(each) for each in self._faults()]
            try:
                async with asyncio.timeout(plan.deadline):
                    await self._until_over(store)
            except TimeoutError:
                self._report.violations.append(f"the runs were not over after {plan.deadline:g} s")
            finally:
                self._report.seconds = time.monotonic() - began
                for each in nemesis:
                    each.cancel()
                await asyncio.gather(*nemesis, return_exceptions=True)
                await self._end_workers()
            self._report.cpu = children_cpu() - cpu
            await self._examine(store)
        return self._report

    async def _enqueue(self, store: Any) -> None:
        for target, run_ids in self._runs_of_each_version():
            await Graph.from_file(target).enqueue_many(store, [RunRequest(run_id=run_id) for run_id in run_ids])
        if self._plan.has_poison:
            await Graph.from_file(self._new).enqueue(store, {"poison": True}, run_id=POISON, priority=1)

    def _runs_of_each_version(self) -> list[tuple[str, list[str]]]:
        """Return the file of each version with the ids of its runs, which are every other one."""
        return [(self._old, self._run_ids[::2]), (self._new, self._run_ids[1::2])]

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        job = {
            "store": self._url,
            "graphs": self._graphs[number],
            "skew": _SKEWS[number % len(_SKEWS)],
            "concurrency": self._plan.concurrency,
            "silent_after": self._plan.silent_after,
        }
        environment = os.environ | {
            "PYTHONPATH": SEARCH_PATH,
            FOLDER: str(self._folder),
            SECONDS: str(self._plan.node_seconds),
        }
        with (self._folder / f"stderr-{number}").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "stargraph_torture.workers.process", json.dumps(job)],
                env=environment,
                stderr=said,
                stdout=said,
            )

    def _faults(self) -> Sequence[Awaitable[None]]:
        plan = self._plan
        faults: list[Awaitable[None]] = [self._supervise()]
        if plan.kill_every:
            faults.append(self._kill_workers())
        if plan.outage and self._cut_off is not None:
            faults.append(self._take_store_away(self._cut_off))
        if plan.is_rolling:
            faults.append(self._deploy())
        return faults

    async def _take_store_away(self, cut_off: Callable[[float], Awaitable[None]]) -> None:
        await asyncio.sleep(_BEFORE_OUTAGE)
        began = time.monotonic()
        self._outage = (began, began + self._plan.outage)
        await cut_off(self._plan.outage)

    async def _supervise(self) -> None:
        """Start a new worker for each that has ended, as a supervisor would."""
        while True:
            for number, member in enumerate(self._members):
                if member.poll() is not None:
                    self._ended.setdefault(member.pid, time.monotonic())
                    self._report.deaths += member.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM)
                    self._members[number] = self._spawn(number)
            await asyncio.sleep(0.05)

    async def _kill_workers(self) -> None:
        while True:
            reached = self._ledger_lines()
            await asyncio.sleep(self._plan.kill_every * self._rng.uniform(0.7, 1.3))
            await self._until_all_went_on(reached)
            member = self._rng.choice(self._members)
            if member.poll() is None:
                self._ended[member.pid] = time.monotonic()
                member.kill()
                self._report.kills += 1

    async def _until_all_went_on(self, reached: int) -> None:
        """Wait until about every run has gone on that a worker has at hand; in an outage none does, so not for long.

        Four processes that are killed in a row before a run has gone on make a poison run of an innocent one, which is
        what they would do by the clock alone on a machine where a worker needs long to start.
        """
        at_hand = self._plan.workers * self._plan.concurrency
        latest = time.monotonic() + _MOST_PATIENCE * self._plan.kill_every
        while time.monotonic() < latest and self._ledger_lines() - reached < 2 * at_hand:
            await asyncio.sleep(0.1)

    def _ledger_lines(self) -> int:
        """How often a node has begun or been stored so far."""
        return self._ledger.read_bytes().count(b"\n")

    async def _deploy(self) -> None:
        """Replace the workers of the old version, one after the other, by workers of both."""
        for number in range(len(self._members)):
            await asyncio.sleep(self._plan.kill_every * 0.8 + 0.5)
            self._graphs[number] = [self._new, self._old]
            self._members[number].terminate()

    async def _until_over(self, store: Any) -> None:
        while True:
            with suppress(StoreUnavailableError):  # it was taken away from this process too
                if not {"queued", "running", "awaiting_input", "paused"} & (await store.count_runs()).keys():
                    return
            await asyncio.sleep(0.2)

    async def _end_workers(self) -> None:
        for member in self._members:
            member.terminate()
        for member in self._members:
            try:
                await asyncio.to_thread(member.wait, 60)
            except subprocess.TimeoutExpired:
                self._report.violations.append("a worker did not end after a SIGTERM")
                member.kill()
                member.wait()

    async def _examine(self, store: Any) -> None:
        runs: list[RunSummary] = await store.list_runs(limit=10**6)
        blame = self._report.violations.append
        for run in runs:
            if run.run_id == POISON:
                if run.status != "failed" or run.error is None or run.error.reason != "poison":
                    blame(f"the poison run is {run.status}: {run.error and run.error.message}")
            elif run.status != "done":
                blame(f"run {run.run_id} is {run.status} at step {run.last_step}: {run.error and run.error.message}")
            else:
                self._report.done += 1
        for run_id in self._run_ids:
            latest = await store.read_latest(run_id)
            if latest is None or latest.state["done"] != [f"n{n}" for n in range(NODES)]:
                blame(f"run {run_id} has done {latest and latest.state['done']}")
        if await store.processes() and not self._report.kills and not self._plan.has_poison:
            blame("processes that were drained have not left")
        self._examine_effects(await self._acknowledged(store))

    async def _acknowledged(self, store: Any) -> Sequence[dict[str, Any]]:
        """Return the ledger, which says where the store has acknowledged a node."""
        return read_ledger(self._ledger)

    def _examine_effects(self, lines: Sequence[dict[str, Any]]) -> None:
        """A node that the store has acknowledged never begins again; whoever lost a run in it, ran it in vain."""
        stored: set[tuple[str, str]] = set()
        begun: defaultdict[tuple[str, str], int] = defaultdict(int)
        last: dict[str, tuple[int, float]] = {}
        for line in lines:
            node = (line["run"], line["node"])
            if line["what"] == "stored":
                stored.add(node)
                continue
            if node in stored:
                self._report.repeated_finished += 1
                self._report.violations.append(f"run {node[0]}: node {node[1]} began again after it was stored")
            begun[node] += 1
            before = last.get(line["run"])
            if before is not None and before[0] != line["process"] and before[0] in self._ended:
                self._note_takeover(max(self._ended[before[0]], before[1]), line["at"])
            last[line["run"]] = (line["process"], line["at"])
        self._report.repeated = sum(times - 1 for (run, _), times in begun.items() if run != POISON)

    def _note_takeover(self, lost: float, went_on: float) -> None:
        began, ended = self._outage
        is_in_outage = lost < ended and went_on > began
        (self._report.takeovers_in_outage if is_in_outage else self._report.takeovers).append(went_on - lost)


def children_cpu() -> float:
    """Return the seconds of CPU of the processes of this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
