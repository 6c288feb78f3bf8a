"""Execute many short runs on several worker processes, beside one undisturbed process and beside DBOS.

    python benchmarks/worker_fleet.py postgresql://postgres@localhost/bench --runs 1000
    python benchmarks/worker_fleet.py fresh.sqlite --runs 1000 --skip-dbos
    PYTHONPATH=tests python benchmarks/worker_fleet.py postgres --runs 1000    # on a server of its own

Each run has ten nodes that add one to a number; each step is durable before the next one starts, in Stargraph and in
DBOS alike. The workers wait for work when the clock starts, so that building, enqueueing, claiming and executing are
inside it, and the start of processes is not. Recovery is the time from the SIGKILL of one of two workers until
another process has stored a step of a run that it had: Stargraph's other worker takes it after `--silent-after`
seconds; DBOS takes it when a process with the same executor id is started, which is done at once. The database must be
empty, and is not emptied; DBOS makes its own schema in it. It needs what benchmarks/requirements.txt names.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from stargraph.checkpoint.protocol import RunSearch
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.graph import Graph, GraphBuilder, RunRequest
from stargraph.worker import Worker

NODES: Final = 10
_SLOW: Final = 0.3
"""Seconds that a node takes while recovery is measured."""

_PATIENCE: Final = 600
"""Seconds after which something has failed."""

builder = GraphBuilder("fleet")
builder.state(n=int, seconds=(float, 0.0))


async def add(state: Any) -> dict[str, int]:
    """Add one."""
    await asyncio.sleep(state.seconds)
    return {"n": state.n + 1}


for number in range(NODES):
    builder.add_node(f"add{number}", "worker_fleet:add")
graph = Graph(builder)


class Figures(NamedTuple):
    """What executing the runs took.

    Attributes:
        seconds: from the first write to the last.
        cpu: seconds of all processes, the start of Python included for workers.
    """

    seconds: float
    cpu: float

    def shown(self, runs: int) -> str:
        return (
            f"{self.seconds:7.2f} s {runs / self.seconds:8.1f} runs/s {runs * NODES / self.seconds:9.1f} nodes/s"
            f" {self.cpu:7.2f} s of CPU"
        )


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def _workers(role: str, url: str, count: int, options: argparse.Namespace) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield workers that wait for work, and end them."""
    members = [_spawn(role, url, index, options) for index in range(count)]
    try:
        for member in members:
            assert member.stdout is not None
            if member.stdout.readline() != "ready\n":
                raise SystemExit(f"a worker of {role} did not start")
        time.sleep(1.5)  # they say so just before they look for the first time
        yield members
    finally:
        for member in members:
            if member.poll() is None:
                member.terminate()
        for member in members:
            try:
                member.wait(20)
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()


def _spawn(role: str, url: str, index: int, options: argparse.Namespace) -> subprocess.Popen[str]:
    words = [url, "--role", role, "--index", str(index), "--concurrency", str(options.concurrency)]
    words += ["--silent-after", str(options.silent_after)]
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


async def alone(url: str, options: argparse.Namespace) -> Figures:
    """Execute the runs in this process, as many at once as all workers together would."""
    room = asyncio.Semaphore(options.concurrency * options.workers)
    async with open_checkpointer(url) as store:

        async def execute(index: int) -> None:
            async with room:
                run = await graph.start(checkpointer=store, run_id=f"alone-{index}", inputs={"n": index})
                await run.start()

        cpu, began = _cpu(), time.perf_counter()
        await asyncio.gather(*map(execute, range(options.runs)))
        return Figures(time.perf_counter() - began, _cpu() - cpu)


async def _until(met: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not await met():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} was not over after {_PATIENCE} s")
        await asyncio.sleep(0.05)


async def fleet(url: str, options: argparse.Namespace) -> Figures:
    """Enqueue the runs, and wait until the workers have executed them."""
    async with open_checkpointer(url) as store:
        assert isinstance(store, RunSearch)
        done_before: int = (await store.count_runs()).get("done", 0)
        cpu = _cpu()
        with _workers("worker", url, options.workers, options):
            began = time.perf_counter()
            await graph.enqueue_many(store, [RunRequest(run_id=f"q{n}", inputs={"n": n}) for n in range(options.runs)])

            async def over() -> bool:
                done = (await store.count_runs()).get("done", 0)
                return bool(done == done_before + options.runs)

            await _until(over, "the work of the workers")
            seconds = time.perf_counter() - began
        if (counts := await store.count_runs()).get("done", 0) != sum(counts.values()):
            raise SystemExit(f"not every run is done: {counts}")
        return Figures(seconds, _cpu() - cpu)


async def recovery(url: str, options: argparse.Namespace) -> float:
    """Return the seconds from the kill of a worker until another one has stored a step of one of its runs."""
    async with open_checkpointer(url) as store:
        with _workers("worker", url, 2, options) as members:
            await graph.enqueue_many(
                store, [RunRequest(run_id=f"slow{n}", inputs={"n": n, "seconds": _SLOW}) for n in range(16)]
            )
            await asyncio.sleep(_SLOW * 4)
            victim = members[0]
            victim.send_signal(signal.SIGKILL)
            began = time.perf_counter()
            lost = [
                each.run_id
                for each in await store.list_runs(limit=16)
                if each.status == "running" and each.process is not None and each.process.pid == victim.pid
            ]

            async def taken() -> bool:
                latest = [await store.read_latest(run_id) for run_id in lost]
                found = [each for each in latest if each is not None and each.event == "completed"]
                return any(each.process is not None and each.process.pid != victim.pid for each in found)

            await _until(taken, "the recovery")
            return time.perf_counter() - began


