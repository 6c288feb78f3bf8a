"""The real engine on the driver: run, resume, take over, and refuse what does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, TypeVar

from stargraph.checkpoint.conformance import _graphs
from stargraph.checkpoint.conformance._compare import absent, same_runs, same_summary, show
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON, begin, executor_id
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointNotFoundError, HashMismatchError

if TYPE_CHECKING:
    from stargraph.graph import Graph

group: Final = Group("engine", needs=("bootstrap.creates",))

T = TypeVar("T")


async def _done(call: Awaitable[T], what: str) -> T:
    """Run a call of the engine, which must succeed."""
    try:
        return await call
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}") from error


async def _events(handle: Handle, run_id: str) -> list[str]:
    """Return the events of a run's log, which must have no gap."""
    latest = await handle.read_latest(run_id)
    if latest is None:
        raise Violation(f"read_latest({run_id!r}) gave None after the engine ran it")
    events: list[str] = []
    for step in range(latest.step + 1):
        found = await handle.read_at_step(run_id, step)
        if found is None:
            raise Violation(f"read_at_step({run_id!r}, {step}) gave None; the engine wrote it")
        events.append(found.event)
    return events


def _same_events(wanted: list[str], got: list[str], what: str) -> None:
    expect(got == wanted, f"{what}: the log holds {show(got)}; the engine wrote {show(wanted)}")


