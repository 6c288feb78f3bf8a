"""Many tasks, many handles, many processes: nothing is lost, and of two that conflict one wins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from stargraph.checkpoint.conformance._compare import same, same_runs
from stargraph.checkpoint.conformance._expect import Violation, attempt, error_line, expect, settled, together
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._linearizability import Call, violation
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain, executor_id, follow, rival
from stargraph.checkpoint.conformance._views import Book, agree, runs_agree
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError

group: Final = Group("concurrency", needs=("steps.append_and_read",))

_ONE_WINNER: Final = "write, rule 4: fencing"


@group.check(
    "many_tasks",
    "80 tasks on one handle write and read their runs side by side; nothing is lost or mixed up.",
    contract="capability.6",
    usual_cause="One cursor or one transaction is shared by calls that overlap.",
)
async def many_tasks(kit: Kit) -> None:
    handle = await kit.open()

    async def use(number: int) -> None:
        steps = chain(f"run-{number:02d}", 4 if kit.thorough else 2, state={"own": number})
        for checkpoint in steps:
            await handle.write(checkpoint)
            same(checkpoint, await handle.read_latest(checkpoint.run_id), f"read_latest({checkpoint.run_id!r})")
        for checkpoint in steps:
            found = await handle.read_at_step(checkpoint.run_id, checkpoint.step)
            same(checkpoint, found, f"read_at_step({checkpoint.run_id!r}, {checkpoint.step})")

    outcomes = await asyncio.gather(*map(use, range(80)), return_exceptions=True)
    _raise_first(outcomes, "one of 80 tasks on one handle")
    wanted = [f"run-{number:02d}" for number in range(80)]
    same_runs(wanted, await handle.list_runs(), "list_runs() after 80 tasks wrote a run each")


@group.check(
    "identical_retries",
    "Many tasks that write the very same checkpoint at once all succeed.",
    contract="rule.3, write.5",
    usual_cause="The uniqueness error of an insert is taken for a conflict; the stored digest is not compared.",
    needs=("steps.rewrite_is_noop",),
)
async def identical_retries(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(3)]
    steps = chain(length=3)
    for checkpoint in steps:
        outcomes = await asyncio.gather(
            *(handles[number % 3].write(checkpoint) for number in range(24)), return_exceptions=True
        )
        _raise_first(outcomes, f"one of 24 writes of the very same step {checkpoint.step}")
    same(steps[-1], await handles[0].read_latest("run"), "read_latest('run')")


@group.check(
    "one_winner_one_handle",
    "Of 80 tasks that write different checkpoints for one step on one handle, exactly one is acknowledged, and "
    "it is the one that is stored.",
    contract="log.6, rule.4",
    usual_cause="Check, then write: an await lies between the look and the insert.",
)
async def one_winner_one_handle(kit: Kit) -> None:
    await _contend([await kit.open()], 80)


@group.check(
    "one_winner_many_handles",
    "Of 40 tasks on 8 handles that write different checkpoints for one step, exactly one is acknowledged, and "
    "it is the one that is stored.",
    contract="log.6, rule.4",
    usual_cause="The lock belongs to the handle and not to the store.",
    needs=("concurrency.one_winner_one_handle",),
)
async def one_winner_many_handles(kit: Kit) -> None:
    await _contend([await kit.open() for _ in range(8)], 40)


@group.check(
    "one_winner_at_each_step",
    "Of 6 tasks on 3 handles that write different checkpoints for one step, for 40 steps one after the other, exactly "
    "one is acknowledged each time, and it is the one that is stored.",
    contract="log.6, rule.4, capability.6",
    usual_cause="A lock that the threads of a process have together, as fcntl.lockf gives it, and which any of them "
    "loses for all by closing the file. Who comes first is seldom overtaken, so that it takes many turns to see it.",
    needs=("concurrency.one_winner_many_handles",),
    quick=False,
    deadline=60,
)
async def one_winner_at_each_step(kit: Kit) -> None:
    await _contend([await kit.open() for _ in range(3)], 6, steps=40)


async def _contend(handles: Sequence[Handle], count: int, *, steps: int = 3) -> None:
    before: Checkpoint | None = None
    for step in range(steps):
        plain = begin() if before is None else follow(before)
        candidates = [rival(plain, before, number + 1) for number in range(count // 2)]
        # One executor may run twice, after a copy of its machine or a fork of its process.
        twins = [_twin(plain, before, number + 1) for number in range(count - len(candidates))]
        candidates = [one for pair in zip(candidates, twins, strict=True) for one in pair]
        outcomes = await asyncio.gather(
            *(handles[number % len(handles)].write(candidate) for number, candidate in enumerate(candidates)),
            return_exceptions=True,
        )
        acked = [candidate for candidate, outcome in zip(candidates, outcomes, strict=True) if outcome is None]
        for outcome in outcomes:
            if outcome is not None and not isinstance(outcome, CheckpointConflictError):
                raise Violation(
                    f"one of {count} conflicting writes of step {step} raised {error_line(outcome)};"
                    " the contract wants CheckpointConflictError"
                ) from outcome
        expect(len(acked) == 1, f"{len(acked)} of {count} conflicting writes of step {step} were acknowledged")
        for handle in (handles[0], handles[-1]):
            what = f"read_at_step('run', {step}) after {count} conflicting writes (the acknowledged one is 'wrote')"
            same(acked[0], await handle.read_at_step("run", step), what)
            same(acked[0], await handle.read_latest("run"), "read_latest('run') after conflicting writes")
        before = acked[0]


def _twin(plain: Checkpoint, before: Checkpoint | None, number: int) -> Checkpoint:
    """The same executor's checkpoint for a step, with another state."""
    content = {"count": 1000 + number}
    if before is None:
        return begin(plain.run_id, executor_id=executor_id(7), state=content)
    return follow(before, executor_id=executor_id(7), changes=content)


