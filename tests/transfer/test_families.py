"""A run and its child runs are one unit: in copies, exports, moves, deletions and audits, on every driver."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.memory import MemoryCheckpointer
from support.places import Place, SQLitePlace
from support.records import chain, executor_id, first, following

from stargraph.audit import verify
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunDeletion
from stargraph.errors import CheckpointConflictError, CheckpointError, NodeError
from stargraph.graph import Graph, cancel
from stargraph.transfer import copy_runs, delete_runs, export_runs, import_runs, move_runs

FAMILY = ["root", "root:a", "root:a:x", "root:b"]
TAGS = {"user": "alice"}


def family(end: str | None = None) -> list[list[Checkpoint]]:
    """A run with two child runs, one of which has a child run too, and a fork of it, which is a family of its own."""
    parents = {"root:a": "root", "root:b": "root", "root:a:x": "root:a"}
    return [
        *(
            chain(
                run_id,
                3,
                metadata=TAGS,
                **({"parent_run_id": parents[run_id], "origin": "subgraph"} if run_id in parents else {}),  # type: ignore[arg-type]
                **({"end": end} if end else {}),  # type: ignore[arg-type]
            )
            for run_id in FAMILY
        ),
        chain("fork", 2, parent_run_id="root", origin="fork"),
        chain("other", 2),
    ]


async def listed(store: Checkpointer) -> list[str]:
    return sorted(summary.run_id for summary in await store.list_runs())


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Checkpointer]:
    await place.write(*(checkpoint for run in family() for checkpoint in run))
    async with place.open() as store:
        yield store


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Checkpointer]:
    async with SQLitePlace(tmp_path / "elsewhere.sqlite").open() as store:
        yield store


async def test_a_copy_takes_the_child_runs_along(store: Checkpointer, elsewhere: Checkpointer) -> None:
    report = await copy_runs(store, elsewhere, ["root"])
    assert (report.runs, report.steps, report.refused) == (4, 12, ())
    assert await listed(elsewhere) == FAMILY


async def test_a_copy_of_the_run_alone(store: Checkpointer, elsewhere: Checkpointer) -> None:
    assert (await copy_runs(store, elsewhere, ["root"], children=False)).runs == 1
    assert await listed(elsewhere) == ["root"]


async def test_a_run_that_is_named_twice_is_copied_once(store: Checkpointer, elsewhere: Checkpointer) -> None:
    assert (await copy_runs(store, elsewhere, ["root:a", "root", "root:b"])).runs == 4


async def test_a_parent_does_not_arrive_without_its_child(store: Checkpointer, elsewhere: Checkpointer) -> None:
    await elsewhere.write(first("root:a:x", state={"count": -1}))  # another run of that id
    report = await copy_runs(store, elsewhere, ["root"])
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [
        ("root:a:x", "diverged"),
        ("root", "child-refused"),
    ]
    assert "root" not in await listed(elsewhere)


async def test_an_export_takes_the_child_runs_along(store: Checkpointer, elsewhere: Checkpointer) -> None:
    file = io.BytesIO()
    assert (await export_runs(store, file, ["root"])).runs == 4
    file.seek(0)
    assert (await import_runs(elsewhere, file)).runs == 4
    assert await listed(elsewhere) == FAMILY
    assert (await export_runs(store, io.BytesIO(), ["root"], children=False)).runs == 1


async def test_a_deletion_takes_the_child_runs_along(store: Checkpointer) -> None:
    assert sorted(await delete_runs(store, ["root"])) == FAMILY
    assert await listed(store) == ["fork", "other"]
    assert await delete_runs(store, ["root"]) == []


async def test_a_deletion_of_the_run_alone(store: Checkpointer) -> None:
    assert await delete_runs(store, ["root"], children=False) == ["root"]
    assert await listed(store) == ["fork", "other", *FAMILY[1:]]


async def test_a_deletion_that_was_interrupted_is_finished_by_repeating_it(store: Checkpointer) -> None:
    assert await delete_runs(store, ["root"], children=False) == ["root"]  # the process was lost after the parent
    assert sorted(await delete_runs(store, ["root"])) == ["root:a", "root:a:x", "root:b"]


async def test_a_deletion_by_tag(store: Checkpointer) -> None:
    assert await delete_runs(store, metadata={"user": "bob"}) == []
    assert sorted(await delete_runs(store, metadata=TAGS)) == FAMILY


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_prune_keeps_the_child_runs_that_a_parent_may_still_read(place: Place, dry_run: bool) -> None:
    runs = {run[0].run_id: run for run in family(end="done")}
    runs["root"] = chain("root", 3)  # it has not recorded yet how its child runs ended
    await place.write(*(checkpoint for run in runs.values() for checkpoint in run))
    async with place.open() as store:
        assert isinstance(store, RunDeletion)
        report = await store.prune(older_than=datetime(2100, 1, 1, tzinfo=UTC), keep_last=0, dry_run=dry_run)
        # The parent of this one has ended, and no fork or other run here has.
        assert (report.runs, report.checkpoints) == (1, 3)
        gone = [] if dry_run else ["root:a:x"]
        assert await listed(store) == sorted({"fork", "other", *FAMILY} - set(gone))
        if not dry_run:
            await store.write(following(runs["root"][-1], status="done"))
            await store.prune(older_than=datetime(2100, 1, 1, tzinfo=UTC), keep_last=0)
            assert await listed(store) == ["fork", "other"]


async def test_an_orphaned_child_run_is_pruned(store: Checkpointer) -> None:
    assert isinstance(store, RunDeletion)
    await delete_runs(store, ["root"], children=False)
    await store.prune(older_than=datetime(2100, 1, 1, tzinfo=UTC), keep_last=0, statuses=("running",))
    assert {"root:a", "root:b"}.isdisjoint(await listed(store))


async def test_an_audit_reads_the_child_runs_too(store: Checkpointer) -> None:
    assert (await verify(store, ["root"])).runs == 4
    assert (await verify(store, ["root"], children=False)).runs == 1


async def test_a_moved_run_goes_on_in_one_store_only(store: Checkpointer, elsewhere: Checkpointer) -> None:
    tail = await store.read_latest("root")
    assert tail is not None
    report = await move_runs(store, elsewhere, ["root"])
    assert (report.runs, report.refused) == (4, ())
    for run_id in FAMILY:
        here, there = await store.read_latest(run_id), await elsewhere.read_latest(run_id)
        assert here is not None
        assert there is not None
        assert (here.status, here.step) == ("moved", there.step + 1)
        assert here.previous_digest == there.digest
    with pytest.raises(CheckpointConflictError):  # an executor that was at work
        await store.write(following(tail))
    moved = await store.read_latest("root")
    assert moved is not None
    with pytest.raises(CheckpointError) as raised:
        await store.write(following(moved, executor_id=executor_id()))
    assert raised.value.reason == "run-ended"
    await elsewhere.write(following(tail, executor_id=executor_id()))


async def test_a_move_is_finished_by_repeating_it(store: Checkpointer, elsewhere: Checkpointer) -> None:
    await move_runs(store, elsewhere, ["root"])
    report = await move_runs(store, elsewhere, ["root"])
    assert (report.runs, report.steps, report.present, report.refused) == (4, 0, 12, ())


async def test_a_move_that_was_interrupted_after_the_fence_is_finished(
    store: Checkpointer, elsewhere: Checkpointer, tmp_path: Path
) -> None:
    async with SQLitePlace(tmp_path / "lost.sqlite").open() as lost:
        await move_runs(store, lost, ["root"])  # as far as the source can tell, nothing of it arrived
    assert await listed(elsewhere) == []
    assert (await move_runs(store, elsewhere, ["root"])).steps == 12


async def test_what_cannot_be_copied_is_not_fenced(store: Checkpointer, elsewhere: Checkpointer) -> None:
    await elsewhere.write(first("root:b", state={"count": -1}))
    report = await move_runs(store, elsewhere, ["root"])
    assert [refusal.reason for refusal in report.refused] == ["diverged"]
    for run_id in FAMILY:
        tail = await store.read_latest(run_id)
        assert tail is not None
        assert tail.status == "running"


async def test_a_moved_run_is_neither_copied_nor_exported(
    store: Checkpointer, elsewhere: Checkpointer, tmp_path: Path
) -> None:
    await move_runs(store, elsewhere, ["root"])
    async with SQLitePlace(tmp_path / "third.sqlite").open() as third:
        report = await copy_runs(store, third, ["root"], children=False)
        assert [refusal.reason for refusal in report.refused] == ["run-moved"]
        exported = await export_runs(store, io.BytesIO(), ["root"], children=False)
        assert [refusal.reason for refusal in exported.refused] == ["run-moved"]


async def test_a_run_that_ended_is_moved_as_it_is(place: Place, elsewhere: Checkpointer) -> None:
    await place.write(*(checkpoint for run in family(end="done") for checkpoint in run))
    async with place.open() as store:
        assert (await move_runs(store, elsewhere, ["root"])).refused == ()
        here, there = await store.read_latest("root"), await elsewhere.read_latest("root")
        assert here is not None
        assert here == there


async def test_the_list_of_a_store_without_capabilities_is_read(elsewhere: Checkpointer) -> None:
    plain = MemoryCheckpointer()
    await plain.bootstrap()
    for run in family():
        for checkpoint in run:
            await plain.write(checkpoint)
    assert (await copy_runs(plain, elsewhere, ["root"])).runs == 4
    with pytest.raises(CheckpointError) as raised:
        await delete_runs(plain, ["root"])
    assert raised.value.reason == "no-deletion"


PARENT = """
id: parent
state_schema: {path: {type: "list[str]", reduce: append, default: []}}
nodes:
  - {id: sub, kind: subgraph, graph: child.yaml, outputs: {path: "state.path"}}
  - {id: after, kind: "support.nodes:step"}
