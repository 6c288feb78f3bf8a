"""The client's side: enqueues runs, has Dask execute them, and goes on with what an earlier client has left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import Any, Final

from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from stargraph.checkpoint.protocol import (
    Checkpointer,
    GraphVersion,
    JsonValue,
    ProcessInfo,
    RunQueue,
    RunSearch,
    RunSummary,
)
from stargraph.dask._host import Host
from stargraph.dask._tasks import execute
from stargraph.dask._ticket import STORE_VARIABLE, GraphTicket, StoreTicket, Ticket
from stargraph.errors import CheckpointError, StargraphError
from stargraph.graph import Graph, RunRequest
from stargraph.runtime._given import check_type

_OPEN: Final = ("queued", "running")
"""A run with one of these is still to be executed."""

_CLUSTER_LOST: Final = "cluster-lost"

_LOOK_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 0.1
_CLAIMED: Final = 1_000
_RESERVED: Final = 60.0


@dataclass(eq=False)
class FleetRun:
    """A run that was given to Dask.

    Attributes:
        run_id: the run.
        summary: where it rests; None until `as_completed` or `wait` has seen it.
        error: why no worker could execute it, or None; it is stored nevertheless, and `recover` tries it again.
    """

    run_id: str
    summary: RunSummary | None = None
    error: StargraphError | None = None
    _ticket: Ticket = field(kw_only=True, repr=False)
    _future: Future[dict[str, Any]] = field(kw_only=True, repr=False)

    def raise_for_status(self) -> RunSummary:
        """Return the summary of a run that has ended well.

        Raises:
            StargraphError: no worker could execute it, or it is not known yet (`reason="not-completed"`).
            NodeError: it failed or was cancelled.
        """
        if self.error is not None:
            raise self.error
        if self.summary is None:
            raise StargraphError(f"run {self.run_id!r} has not completed", reason="not-completed")
        return self.summary.raise_for_status()


class Fleet:
    """Executes runs on a Dask cluster, each durably.

    A run is stored before Dask hears of it, and a task goes on where the store says that the run stands. So Dask's own
    rescheduling resumes the runs whose worker has died, and `recover` finishes what a lost client or cluster has left.
    Values and code stay out of Dask: a task carries the id of the run, the name of the graph and its hashes.

    Args:
        client: a Dask client that is not asynchronous.
        store_url: the store, as workers reach it too. With a secret in it, workers take it from their environment:
            `store_variable`, which takes precedence in any case.
        queue: the queue of the runs; give each fleet that shares a store one of its own.
        store_variable: the environment variable that names the store on the workers.

    Raises:
        TypeError: the client is asynchronous.
        CheckpointError: the store is one of memory, which no other process sees (`reason` is `invalid-url`).
    """

    def __init__(
        self, client: Client, store_url: str, *, queue: str = "dask", store_variable: str = STORE_VARIABLE
    ) -> None:
        if not hasattr(client, "asynchronous"):
            check_type(client, "client", (), "a Dask client, as in Client(…)")
        check_type(store_url, "store_url", str, "the URL of a store, as text")
        if client.asynchronous:
            raise TypeError("the client is asynchronous: give Client(…, asynchronous=False)")
        if store_url.lower().startswith("memory:"):
            raise CheckpointError(
                "a store in memory belongs to one process, so the workers of Dask cannot see its runs",
                reason="invalid-url",
                hint="Give the address of a store that every worker reaches.",
            )
        self._client = client
        self._address = store_url
        self._store = StoreTicket.of(store_url, store_variable)
        self._queue = queue

    def __repr__(self) -> str:
        return f"Fleet({self._store.shown!r}, queue={self._queue!r})"

    def submit(
        self,
        graph: str,
        inputs: Mapping[str, JsonValue] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
        metadata: Mapping[str, str] | None = None,
    ) -> FleetRun:
        """Enqueue one run, and have it executed; see `map`."""
        ids = None if run_id is None else [run_id]
        (run,) = self.map(graph, [{} if inputs is None else inputs], run_ids=ids, priority=priority, metadata=metadata)
        return run

    def map(
        self,
        graph: str,
        inputs: Iterable[Mapping[str, JsonValue]],
        *,
        run_ids: Sequence[str] | None = None,
        priority: int = 0,
        metadata: Mapping[str, str] | None = None,
    ) -> list[FleetRun]:
        """Enqueue a run for each of some inputs, and have them executed.

        Once this has returned, all of them are stored: whatever is lost then, `recover` finishes them.

        Args:
            graph: its name, as `Graph.load` takes it, here and on the workers: `package.module:graph` is best.
            inputs: what each run begins with.
            run_ids: the id of each, by which it is enqueued once; UUIDv7s if None.
            priority: runs with a higher priority begin first.
            metadata: tags of each.

        Raises:
            GraphError: the graph cannot be loaded here.
            StateError: inputs do not fit; nothing was stored.
            CheckpointError: as the store raises.
        """
        loaded = Graph.load(graph)
        given = list(inputs)
        ids: Sequence[str | None] = [None] * len(given) if run_ids is None else run_ids
        requests = [
            RunRequest(inputs=each, run_id=run_id, queue=self._queue, priority=priority, metadata=metadata)
            for each, run_id in zip(given, ids, strict=True)
        ]
        stored = Host.current().run(self._enqueue(loaded, requests))
        return self._send(GraphTicket.of(graph, loaded), stored, priority)

    def as_completed(self, runs: Iterable[FleetRun]) -> Iterator[FleetRun]:
        """Yield runs as they come to rest, each once.

        A run that was in flight when workers died is tried again in a process of its own, so that only the guilty one
        ends as failed, with the reason `poison`, and never its neighbours.
        """
        waiting = {run._future.key: run for run in runs}
        completed: Any = as_completed([run._future for run in waiting.values()], loop=self._client.loop)
        for future in completed:
            run = waiting[future.key]
            again = self._settle(run)
            if again:
                waiting[run._future.key] = run
                completed.add(run._future)
            else:
                yield run

    def wait(self, runs: Iterable[FleetRun], *, progress: bool = False) -> list[FleetRun]:
        """Wait until runs have come to rest, and return them in the order that they were given in.

        Args:
            progress: show a bar on stderr.
        """
        given = list(runs)
        completed = self.as_completed(given)
        if progress:
            from rich.console import Console
            from rich.progress import track

            completed = iter(track(completed, "runs", total=len(given), console=Console(file=sys.stderr)))
        for _ in completed:
            pass
        return given

    def recover(
        self, *graphs: str, silent_after: float = 30.0, timeout: float | None = None, progress: bool = False
    ) -> list[FleetRun]:
        """Finish all runs of the queue that an earlier client or cluster has left, and return those that this took up.

        It waits for runs that others still execute, and takes theirs once their processes are gone. If the scheduler is
        lost meanwhile, it goes on as soon as the client has reached it again.

        Args:
            graphs: the graphs of the runs, as `map` takes them; runs of others are left alone.
            silent_after: after how many seconds of silence a process counts as gone.
            timeout: seconds after which no more runs are taken up; None for no limit.
            progress: show a bar on stderr for each round.

        Raises:
            GraphError: a graph cannot be loaded here.
            CheckpointError: the store has no queues (`reason="not-supported"`), or as it raises.
            StargraphError: the client has given up reaching the scheduler (`reason="cluster-lost"`).
        """
        tickets = {}
        for name in graphs:
            ticket = GraphTicket.of(name, Graph.load(name))
            tickets[GraphVersion(ticket.graph_id, ticket.graph_hash, ticket.runtime_hash)] = ticket
        deadline = None if timeout is None else time.monotonic() + timeout
        finished: dict[str, FleetRun] = {}
        refused: set[str] = set()
        lost: list[FleetRun] = []
        while self._reaches_scheduler(deadline):
            found = Host.current().run(self._claim(list(tickets), silent_after))
            runs: list[FleetRun] = []
            for version, ticket in tickets.items():
                fitting = [
                    each.run_id for each in found if GraphVersion.of(each) == version and each.run_id not in refused
                ]
                # Those that were lost are still reserved for this call, so nobody finds them in the store.
                fitting += [run.run_id for run in lost if run._ticket.graph == ticket and run.run_id not in fitting]
                runs += self._send(ticket, fitting, 0)
            finished |= {run.run_id: run for run in self.wait(runs, progress=progress and bool(runs))}
            lost = [run for run in runs if run.error is not None and run.error.reason == _CLUSTER_LOST]
            refused |= {run.run_id for run in runs if run.error is not None and run not in lost}
            left = Host.current().run(self._count_open(list(tickets), refused))
            if not left or (deadline is not None and time.monotonic() > deadline):
                break
            if not runs:
                time.sleep(_LOOK_SECONDS)
        return list(finished.values())

    def _reaches_scheduler(self, deadline: float | None) -> bool:
        """Wait until the client is connected; return False if it is not when the time is over.

        Raises:
            StargraphError: the client was closed, by itself or by its owner.
        """
        while self._client.status != "running":
            if self._client.status in ("closing", "closed"):
                raise StargraphError(
                    f"{self!r}: the client has no connection to a scheduler any more",
                    reason=_CLUSTER_LOST,
                    hint="Every run is stored: recover them with a Fleet on a client of a running cluster.",
                )
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(_CONNECT_SECONDS)
        return True

    def _send(self, graph: GraphTicket, run_ids: Iterable[str], priority: int) -> list[FleetRun]:
        tickets = [Ticket(graph, self._store, run_id) for run_id in run_ids]
        fields = [ticket.as_dict() for ticket in tickets]
        # Not pure: the same run may have to be executed again.
        futures = self._client.map(execute, fields, pure=False, priority=priority) if fields else []
        return [
            FleetRun(ticket.run_id, _ticket=ticket, _future=future)
            for ticket, future in zip(tickets, futures, strict=True)
        ]

    def _settle(self, run: FleetRun) -> bool:
        """Take what came of a run's task; return whether it was given to Dask again."""
        try:
            answer = run._future.result()
        except KilledWorker:
            if not run._ticket.alone:
                run._ticket = replace(run._ticket, alone=True)
                run._future = self._client.submit(execute, run._ticket.as_dict(), pure=False)
                return True
            # Not the run, which has a process of its own: somebody ends the workers.
            answer = {"error": f"run {run.run_id!r}: workers end one after another", "reason": "workers-died"}
        except (CancelledError, FutureCancelledError, OSError) as error:
            answer = {"error": f"run {run.run_id!r}: the cluster is gone: {error}", "reason": _CLUSTER_LOST}
        except Exception as error:  # noqa: BLE001  # whatever a worker without our packages says
            what = f"{type(error).__name__}: {error}"
            answer = {"error": f"run {run.run_id!r}: the task could not run: {what}", "reason": "task-failed"}
        if "summary" in answer:
            run.summary, run.error = RunSummary.model_validate_json(answer["summary"]), None
        else:
            hint = answer.get("hint") or "It is stored: Fleet.recover goes on with it."
            run.error = StargraphError(answer["error"], reason=answer["reason"], hint=hint)
        return False

    async def _enqueue(self, graph: Graph[Any], requests: list[RunRequest]) -> list[str]:
        store = await Host.current().store(self._address)
        return [each.run_id for each in await graph.enqueue_many(store, requests)]

    async def _claim(self, versions: Sequence[GraphVersion], silent_after: float) -> list[RunSummary]:
        store = await self._queues()
        return await store.claimable(
            ProcessInfo.current().id or "",
            [self._queue],
            limit=_CLAIMED,
            fits=versions,
            silent_after=silent_after,
            reserve=_RESERVED,
        )

    async def _count_open(self, versions: Sequence[GraphVersion], refused: set[str]) -> int:
        """Return how many runs of the queue are still to be executed, but for those that are due later."""
        store = await Host.current().store(self._address)
        assert isinstance(store, RunSearch)
        found = 0
        cursor: str | None = None
        while True:
            page = await store.search(status=list(_OPEN), limit=_CLAIMED, cursor=cursor)
            found += sum(
                run.queue is not None
                and run.queue.name == self._queue
                and run.due_at is None
                and GraphVersion.of(run) in versions
                and run.run_id not in refused
                for run in page.items
            )
            if found or page.next_cursor is None:
                return found
            cursor = page.next_cursor

    async def _queues(self) -> RunQueue:
        store: Checkpointer = await Host.current().store(self._address)
        if not isinstance(store, RunQueue) or not isinstance(store, RunSearch):
            raise CheckpointError(
                f"the driver {type(store).__name__} has no queues",
                reason="not-supported",
                hint="SQLite, PostgreSQL and S3 stores have them.",
            )
        return store