@group.check(
    "one_winner_each_of_many_runs",
    "Of two tasks that write different checkpoints for one step, in each of 140 runs at once on one handle, exactly "
    "one is acknowledged, and it is the one that is stored.",
    contract="log.6, rule.4",
    usual_cause="A handle has a lock for each run, but for so many at most: one is thrown away while it is held, and "
    "the next task makes another.",
    needs=("concurrency.one_winner_one_handle",),
    quick=False,
    deadline=60,
)
async def one_winner_each_of_many_runs(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    pairs = [[begin(f"run-{number}", executor_id=executor_id(twin)) for twin in (1, 2)] for number in range(140)]
    # A server that is busy with all of them may say of some that their outcome is unknown.
    writes = [settled(partial(handle.write, pair[twin])) for twin in (0, 1) for pair in pairs]
    outcomes = await together(*writes)
    for number, pair in enumerate(pairs):
        what = f"two different steps 0 of {pair[0].run_id!r}, beside those of {len(pairs)} other runs"
        refusals = (outcomes[number], outcomes[len(pairs) + number])
        acked = [one for one, refusal in zip(pair, refusals, strict=True) if refusal is None]
        expect(len(acked) == 1, f"{len(acked)} of {what} were acknowledged")
        for refusal in filter(None, refusals):
            expect(isinstance(refusal, CheckpointConflictError), f"one of {what} was refused with {refusal!r}")
        same(acked[0], await other.read_latest(pair[0].run_id), f"read_latest({pair[0].run_id!r}) after {what}")


@group.check(
    "one_winner_many_processes",
    "Of 4 processes that race to append the steps of one run, each step is acknowledged to exactly one, and "
    "its checkpoint is the one that is stored.",
    contract="log.6, rule.4",
    usual_cause="Check, then write, guarded by a lock that other processes do not see: an update is lost.",
    version=2,
    needs=("concurrency.one_winner_many_handles", "durability.other_process"),
    processes=True,
    deadline=60,
)
async def one_winner_many_processes(kit: Kit) -> None:
    last = 40
    handle = await kit.open()
    children = await together(*(kit.child("race", run_id="run", last=last, number=number + 1) for number in range(4)))
    for child in children:
        await child.expect("ready")
    await together(*(child.tell("go") for child in children))
    winners: dict[int, list[str]] = {}

    async def listen(number: int) -> None:
        async for event in children[number].events():
            winners.setdefault(event["step"], []).append(event["digest"])

    await together(*map(listen, range(4)))
    latest = await handle.read_latest("run")
    expect(latest is not None and latest.step == last, f"read_latest('run') is not step {last} after the race")
    for step in range(last + 1):
        acked = set(winners.get(step, []))
        expect(len(acked) <= 1, f"step {step} was acknowledged to {len(acked)} processes with different checkpoints")
        expect(acked, f"step {step} is stored and was acknowledged to nobody")
        stored = await handle.read_at_step("run", step)
        digest = stored.digest if stored is not None else None
        expect(digest in acked, f"step {step}: another checkpoint is stored than the acknowledged one")


@group.check(
    "linearizable",
    "Seeded random calls of many tasks on many handles look as if they had happened one after the other.",
    contract="capability.6, read.5",
    usual_cause="A cache is filled before the write is acknowledged, or a reader's snapshot is too old.",
    version=2,
    needs=("concurrency.one_winner_many_handles",),
    quick=False,
)
async def linearizable(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    calls: list[Call] = []
    clock = iter(range(10**9))

    async def client(number: int) -> None:
        chance = kit.random
        for turn in range(40):
            handle = handles[chance.randrange(len(handles))]
            kind = chance.choice(("write", "write", "latest", "at_step", "list", "search", "history"))
            began = next(clock)
            if kind in ("list", "search", "history"):
                step = await _last_step(kit, handle, kind)
                calls.append(Call("latest", None, None, "read", began, next(clock), step))
                continue
            if kind == "latest":
                found = await handle.read_latest("run")
                digest, step = (found.digest, found.step) if found else (None, -1)
                calls.append(Call("latest", None, digest, "read", began, next(clock), step))
            elif kind == "at_step":
                step = chance.randrange(12)
                found = await handle.read_at_step("run", step)
                calls.append(Call("at_step", step, found.digest if found else None, "read", began, next(clock)))
            else:
                await _write_next(handle, number, turn, calls, clock)

    outcomes = await asyncio.gather(*map(client, range(8)), return_exceptions=True)
    _raise_first(outcomes, "one of 8 tasks that called at random")
    latest = await handles[0].read_latest("run")
    stored: list[str] = []
    for step in range(latest.step + 1 if latest else 0):
        found = await handles[1].read_at_step("run", step)
        expect(found is not None, f"read_at_step('run', {step}) gave None below the latest step")
        stored.append(found.digest if found else "")
    broken = violation(calls, stored)
    expect(broken is None, f"{broken} (seed {kit.seed}, {len(calls)} calls)")


async def _last_step(kit: Kit, handle: Handle, kind: str) -> int:
    """The latest step of the run as a list, a search or a history says; -1 if there is no such run."""
    if kind == "history" and "history" in kit.declared:
        return max([found.step async for found in handle.history("run", newest_first=True)], default=-1)
    if kind == "search" and "search" in kit.declared:
        return max([item.last_step for item in (await handle.search(graph_id="conformance")).items], default=-1)
    return max([item.last_step for item in await handle.list_runs()], default=-1)


async def _write_next(handle: Handle, number: int, turn: int, calls: list[Call], clock: object) -> None:
    """Read where the run stands, and try to append the next step."""
    assert hasattr(clock, "__next__")
    began = next(clock)
    before = await handle.read_latest("run")
    seen = (before.digest, before.step) if before else (None, -1)
    calls.append(Call("latest", None, seen[0], "read", began, next(clock), seen[1]))
    content = {"executor_id": executor_id(number + 1), "changes": {"turn": turn, "client": number}}
    mine = (
        begin(executor_id=executor_id(number + 1), state={"turn": turn, "client": number})
        if before is None
        else follow(before, **content)
    )
    began = next(clock)
    refusal = await attempt(handle.write(mine))
    while isinstance(refusal, StoreUnavailableError):
        await asyncio.sleep(0.01)
        refusal = await attempt(handle.write(mine))
    if refusal is not None and not isinstance(refusal, CheckpointConflictError):
        raise Violation(
            f"a write that came too late raised {error_line(refusal)}; the contract wants CheckpointConflictError"
        )
    outcome = "conflict" if refusal else "acked"
    calls.append(Call("write", mine.step, mine.digest, outcome, began, next(clock)))  # type: ignore[arg-type]


@group.check(
    "neighbours_of_a_refusal",
    "Of writes that are made at once, some of which are refused or cancelled, each reports its own outcome: the "
    "good ones are stored, and the refused ones are not.",
    contract="write.4, capability.3",
    usual_cause="Writes that share a commit share its outcome too: one that is refused, or a batch that is, takes "
    "the others with it, or one that is cancelled or refused is acknowledged, or dropped, with the rest.",
    version=2,
    needs=("concurrency.many_tasks", "steps.usable_after_refusal"),
)
async def neighbours_of_a_refusal(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    book = Book()
    bases = [chain(f"run-{number:02d}", 2) for number in range(12)]
    for steps in bases:
        for checkpoint in steps:
            await handle.write(checkpoint)
        book.wrote(*steps)
    for turn in range(4 if kit.thorough else 2):
        calls: list[tuple[str, Checkpoint, asyncio.Future[None]]] = []
        for number, steps in enumerate(bases):
            kind = ("good", "conflict", "good", "gap", "good", "cancelled")[number % 6]
            good = follow(steps[-1], changes={"turn": kit.random.random()})
            given = {
                "good": good,
                "cancelled": good,
                "conflict": rival(steps[-1], steps[-2]),
                "gap": follow(good),
            }[kind]
            in_batch = kind == "conflict" and turn % 2 == 1 and "batch" in kit.declared
            call = handle.write_many([given, follow(given)]) if in_batch else handle.write(given)
            calls.append((kind, given, asyncio.ensure_future(call)))
        await asyncio.sleep(0)
        for kind, _given, task in calls:
            if kind == "cancelled":
                task.cancel()
        outcomes = await asyncio.gather(*(task for _, _, task in calls), return_exceptions=True)
        for (kind, given, _), steps, outcome in zip(calls, bases, outcomes, strict=True):
            what = f"{naming(given)} beside others that were refused and cancelled"
            if kind == "good":
                if outcome is not None:
                    raise Violation(f"{what} raised {outcome!r}; it is a good one")
            elif kind == "cancelled":
                refusal = await attempt(handle.write(given))
                expect(refusal is None, f"{what}: written again after it was cancelled, it was refused: {refusal!r}")
            else:
                reason = "step-taken" if kind == "conflict" else "step-gap"
                wanted = isinstance(outcome, CheckpointError) and outcome.reason == reason
                expect(wanted, f"{what} gave {outcome!r}; the contract wants it refused with {reason!r}")
                continue
            steps.append(given)
            book.wrote(given)
    when = "after writes that were made beside refused and cancelled ones"
    look = agree if kit.thorough else runs_agree
    for reader in (handle, other):
        await look(reader, book, kit.declared, when)
    await agree(await kit.open(), book, kit.declared, when)


def _raise_first(outcomes: Sequence[object], who: str) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Violation):
            raise outcome
        if isinstance(outcome, BaseException):
            raise Violation(f"{who} raised {error_line(outcome)}") from outcome
