"""The same battle on a Dask cluster, whose workers are killed, and its scheduler too."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from distributed import Client
from support.dask_cluster import DaskProcesses

from stargraph.checkpoint.registry import open_checkpointer
from stargraph.dask import Fleet
from stargraph_torture.fleet import SEARCH_PATH
from stargraph_torture.ledger import read_ledger
from stargraph_torture.workers.battle import POISON, Battle, Report, children_cpu
from stargraph_torture.workers.steps import FOLDER, SECONDS

_PATIENCE = 60


class DaskBattle(Battle):
    """A Dask cluster on one store; what it is told to execute is what the workers of `Battle` take."""

    async def play(self) -> Report:
        """Give the runs to Dask, kill its processes, go on with what was lost, and examine what is left."""
        cpu, began = children_cpu(), time.monotonic()
        await asyncio.to_thread(self._execute)
        self._report.seconds = time.monotonic() - began
        self._report.cpu = children_cpu() - cpu
        async with open_checkpointer(self._url) as store:
            await self._examine(store)
        return self._report

    def _execute(self) -> None:
        plan = self._plan
        environment = {"PYTHONPATH": SEARCH_PATH, FOLDER: str(self._folder), SECONDS: str(plan.node_seconds)}
        over = threading.Event()
        options: dict[str, Any] = {"workers": plan.workers, "threads": plan.concurrency, "environment": environment}
        with (
            DaskProcesses(self._folder, **options) as cluster,
            Client(cluster.address, set_as_default=False, timeout=_PATIENCE) as client,
        ):
            client.wait_for_workers(plan.workers, timeout=_PATIENCE)
            nemesis = threading.Thread(target=self._disturb, args=(cluster, over))
            nemesis.start()
            try:
                self._give(client)
            finally:
                over.set()
                nemesis.join()

    def _give(self, client: Client) -> None:
        """Have the runs executed, and those that the cluster has lost once more."""
        fleet, deadline = Fleet(client, self._url), time.monotonic() + self._plan.deadline
        runs = []
        for target, run_ids in self._runs_of_each_version():
            runs += fleet.map(target, [{}] * len(run_ids), run_ids=run_ids)
        if self._plan.has_poison:
            runs.append(fleet.submit(self._new, {"poison": True}, run_id=POISON, priority=1))
        fleet.wait(runs)
        while any(run.error is not None for run in runs):
            if time.monotonic() > deadline:
                self._report.violations.append(f"the runs were not over after {self._plan.deadline:g} s")
                return
            client.wait_for_workers(1, timeout=_PATIENCE)
            runs = fleet.recover(self._old, self._new, silent_after=self._plan.silent_after)

    def _disturb(self, cluster: DaskProcesses, over: threading.Event) -> None:
        """Kill a worker now and then, and the scheduler once; start again what has ended, as a supervisor does."""
        next_kill = time.monotonic() + self._plan.kill_every
        kills_scheduler_at = time.monotonic() + 2 * self._plan.kill_every
        while not over.wait(0.1):
            now = time.monotonic()
            for worker in cluster.workers:
                if worker.poll() is not None and worker.pid not in self._ended:
                    self._ended[worker.pid] = now
                    self._report.deaths += worker.returncode != -signal.SIGKILL
            cluster.restart_ended()
            if now >= next_kill:
                next_kill = now + self._plan.kill_every
                victim = self._rng.choice(cluster.workers)
                self._ended[victim.pid] = now
                victim.kill()
                self._report.kills += 1
            if now >= kills_scheduler_at:
                kills_scheduler_at = float("inf")
                cluster.scheduler.kill()
                self._report.kills += 1

    async def _acknowledged(self, store: Any) -> Sequence[dict[str, Any]]:
        """Return the ledger, with a line where the store had a node: after the process began it that is named there."""
        stored: dict[tuple[str, str], int] = {}
        for run in await store.list_runs(limit=10**6):
            async for step in store.history(run.run_id):
                if step.event == "completed" and step.process is not None:
                    stored[run.run_id, step.last_node] = step.process.pid
        lines: list[dict[str, Any]] = []
        for line in read_ledger(self._ledger):
            lines.append(line)
            if line["what"] == "effect" and stored.get((line["run"], line["node"])) == line["process"]:
                lines.append({**line, "what": "stored"})
        return lines
