"""Long runs, many runs, large records: what works for three steps works for a thousand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final

from stargraph.checkpoint.conformance._calls import write_spread
from stargraph.checkpoint.conformance._checks.deletion import RUNNING
from stargraph.checkpoint.conformance._compare import absent, same, same_runs, same_steps
from stargraph.checkpoint.conformance._expect import Violation, attempt, error_line, expect, refused, together
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import (
    GRAPH_HASH,
    NOON,
    RUNTIME_HASH,
    begin,
    chain,
    executor_id,
    follow,
    noise,
    rival,
    rivals,
)
from stargraph.checkpoint.conformance._views import Book, agree, each_page, in_order, matches, pages
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Interrupt, RecordedCall, RunSummary, Task
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group(
    "sizes", needs=("steps.conflict_keeps_stored", "steps.latest_is_numeric", "list_runs.limit", "values.every_field")
)

_STEPS: Final = 1100
_RUNS: Final = 1100
_DEEP: Final = (0, 99, 255, 256, 499, 511, 512, 513, 999, 1000, 1023, 1024, 1025, 1098)
"""Steps at the edges of what stores cut pages, caches and chunks at."""

_LARGE: Final = 70_000
"""Characters: more than 64 KiB, where a length of 16 bits ends."""


@group.check(
    "long_run",
    "A run of 1,100 steps reads back whole; a retry, a conflict and a gap deep in it are judged as in a short one.",
    contract="rule.3, rule.4, rule.7, read.1, read_at_key.1, delete_run.1",
    usual_cause="A page or a cache of the latest steps stands for the whole run: what is older reads as absent, is "
    "taken for new, or cannot be written again; or a statement removes a thousand steps, and the others stay.",
    version=2,
    quick=False,
    deadline=120,
)
async def long_run(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=40)
    steps.append(follow(steps[-1], key="early"))
    while len(steps) < _STEPS:
        steps.append(follow(steps[-1]))
    for checkpoint in steps:
        await handle.write(checkpoint)
    for reader in (handle, other):
        same(steps[-1], await reader.read_latest("run"), f"read_latest('run') of {_STEPS} steps")
        for step in _DEEP:
            same(steps[step], await reader.read_at_step("run", step), f"read_at_step('run', {step}) of {_STEPS} steps")
    absent(await other.read_at_step("run", _STEPS), f"read_at_step('run', {_STEPS}), one beyond the latest")
    if "history" in kit.declared:
        await _long_history(other, steps)
    if "keys" in kit.declared:
        same(steps[40], await other.read_at_key("run", "early"), f"read_at_key('run', 'early') of {_STEPS} steps")
    for writer in (handle, other):
        for step in _DEEP:
            refusal = await attempt(writer.write(steps[step]))
            if refusal is not None:
                raise Violation(
                    f"{naming(steps[step])} again, of {_STEPS} steps, raised {error_line(refusal)}"
                ) from refusal
            other_one = rival(steps[step], steps[step - 1] if step else None)
            what = f"{naming(other_one)} by another executor, of {_STEPS} steps"
            await refused(writer.write(other_one), what, CheckpointConflictError, "step-taken", other_one)
        gap = follow(follow(steps[-1]))
        await refused(writer.write(gap), f"{naming(gap)} of {_STEPS} steps", CheckpointError, "step-gap", gap)
    for step in _DEEP:
        what = f"read_at_step('run', {step}) after conflicts"
        same(steps[step], await other.read_at_step("run", step), what)
    steps.append(follow(steps[-1]))
    await other.write(steps[-1])
    same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after step {_STEPS}")
    if "deletion" in kit.declared:
        await handle.delete_run("run")
        for reader in (handle, other):
            for step in (*_DEEP, _STEPS):
                found = await reader.read_at_step("run", step)
                absent(found, f"read_at_step('run', {step}) after delete_run('run') of {_STEPS + 1} steps")
            await _nothing_left(reader, kit, f"after delete_run('run') of {_STEPS + 1} steps")


async def _nothing_left(handle: Handle, kit: Kit, when: str) -> None:
    """Expect that nothing is left of the run."""
    absent(await handle.read_latest("run"), f"read_latest('run') {when}")
    if "history" in kit.declared:
        same_steps([], [found async for found in handle.history("run")], f"history('run') {when}")
    if "keys" in kit.declared:
        absent(await handle.read_at_key("run", "early"), f"read_at_key('run', 'early') {when}")


async def _long_history(handle: Handle, steps: Sequence[Checkpoint]) -> None:
    bounds = ((None, None), (None, 1023), (500, None), (255, 1025), (1024, 1024))
    for first, last in bounds:
        wanted = steps[first or 0 : len(steps) if last is None else last + 1]
        for newest_first in (False, True):
            found = [
                found async for found in handle.history("run", from_step=first, to_step=last, newest_first=newest_first)
            ]
            what = (
                f"history('run', from_step={first}, to_step={last}, newest_first={newest_first}) of {len(steps)} steps"
            )
            same_steps(wanted[::-1] if newest_first else wanted, found, what)


@group.check(
    "long_batches",
    "Batches of 300 steps are stored whole, can be written again, and are refused at the very step that conflicts.",
    contract="write_many.2",
    usual_cause="A batch is cut into chunks that are judged, or acknowledged, one by one; or only its first and last "
    "steps are compared.",
    needs=("batch.appends_all", "batch.conflict_in_the_middle"),
    capability="batch",
    deadline=60,
    quick=False,
)
async def long_batches(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=602, last_status="done")
    for start in (0, 300, 600):
        await handle.write_many(steps[start : start + 300])
    await _all_there(other, steps, "batches of 300")
    for start in (0, 150, 302):
        await other.write_many(steps[start : start + 300])
    await _all_there(handle, steps, "the same batches again")
    for place in (1, 60, 128, 257, 299):
        run_id = f"run-{place}"
        mine = chain(run_id, 300)
        await handle.write_many(mine[:place])
        taken = rival(mine[place], mine[place - 1])
        await other.write(taken)
        what = f"write_many of 300 steps, of which step {place} is another executor's"
        await refused(handle.write_many(mine), what, CheckpointConflictError, "step-taken")
        same(taken, await other.read_latest(run_id), f"read_latest({run_id!r}) after {what}")
        same(taken, await other.read_at_step(run_id, place), f"read_at_step({run_id!r}, {place}) after {what}")
        absent(await handle.read_at_step(run_id, place + 1), f"read_at_step({run_id!r}, {place + 1}) after {what}")


async def _all_there(handle: Handle, steps: Sequence[Checkpoint], after: str) -> None:
    run_id = steps[0].run_id
    same(steps[-1], await handle.read_latest(run_id), f"read_latest({run_id!r}) after {after}")
    for checkpoint in steps:
        what = f"read_at_step({run_id!r}, {checkpoint.step}) after {after}"
        same(checkpoint, await handle.read_at_step(run_id, checkpoint.step), what)


@group.check(
    "many_runs",
    "With 1,100 runs in the store every list and every page holds what it should, whatever its size, its filter and "
    "its order, and however late the filter matches; a handle that wrote them all judges each of them rightly.",
    contract="list.1, search.1, search.2, count_runs.1, children.1",
    usual_cause="A filter is applied to one page of runs instead of to all, a page ends at the limit of the store "
    "below, or a cache of tails forgets, or mixes up, the runs that it drops.",
    needs=("list_runs.newest_first", "steps.wrong_predecessor", "fencing.stale_handle"),
    version=5,
    quick=False,
    deadline=180,
)
async def many_runs(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = {f"run-{number:04d}": _numbered(number) for number in kit.random.sample(range(_RUNS), _RUNS)}
    await write_spread(handle, [steps[0] for steps in runs.values()])
    await write_spread(handle, [steps[1] for steps in runs.values()])
    summaries = in_order(RunSummary.from_checkpoint(steps[-1]) for steps in runs.values())
    wanted = [item.run_id for item in summaries]
    for limit in (50, 500, 1000, 1024, _RUNS, _RUNS + 1):
        same_runs(wanted[:limit], await other.list_runs(limit=limit), f"list_runs(limit={limit}) of {_RUNS} runs")
    if "search" in kit.declared:
        await _late_filters(other, summaries)
    if "trees" in kit.declared:
        for parent in ("many", "few", "nobody"):
            children = [item.run_id for item in summaries if item.parent_run_id == parent and item.origin == "subgraph"]
            same_runs(children, await other.children(parent), f"children({parent!r}) of {_RUNS} runs")
    # The handle wrote all of them last; another one takes some of them over, the first written and the last.
    order = list(runs)
    for run_id in [*order[:20], *order[500:520], *order[-20:]]:
        before = runs[run_id][-1]
        taken = follow(before, event="resumed", executor_id=executor_id(2))
        await other.write(taken)
        mine = follow(before, executor_id=executor_id(1))
        what = f"{naming(mine)} of one of {_RUNS} runs, after another handle wrote that step"
        await refused(handle.write(mine), what, CheckpointConflictError, "step-taken", mine)
        astray = follow(mine)
        what = f"{naming(astray)} of one of {_RUNS} runs, whose predecessor was never stored"
        await refused(handle.write(astray), what, CheckpointConflictError, "wrong-predecessor", astray)
        following = follow(taken)
        await handle.write(following)
        same(following, await other.read_latest(run_id), f"read_latest({run_id!r}) of one of {_RUNS} runs")


@group.check(
    "many_deleted",
    "Of 1,100 runs that delete_run and prune removed, none reads as stored and none takes a checkpoint again.",
    contract="rule.2, delete_run.1, prune.2",
    usual_cause="What remembers the deleted runs has a largest size, or forgets them after a while.",
    needs=("deletion.stays_deleted", "deletion.keep_last_zero_removes"),
    capability="deletion",
    quick=False,
    deadline=180,
)
async def many_deleted(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    first, last = NOON, NOON + timedelta(days=1)
    runs = [begin(f"run-{number:04d}", timestamp=last if number >= _RUNS - 40 else first) for number in range(_RUNS)]
    await write_spread(handle, runs)
    # Some go one by one, before and after all the others: neither the first nor the last deletion may be forgotten.
    await _delete(handle, runs[:40])
    await other.prune(older_than=last, statuses=RUNNING, keep_last=0)
    await _delete(other, runs[-40:])
    newcomer = await kit.open()
    same_runs([], await newcomer.list_runs(), f"list_runs() after {_RUNS} runs were deleted")
    await together(*(_stay_deleted(newcomer, runs[start::24]) for start in range(24)))


async def _delete(handle: Handle, runs: Sequence[Checkpoint]) -> None:
    for checkpoint in runs:
        run_id = checkpoint.run_id
        expect(await handle.delete_run(run_id) is True, f"delete_run({run_id!r}) of one of {_RUNS} runs gave False")


async def _stay_deleted(handle: Handle, runs: Sequence[Checkpoint]) -> None:
    for checkpoint in runs:
        what = f"{naming(checkpoint)} of one of {_RUNS} deleted runs"
        await refused(handle.write(checkpoint), what, CheckpointError, "run-deleted", checkpoint)


def _numbered(number: int) -> list[Checkpoint]:
    """Two steps of a run; the oldest runs, which come last in each list, have what nobody else has.

    More than a thousand are children of one run.
    """
    rare = number in (0, 1, 5)
    origin = "fork" if number % 29 == 0 else "subgraph"
    parents: dict[str, Any] = {"parent_run_id": "few" if rare else "many", "parent_step": 0, "origin": origin}
    first = begin(
        f"run-{number:04d}",
        graph_id="rare" if rare else "common",
        graph_hash="c3" * 32 if rare else GRAPH_HASH,
        runtime_hash="d4" * 32 if rare else RUNTIME_HASH,
        metadata={"kind": "rare" if rare else "common", "number": str(number)},
        timestamp=NOON + timedelta(milliseconds=number // 3),
        **(parents if number % 25 else {}),
    )
    ending: dict[str, Any] = {"status": "paused"} if number % 2 else {}
    if rare:
        ending = {"status": "failed", "error": ErrorInfo(type="ValueError", message="rare", reason="rare", node="work")}
    elif number == 2:
        wait = Interrupt(id="w", task_id="t", node="n", prompt="wait", asked_at=NOON, due_at=NOON)
        ending = {"status": "awaiting_input", "interrupts": (wait,)}
    return [first, follow(first, **ending)]


async def _late_filters(handle: Handle, summaries: Sequence[RunSummary]) -> None:
    oldest = summaries[-1].started_at
    filters: tuple[tuple[dict[str, Any], tuple[int, ...]], ...] = (
        ({}, (50, 100, 500, 1000)),
        ({"status": "failed"}, (1, 50, 100)),
        ({"graph_id": "rare"}, (2, 100)),
        ({"metadata": {"kind": "rare"}}, (1, 2, 100)),
        ({"metadata": {"number": "0"}}, (50,)),
        ({"metadata": {"number": "777", "kind": "common"}}, (500,)),
        ({"status": "paused", "metadata": {"kind": "common"}}, (50, 500)),
        ({"since": oldest + timedelta(milliseconds=300)}, (100,)),
        ({"since": oldest, "status": "failed", "graph_id": "rare"}, (100,)),
        ({"graph_hash": "c3" * 32}, (100,)),
        ({"runtime_hash": "d4" * 32}, (100,)),
        ({"parent_run_id": "few"}, (100,)),
        ({"error_reason": "rare"}, (100,)),
        ({"due_before": NOON + timedelta(days=1)}, (100,)),
        ({"run_id_prefix": "run-000"}, (100,)),
        ({"roots_only": True}, (500,)),
        ({"updated_since": oldest, "status": "failed"}, (100,)),
        ({"updated_before": oldest + timedelta(seconds=1, milliseconds=3)}, (100,)),
    )
    for given, limits in filters:
        matching = [item for item in summaries if matches(item, given)]
        chosen = [item.run_id for item in matching]
        counts = dict(Counter(item.status for item in matching))
        found_counts = await handle.count_runs(**given)
        expect(found_counts == counts, f"count_runs({given}) of {_RUNS} runs gave {found_counts}; there are {counts}")
        for limit in limits:
            what = f"search({', '.join(f'{name}={value!r}' for name, value in given.items())}, limit={limit})"
            found = await each_page(handle, limit=limit, **given)
            first = found[0]
            same_runs(chosen, [item for page in found for item in page.items], f"the pages of {what} of {_RUNS} runs")
            expect(
                len(first.items) == min(limit, len(chosen)) or first.next_cursor is not None,
                f"{what} of {_RUNS} runs gave {len(first.items)} runs and no next_cursor; {len(chosen)} match",
            )
    updated = sorted(summaries, key=lambda item: item.updated_at, reverse=True)
    in_updated_order = await pages(handle, limit=1000, order="updated")
    same_runs(
        [item.run_id for item in updated], in_updated_order, f"search(order='updated', limit=1000) of {_RUNS} runs"
    )


@group.check(
    "wide_summaries",
    "A list of more than 1 MiB comes whole, and tags of 300 characters that differ in the last one are distinct.",
    contract="list.1, search.3",
    usual_cause="A limit on the size of an answer cuts the list off, or a column or an index keeps the first 255 "
    "characters.",
    deadline=60,
)
async def wide_summaries(kit: Kit) -> None:
    handle, other, book = await kit.open(), await kit.open(), Book()
    chance = Random(kit.seed)  # noqa: S311  # no secret
    for number in range(36):
        tags = {
            "long" * 75: "v" * 299 + str(number % 3),
            "k" * 299 + str(number % 2): "x",
            "note": noise(chance, 34_000),
        }
        first = begin(f"run-{number:02d}", metadata=tags, timestamp=NOON + timedelta(seconds=number))
        await handle.write(first)
        book.wrote(first)
    summaries = book.summaries()
    for reader in (handle, other):
        what = "list_runs() of summaries of more than 1 MiB"
        found = await reader.list_runs()
        same_runs([item.run_id for item in summaries], found, what)
        for before, after in zip(summaries, found, strict=True):
            expect(before == after, f"{what}: the summary of {before.run_id!r} is not that of its latest checkpoint")
        if "search" not in kit.declared:
            continue
        same_runs([item.run_id for item in summaries], await pages(reader, limit=100), "search() of more than 1 MiB")
        for given in ({"long" * 75: "v" * 299 + "1"}, {"k" * 299 + "0": "x"}):
            wanted = [item.run_id for item in summaries if given.items() <= item.metadata.items()]
            same_runs(wanted, await pages(reader, limit=5, metadata=given), "search by a tag of 300 characters")


@group.check(
    "large_fields",
    "Every field, and not the state alone, may be larger than 64 KiB.",
    contract="value.1, value.8",
    usual_cause="A column, a length of 16 bits, or a line of a protocol is as long as somebody expected.",
    deadline=60,
    quick=False,
)
async def large_fields(kit: Kit) -> None:
    chance = Random(kit.seed)  # noqa: S311  # no secret
    text = noise(chance, _LARGE)
    moment = NOON + timedelta(seconds=1)
    failure = ErrorInfo(type=text, message=text, reason=text, node=text, traceback=text)
    call = RecordedCall(kind="call", task_id="t", name=text, occurrence=0, result={"k": text}, started_at=moment)
    failed = RecordedCall(kind="call", task_id="t", name="n", occurrence=1, error=failure, started_at=moment)
    question = Interrupt(id=text, task_id="t", node=text, prompt=text, payload=[text], into=text, asked_at=moment)
    task = Task(id=text, node=text, since_step=0, rule=text)
    book = Book()
    first = begin("run", graph_id=text, definition={"nodes": [text], text: 1}, metadata={"tag": text})
    steps = [first, follow(first, update={"k": text}, last_node=text, task_id=text)]
    steps.append(follow(steps[-1], calls=(call, failed), frontier=(task,), interrupts=(question,)))
    steps.append(follow(steps[-1], event="failed", status="failed", error=failure, frontier=()))
    many = begin("many", definition=[[number, str(number)] for number in range(20_000)])
    many_tasks = follow(many, frontier=tuple(Task(id=f"t{number}", node="n", since_step=0) for number in range(2000)))
    handle, other = await kit.open(), await kit.open()
    for checkpoint in (*steps, many, many_tasks):
        await handle.write(checkpoint)
        book.wrote(checkpoint)
        what = f"read_latest({checkpoint.run_id!r}) after {naming(checkpoint)} with fields of {_LARGE} characters"
        same(checkpoint, await other.read_latest(checkpoint.run_id), what)
    for reader in (handle, await kit.open()):
        await agree(reader, book, kit.declared, f"after fields of {_LARGE} characters were written")


@group.check(
    "large_states_contended",
    "Of rivals with states of 3 MB exactly one wins each step, and whoever reads meanwhile sees a whole step.",
    contract="rule.4, rule.10",
    usual_cause="A large state is stored in chunks, outside of the transaction or under a name that rivals share.",
    needs=("concurrency.one_winner_many_handles",),
    quick=False,
    deadline=120,
)
async def large_states_contended(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    chance = Random(kit.seed)  # noqa: S311  # no secret
    before: Checkpoint | None = None
    known: dict[str, Checkpoint] = {}
    for step in range(2):
        candidates = []
        for number in range(4):
            content = {"payload": noise(chance, 3_000_000)}
            identity = executor_id(1 + number // 2)
            candidates.append(
                begin(executor_id=identity, state=content)
                if before is None
                else follow(before, executor_id=identity, changes=content)
            )
        known |= {candidate.digest: candidate for candidate in candidates}
        writing = [
            asyncio.ensure_future(attempt(handle.write(candidate)))
            for handle, candidate in zip(handles, candidates, strict=True)
        ]
        while not all(task.done() for task in writing):
            found = await handles[step].read_latest("run")
            if found is not None:
                same(known[found.digest], found, "read_latest('run') while rivals write states of 3 MB")
            await asyncio.sleep(0.01)
        refusals = [await task for task in writing]
        acked = [candidate for candidate, refusal in zip(candidates, refusals, strict=True) if refusal is None]
        expect(len(acked) == 1, f"{len(acked)} of 4 conflicting writes of 3 MB at step {step} were acknowledged")
        for refusal in filter(None, refusals):
            if not isinstance(refusal, CheckpointConflictError):
                raise Violation(f"a conflicting write of 3 MB raised {error_line(refusal)}") from refusal
        for handle in (handles[0], await kit.open()):
            same(acked[0], await handle.read_at_step("run", step), f"read_at_step('run', {step}) after rivals of 3 MB")
        before = acked[0]
    assert before is not None
    for taken, who in rivals(before, None if before.step == 0 else await handles[0].read_at_step("run", 0)):
        await refused(
            handles[1].write(taken), f"{naming(taken)} by {who}", CheckpointConflictError, "step-taken", taken
        )
