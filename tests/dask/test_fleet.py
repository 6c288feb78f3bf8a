"""Runs on a Dask cluster of processes: whatever dies, everything that was enqueued is done."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.dask_cluster import DaskProcesses
from support.workspace import ROOT

from stargraph.checkpoint.protocol import Checkpoint, RunHistory, RunSummary
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import CheckpointError, GraphError, NodeError, StargraphError
from stargraph.graph import Graph

if TYPE_CHECKING:  # importing it takes a second, also for those who run no test here
    from distributed import Client

TARGET = "support.dask_graphs:graph"

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARGRAPH_TEST_FOLDER", str(tmp_path))
    monkeypatch.delenv("STARGRAPH_CHECKPOINT", raising=False)


def latest(url: str) -> dict[str, Checkpoint]:
    async def read() -> dict[str, Checkpoint]:
        async with open_checkpointer(url) as store:
            found = {run.run_id: await store.read_latest(run.run_id) for run in await store.list_runs(limit=1000)}
            return {run_id: checkpoint for run_id, checkpoint in found.items() if checkpoint is not None}

    return asyncio.run(read())


def ran(folder: Path) -> Counter[str]:
    return Counter(line.rsplit(" ", 1)[0] for line in (folder / "ran.txt").read_text().splitlines())


def finished(url: str, node: str, *, before_a_resume: bool = False) -> set[int]:
    """Return the inputs of the runs in which a node is stored as completed, if wanted before a process took them up."""

    async def read() -> set[int]:
        found = set()
        async with open_checkpointer(url) as store:
            assert isinstance(store, RunHistory)
            for run in await store.list_runs(limit=1000):
                steps = [step async for step in store.history(run.run_id)]
                resumed = max((step.step for step in steps if step.event == "resumed"), default=len(steps))
                end = resumed if before_a_resume else len(steps)
                if any(step.event == "completed" and step.last_node == node and step.step < end for step in steps):
                    found.add(steps[0].state["n"])
        return found

    return asyncio.run(read())


def test_all_runs_are_done_and_come_back(client: Client, store_url: str, tmp_path: Path) -> None:
    from stargraph.dask import Fleet

    fleet = Fleet(client, store_url)
    ids = [f"r{number:02}" for number in range(20)]
    runs = fleet.map(TARGET, [{"n": 100 * number} for number in range(20)], run_ids=ids, metadata={"a": "b"})
    completed = list(fleet.as_completed(runs))
    assert sorted(run.run_id for run in completed) == ids
    assert all(run.raise_for_status().status == "done" for run in runs)
    assert {run_id: found.state["n"] for run_id, found in latest(store_url).items()} == {
        run_id: 100 * number + 11 for number, run_id in enumerate(ids)
    }
    assert set(ran(tmp_path).values()) == {1}
    # The same again: enqueued before, done before, nothing runs.
    again = fleet.map(TARGET, [{"n": 100 * number} for number in range(20)], run_ids=ids)
    assert {run.summary and run.summary.status for run in fleet.wait(again)} == {"done"}
    assert set(ran(tmp_path).values()) == {1}


def test_a_worker_that_dies_costs_no_finished_node(client: Client, store_url: str, tmp_path: Path) -> None:
    from stargraph.dask import Fleet

    fleet = Fleet(client, store_url)
    inputs: list[dict[str, Any]] = [{"n": 100 * number} for number in range(12)]
    inputs[5]["kill"] = "once"
    runs = fleet.wait(fleet.map(TARGET, inputs))
    assert {run.raise_for_status().status for run in runs} == {"done"}
    stored = finished(store_url, "first", before_a_resume=True)
    assert inputs[5]["n"] in stored
    assert {n: ran(tmp_path)[f"first {n}"] for n in stored} == dict.fromkeys(stored, 1)


def test_a_poison_run_fails_and_its_neighbours_do_not(client: Client, store_url: str) -> None:
    from stargraph.dask import Fleet

    fleet = Fleet(client, store_url)
    inputs: list[dict[str, Any]] = [{"n": 100 * number} for number in range(10)]
    inputs[3]["kill"] = "always"
    runs = fleet.wait(fleet.map(TARGET, inputs, run_ids=[f"r{number}" for number in range(10)]))
    statuses = {run.run_id: run.summary.status if run.summary else run.error for run in runs}
    assert statuses == {f"r{number}": "failed" if number == 3 else "done" for number in range(10)}
    error = latest(store_url)["r3"].error
    assert error is not None
    assert (error.reason, error.node) == ("poison", "second")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a run forks")
def test_a_run_alone_ends_before_what_it_has_forked(store_url: str, tmp_path: Path) -> None:
    from stargraph.dask._tasks import _execute_alone
    from stargraph.dask._ticket import GraphTicket, StoreTicket, Ticket

    async def enqueue() -> None:
        async with open_checkpointer(store_url) as store:
            await Graph.load(TARGET).enqueue(store, {"n": 1, "kill": "forks"}, run_id="r")

    asyncio.run(enqueue())
    ticket = Ticket(GraphTicket.of(TARGET, Graph.load(TARGET)), StoreTicket.of(store_url, "S"), "r", alone=True)
    answer = _execute_alone(ticket, store_url)
    assert answer is not None
    assert RunSummary.model_validate_json(answer["summary"]).status == "done"
    assert not (tmp_path / "forked_ended").exists()
    os.kill(int((tmp_path / "forked").read_text()), signal.SIGKILL)


def test_recover_finishes_what_a_lost_client_and_cluster_have_left(tmp_path: Path, store_url: str) -> None:
    from distributed import Client, LocalCluster

    from stargraph.dask import Fleet

    options: dict[str, Any] = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    gate = tmp_path / "gate"
    with (
        LocalCluster(n_workers=1, local_directory=str(tmp_path / "one"), **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        fleet = Fleet(client, store_url)
        gate.touch()  # one run ends, and no other one until all is lost
        runs = fleet.map(TARGET, [{"n": 100 * number, "kill": "gate"} for number in range(15)])
        next(fleet.as_completed(runs))
        # The worker process is killed, and with it all that it has said; nanny and scheduler go with the cluster.
        for pid in {int(line.rsplit(" ", 1)[1]) for line in (tmp_path / "ran.txt").read_text().splitlines()}:
            os.kill(pid, 9)
    left = [found.status for found in latest(store_url).values()]
    assert len(left) == 15
    assert set(left) - {"done"}
    stored = finished(store_url, "first")
    assert stored
    gate.unlink()
    with (
        LocalCluster(n_workers=1, local_directory=str(tmp_path / "two"), **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        Fleet(client, store_url).recover(TARGET, silent_after=1.0, timeout=200)
    assert {found.status for found in latest(store_url).values()} == {"done"}
    assert {n: ran(tmp_path)[f"first {n}"] for n in stored} == dict.fromkeys(stored, 1)


def test_recover_finishes_what_a_lost_scheduler_has_left(tmp_path: Path, store_url: str) -> None:
    from distributed import Client

    from stargraph.dask import Fleet

    environment = {"PYTHONPATH": str(ROOT / "tests")}
    with (
        DaskProcesses(tmp_path, workers=2, environment=environment) as cluster,
        Client(cluster.address, set_as_default=False, timeout=60) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        fleet = Fleet(client, store_url)
        gate = tmp_path / "gate"
        gate.touch()  # one run ends, and no other one until the scheduler is lost
        runs = fleet.map(TARGET, [{"n": 100 * number, "kill": "gate"} for number in range(40)])
        completed = fleet.as_completed(runs)
        next(completed)
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        left = [run for run in completed if run.error is not None]
        # Whatever the client had not heard of is said to be lost, each with what to do about it.
        assert left
        assert {run.error.reason for run in left if run.error} == {"cluster-lost"}
        assert all("recover" in str(run.error) for run in left)
        stored = finished(store_url, "first")
        begun = len(ran(tmp_path))
        gate.unlink()
        with cluster.restarting(), ThreadPoolExecutor() as pool:
            # The workers end by themselves once they have noticed.
            recovering = pool.submit(fleet.recover, TARGET, silent_after=1.0, timeout=200)
            while len(ran(tmp_path)) == begun and not recovering.done():
                time.sleep(0.05)
            cluster.scheduler.kill()
            recovered = recovering.result()
        assert [run.error for run in recovered if run.error is not None] == []
    assert {found.status for found in latest(store_url).values()} == {"done"}
    assert len(latest(store_url)) == 40
    assert {n: ran(tmp_path)[f"first {n}"] for n in stored} == dict.fromkeys(stored, 1)


def test_recover_by_a_client_that_was_closed_says_what_to_do(client: Client, store_url: str) -> None:
    from stargraph.dask import Fleet

    fleet = Fleet(client, store_url)
    fleet.submit(TARGET, {"n": 1})
    client.close()
    with pytest.raises(StargraphError, match="no connection to a scheduler") as caught:
        fleet.recover(TARGET)
    assert caught.value.reason == "cluster-lost"


def test_a_dask_client_executes_nodes(client: Client, store_url: str, tmp_path: Path) -> None:
    async def execute() -> RunSummary:
        async with open_checkpointer(store_url) as store:
            executor = client.get_executor()
            run = await Graph.load(TARGET).start(checkpointer=store, executor=executor, inputs={"n": 1})
            return await run.start()

    assert asyncio.run(execute()).status == "done"
    (found,) = latest(store_url).values()
    assert found.state["n"] == 12
    pids = {int(line.rsplit(" ", 1)[1]) for line in (tmp_path / "ran.txt").read_text().splitlines()}
    assert os.getpid() not in pids


def test_a_dask_worker_with_other_code_runs_no_node(client: Client, store_url: str, tmp_path: Path) -> None:
    nodes = "def add(state):\n    return {{'n': state.n + {}}}\n"
    (tmp_path / "nodes_of_dask.py").write_text(nodes.format(1))
    (tmp_path / "graph.yaml").write_text(
        "id: y\nstate_schema: {n: int}\nnodes:\n  - {id: a, kind: 'nodes_of_dask:add'}\n"
    )
    loaded = Graph.from_file(tmp_path / "graph.yaml")
    (tmp_path / "nodes_of_dask.py").write_text(nodes.format(2))  # what the workers import

    async def execute() -> RunSummary:
        async with open_checkpointer(store_url) as store:
            run = await loaded.start(checkpointer=store, executor=client.get_executor(), inputs={"n": 1})
            return await run.start()

    with pytest.raises(NodeError, match="the code of node 'a' differs") as caught:
        asyncio.run(execute()).raise_for_status()
    assert caught.value.reason == "other-code"


def test_neither_tasks_nor_errors_show_a_secret() -> None:
    from stargraph.dask._tasks import execute
    from stargraph.dask._ticket import GraphTicket, StoreTicket, Ticket

    store = StoreTicket.of("postgresql://me:geheim@db.internal/runs", "STARGRAPH_CHECKPOINT")
    ticket = Ticket(GraphTicket.of(TARGET, Graph.load(TARGET)), store, "r")
    assert "geheim" not in repr(ticket) + str(ticket.as_dict())
    answer = execute(ticket.as_dict())
    assert answer["reason"] == "no-store-address"
    assert "geheim" not in str(answer)
    with pytest.raises(CheckpointError, match="has a secret in it"):
        store.address()


def test_the_environment_of_the_worker_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from stargraph.dask._ticket import StoreTicket

    store = StoreTicket.of("sqlite:///somewhere/run.sqlite", "MY_STORE")
    assert store.address() == "sqlite:///somewhere/run.sqlite"
    monkeypatch.setenv("MY_STORE", "sqlite:///elsewhere/run.sqlite")
    assert store.address() == "sqlite:///elsewhere/run.sqlite"


def test_a_worker_with_other_code_refuses_the_run(client: Client, store_url: str, tmp_path: Path) -> None:
    from stargraph.dask import Fleet
    from stargraph.dask._ticket import GraphTicket

    fleet = Fleet(client, store_url)
    ticket = GraphTicket.of(TARGET, Graph.load(TARGET))
    other = GraphTicket(ticket.target, ticket.document, ticket.graph_id, ticket.graph_hash, "0" * 64)
    (run,) = fleet.wait(fleet._send(other, ["r"], 0))
    assert run.summary is None
    assert run.error is not None
    assert run.error.reason == "other-code"
    assert "the code of its nodes on this worker differs" in run.error.message
    with pytest.raises(StargraphError):
        run.raise_for_status()
    assert not (tmp_path / "ran.txt").exists()


def test_a_graph_file_travels_as_its_definition(tmp_path: Path) -> None:
    from stargraph.dask._ticket import GraphTicket

    file = tmp_path / "graph.yaml"
    file.write_text("id: y\nstate_schema: {n: int}\nnodes:\n  - {id: a, kind: 'support.dask_yaml_nodes:add'}\n")
    ticket = GraphTicket.of(str(file), Graph.from_file(file))
    file.unlink()
    assert ticket.load().graph_hash == ticket.graph_hash
    python = GraphTicket.of(TARGET, Graph.load(TARGET))
    assert python.document == ""
    with pytest.raises(GraphError):
        GraphTicket("no.such:graph", "", "g", "0" * 64, "0" * 64).load()


def test_a_store_of_one_process_is_refused() -> None:
    from stargraph.dask import Fleet

    class Connected:
        asynchronous = False

    with pytest.raises(CheckpointError, match="belongs to one process") as caught:
        Fleet(Connected(), "memory://")  # type: ignore[arg-type]
    assert caught.value.reason == "invalid-url"