"""
CHILD = """
id: child
state_schema: {path: {type: "list[str]", reduce: append, default: []}, ok: {type: "bool | None", default: null}}
nodes:
  - {id: work, kind: "support.nodes:step"}
  - {id: ask, kind: interrupt, prompt: "ok?", into: ok}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    (tmp_path / "child.yaml").write_text(f'ir_version: "1.0.0"{CHILD}')
    (tmp_path / "parent.yaml").write_text(f'ir_version: "1.0.0"{PARENT}')
    return Graph.from_file(tmp_path / "parent.yaml")


@pytest.fixture
async def asking(graph: Graph, tmp_path: Path) -> AsyncIterator[Checkpointer]:
    async with SQLitePlace(tmp_path / "asking.sqlite").open() as store:
        summary = await (await graph.start(checkpointer=store, run_id="r")).start()
        assert summary.status == "awaiting_input"
        yield store


async def events(store: Checkpointer, run_ids: Sequence[str]) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for run_id in run_ids:
        latest = await store.read_latest(run_id)
        for step in range(0 if latest is None else latest.step + 1):
            record = await store.read_at_step(run_id, step)
            assert record is not None
            found.append((record.event, record.last_node))
    return found


async def test_a_moved_run_is_resumed_elsewhere_without_the_work_of_its_child(
    graph: Graph, asking: Checkpointer, elsewhere: Checkpointer
) -> None:
    await move_runs(asking, elsewhere, ["r"])
    run = await graph.start(checkpointer=asking)
    with pytest.raises(CheckpointError, match="moved to another store") as raised:
        await run.resume(run_id="r")
    assert raised.value.reason == "run-ended"
    run = await graph.start(checkpointer=elsewhere)
    summary = await run.resume(run_id="r")
    assert summary.status == "awaiting_input"
    question = (await elsewhere.read_latest("r")).interrupts[0]  # type: ignore[union-attr]
    await run.answer(question.id, True)
    assert (await run.resume(run_id="r")).status == "done"
    child = [run_id for run_id in await listed(elsewhere) if run_id != "r"]
    assert (await events(elsewhere, child)).count(("completed", "work")) == 1