@group.check(
    "runs_to_the_end",
    "The engine runs a graph of three nodes: four checkpoints, the last of them done.",
    contract="log.2, write.1",
    usual_cause="A method does what the kit's own records need, and not what the engine's need.",
)
async def runs_to_the_end(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    run = await _graphs.sequence().start(checkpointer=handle.driver, run_id="run", metadata={"team": "blue"})
    summary = await _done(run.start(), "run.start()")
    expect(summary.status == "done", f"run.start() gave the status {summary.status!r}")
    _same_events(["started", "completed", "completed", "completed"], await _events(other, "run"), "run.start()")
    latest = await other.read_latest("run")
    assert latest is not None
    expect(latest.state == {"path": ["a", "b", "c"]}, f"the last state is {latest.state}")
    listed = await other.list_runs()
    same_runs(["run"], listed, "list_runs() after run.start()")
    same_summary(latest, listed[0], "list_runs() after run.start()")


@group.check(
    "resumes_elsewhere",
    "A run that waits for an answer is answered and resumed through another handle, by another load of the graph.",
    contract="log.16, read.5",
    usual_cause="Open questions or the frontier do not come back as they were written.",
)
async def resumes_elsewhere(kit: Kit) -> None:
    first = await kit.open()
    run = await _graphs.question().start(checkpointer=first.driver, run_id="run")
    summary = await _done(run.start(), "run.start()")
    expect(summary.status == "awaiting_input", f"a run with a question has the status {summary.status!r}")
    await first.release()
    second = await kit.open()
    latest = await second.read_latest("run")
    expect(latest is not None and len(latest.interrupts) == 1, "the open question did not come back")
    assert latest is not None
    again = await _graphs.question().start(checkpointer=second.driver, run_id="run")
    await _done(again.answer(latest.interrupts[0].id, "yes"), "run.answer()")
    summary = await _done(again.resume(), "run.resume()")
    expect(summary.status == "done", f"run.resume() gave the status {summary.status!r}")
    last = await second.read_latest("run")
    state = last.state if last is not None else None
    expect(state == {"path": ["a", "c"], "answer": "yes"}, f"the state after the answer is {state}")
    again = await _graphs.question().start(checkpointer=second.driver, run_id="run")
    repeated = await _done(again.resume(), "run.resume() of a run that is done")
    expect(repeated.last_step == summary.last_step, "run.resume() of a run that is done wrote a step")


@group.check(
    "missing_run",
    "Resuming a run that is not there raises CheckpointNotFoundError and makes none.",
    contract="read.1",
    usual_cause="read_latest raises something of its own for an unknown run, or gives the next one in key order.",
)
async def missing_run(kit: Kit) -> None:
    handle = await kit.open()
    await handle.write(begin("other"))
    await handle.write(begin("a"))
    run = await _graphs.sequence().start(checkpointer=handle.driver)
    try:
        await run.resume(run_id="nobody")
    except CheckpointNotFoundError:
        absent(await handle.read_latest("nobody"), "read_latest('nobody') after a refused resume")
        return
    except Exception as error:
        raise Violation(
            f"resuming an unknown run raised {error_line(error)}; wanted is CheckpointNotFoundError"
        ) from error
    raise Violation("resuming an unknown run succeeded")


@group.check(
    "graph_hash_mismatch",
    "Resuming with another graph raises HashMismatchError with both hashes, and writes nothing.",
    contract="log.16",
    usual_cause="graph_hash or definition is not stored with every checkpoint.",
)
async def graph_hash_mismatch(kit: Kit) -> None:
    handle = await kit.open()
    graph, changed = _graphs.sequence(), _graphs.longer_sequence()
    await _stopped_run(handle, graph.graph_hash, graph.runtime_hash)
    await _mismatch(handle, changed, "graph-hash", graph.graph_hash, changed.graph_hash)


@group.check(
    "runtime_hash_mismatch",
    "Resuming with other code of the nodes raises HashMismatchError with both hashes, and writes nothing.",
    contract="log.16",
    usual_cause="runtime_hash or definition is not stored with every checkpoint.",
)
async def runtime_hash_mismatch(kit: Kit) -> None:
    handle = await kit.open()
    graph = _graphs.sequence()
    await _stopped_run(handle, graph.graph_hash, "0d" * 32)
    await _mismatch(handle, graph, "runtime-hash", "0d" * 32, graph.runtime_hash)


async def _stopped_run(handle: Handle, graph_hash: str, runtime_hash: str) -> None:
    """Write a run that was made by the given graph and stands before its first node."""
    await handle.write(
        Checkpoint.genesis(
            run_id="run",
            graph_id="conformance",
            graph_hash=graph_hash,
            runtime_hash=runtime_hash,
            state={"path": []},
            executor_id=executor_id(1),
            timestamp=NOON,
        )
    )


async def _mismatch(handle: Handle, graph: Graph, reason: str, stored: str, loaded: str) -> None:
    run = await graph.start(checkpointer=handle.driver)
    try:
        await run.resume(run_id="run")
    except HashMismatchError as error:
        expect(error.reason == reason, f"the mismatch has the reason {error.reason!r}; wanted is {reason!r}")
        hashes = (error.stored, error.loaded)
        expect(hashes == (stored, loaded), f"the mismatch names the hashes {hashes}; wanted are {(stored, loaded)}")
        latest = await handle.read_latest("run")
        expect(latest is not None and latest.step == 0, "the refused resume wrote a step")
        return
    except Exception as error:
        raise Violation(
            f"a resume with another {reason} raised {error_line(error)}; wanted is HashMismatchError"
        ) from error
    raise Violation(f"a resume with another {reason} succeeded")


@group.check(
    "takeover",
    "A resume takes a run over from an executor that is alive; that one is fenced at its next write.",
    contract="log.6, rule.4",
    usual_cause="The handle of the first executor remembers the tail and does not look at the store again.",
    deadline=15,
)
async def takeover(kit: Kit) -> None:
    first, second = await kit.open(), await kit.open()
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold(node: str) -> None:
        if node == "b" and not reached.is_set():
            reached.set()
            await go_on.wait()

    run_id = f"takeover-{id(reached)}"
    _graphs.BEFORE[run_id] = hold
    try:
        run = await _graphs.sequence().start(checkpointer=first.driver, run_id=run_id)
        slow = asyncio.ensure_future(run.start())
        arrived = asyncio.ensure_future(reached.wait())
        await asyncio.wait([slow, arrived], return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
        if not reached.is_set():
            await _done(slow, "run.start()")
        try:
            other = await _graphs.sequence().start(checkpointer=second.driver)
            summary = await _done(other.resume(run_id=run_id), "run.resume() beside a living executor")
        finally:
            go_on.set()
            outcome = (await asyncio.gather(slow, return_exceptions=True))[0]
    finally:
        del _graphs.BEFORE[run_id]
    expect(summary.status == "done", f"the executor that took over ended with the status {summary.status!r}")
    expect(
        isinstance(outcome, CheckpointConflictError),
        f"the executor that was overtaken ended with {outcome!r}; wanted is CheckpointConflictError",
    )
    events = ["started", "completed", "resumed", "completed", "completed"]
    _same_events(events, await _events(first, run_id), "after a takeover")


@group.check(
    "killed_and_resumed",
    "A process that is killed inside a node loses that node's work alone: another process resumes the run.",
    contract="log.3, write.2",
    usual_cause="The checkpoint of a completed node was not durable when the next node began.",
    needs=("durability.other_process",),
    processes=True,
    deadline=60,
)
async def killed_and_resumed(kit: Kit) -> None:
    child = await kit.child("engine", run_id="run", hold="c")
    await child.expect("held")
    child.kill()
    await child.ended()
    handle = await kit.open()
    _same_events(["started", "completed", "completed"], await _events(handle, "run"), "after a kill inside node c")
    run = await _graphs.sequence().start(checkpointer=handle.driver)
    summary = await _done(run.resume(run_id="run"), "run.resume() after a kill")
    expect(summary.status == "done", f"run.resume() after a kill gave the status {summary.status!r}")
    events = ["started", "completed", "completed", "resumed", "completed"]
    _same_events(events, await _events(handle, "run"), "after a kill and a resume")