def work(url: str, options: argparse.Namespace) -> None:
    """Be a worker of Stargraph."""
    worker = Worker(url, graph, concurrency=options.concurrency, silent_after=options.silent_after)
    print("ready", flush=True)
    asyncio.run(worker.run())


def _dbos_url(url: str) -> str:
    if "://" not in url:
        return f"sqlite:///{url}.dbos"
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _launch_dbos(url: str, index: int, concurrency: int) -> Any:
    from dbos import DBOS

    config: Any = {
        "name": "fleet",
        "system_database_url": _dbos_url(url),
        "log_level": "ERROR",
        "run_admin_server": False,
        "executor_id": f"executor-{index}",
        "application_version": "1",
    }
    DBOS(config=config)

    @DBOS.step()  # type: ignore[untyped-decorator]
    async def step(n: int, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return n + 1

    @DBOS.workflow()  # type: ignore[untyped-decorator]
    async def run(n: int, seconds: float) -> int:
        for _ in range(NODES):
            n = await step(n, seconds)
        return n

    DBOS.launch()
    DBOS.register_queue("fleet", worker_concurrency=concurrency, polling_interval_sec=0.1)
    return DBOS


def work_dbos(url: str, options: argparse.Namespace) -> None:
    """Be a worker of DBOS."""
    dbos = _launch_dbos(url, options.index, options.concurrency)
    print("ready", flush=True)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    while not stop:
        time.sleep(0.1)
    dbos.destroy()


def _client(url: str) -> Any:
    from dbos import DBOSClient

    return DBOSClient(system_database_url=_dbos_url(url))


def _enqueue_dbos(client: Any, name: str, count: int, seconds: float) -> None:
    for n in range(count):
        options = {"workflow_name": "_launch_dbos.<locals>.run", "queue_name": "fleet", "workflow_id": f"{name}{n}"}
        client.enqueue(options, n, seconds)


async def fleet_dbos(url: str, options: argparse.Namespace) -> Figures:
    """Do with DBOS what `fleet` does."""
    if "://" not in url:
        connection = sqlite3.connect(f"{url}.dbos")
        connection.execute("PRAGMA journal_mode = WAL")  # which DBOS does not turn on itself
        connection.close()
    cpu = _cpu()
    with _workers("dbos", url, options.workers, options):
        client = _client(url)
        began = time.perf_counter()
        _enqueue_dbos(client, "q", options.runs, 0.0)

        async def over() -> bool:
            return not client.list_queued_workflows(queue_name="fleet", limit=1, load_input=False)

        await _until(over, "the work of DBOS")
        seconds = time.perf_counter() - began
        client.destroy()
    return Figures(seconds, _cpu() - cpu)


async def recovery_dbos(url: str, options: argparse.Namespace) -> float:
    """Do with DBOS what `recovery` does; a process with the same executor id is started at once."""
    with _workers("dbos", url, 2, options) as members:
        client = _client(url)
        _enqueue_dbos(client, "slow", 16, _SLOW)
        await asyncio.sleep(_SLOW * 4)
        members[0].send_signal(signal.SIGKILL)
        began = time.perf_counter()
        lost = [each for each in client.list_workflows(status="PENDING") if each.executor_id == "executor-0"]
        before = {each.workflow_id: len(client.list_workflow_steps(each.workflow_id)) for each in lost}
        members.append(_spawn("dbos", url, 0, options))

        async def taken() -> bool:
            return any(len(client.list_workflow_steps(run_id)) > steps for run_id, steps in before.items())

        await _until(taken, "the recovery of DBOS")
        seconds = time.perf_counter() - began
        client.destroy()
        return seconds


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a path, the URL of an empty database, or postgres")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=8, help="of each worker")
    parser.add_argument("--silent-after", type=float, default=30.0)
    parser.add_argument("--skip-dbos", action="store_true")
    parser.add_argument("--role", choices=["worker", "dbos"], help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is not None:
        (work if options.role == "worker" else work_dbos)(options.store, options)
        return
    if options.store == "postgres":
        from support.postgres_server import any_server

        with any_server() as options.store:
            compare(options)
        return
    if "://" not in options.store and Path(options.store).exists():
        raise SystemExit(f"{options.store} exists already")
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure each, and print a table."""
    print(f"{options.runs} runs of {NODES} nodes, {options.workers} workers of {options.concurrency} at once")
    one = asyncio.run(alone(options.store, options))
    print(f"one process       {one.shown(options.runs)}")
    ours = asyncio.run(fleet(options.store, options))
    print(f"workers           {ours.shown(options.runs)}   CPU {ours.cpu / one.cpu:.2f} times that of one process")
    print(f"recovery          {asyncio.run(recovery(options.store, options)):7.2f} s")
    if options.skip_dbos:
        return
    theirs = asyncio.run(fleet_dbos(options.store, options))
    ratio = theirs.seconds / ours.seconds
    print(f"DBOS              {theirs.shown(options.runs)}   {ratio:.2f} times as long")
    print(f"recovery of DBOS  {asyncio.run(recovery_dbos(options.store, options)):7.2f} s, by a restart")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    main()