async def test_a_moved_summary_is_not_a_success(asking: Checkpointer, elsewhere: Checkpointer) -> None:
    await move_runs(asking, elsewhere, ["r"])
    summary = next(summary for summary in await asking.list_runs() if summary.run_id == "r")
    with pytest.raises(NodeError) as raised:
        summary.raise_for_status()
    assert raised.value.reason == "run-moved"


async def test_a_cancel_ends_a_waiting_run_with_the_runs_below_it(place: Place, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text('id: inner\nnodes: [{id: ask, kind: interrupt, prompt: "?", into: x}]\n')
    (tmp_path / "middle.yaml").write_text("id: middle\nnodes: [{id: deeper, kind: subgraph, graph: inner.yaml}]\n")
    (tmp_path / "outer.yaml").write_text("id: outer\nnodes: [{id: down, kind: subgraph, graph: middle.yaml}]\n")
    async with place.open() as store:
        run = await Graph.from_file(tmp_path / "outer.yaml").start(checkpointer=store, run_id="r")
        assert (await run.start()).status == "awaiting_input"
        # Who has died in the middle of it has cancelled some of them: the next one finishes.
        (child,) = await store.children("r")  # type: ignore[attr-defined]
        await cancel(store, child.run_id)
        await cancel(store, "r")
        runs = await store.list_runs()
        assert (len(runs), {each.status for each in runs}) == (3, {"cancelled"})
