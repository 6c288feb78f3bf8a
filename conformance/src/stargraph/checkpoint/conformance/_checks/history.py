"""RunHistory: the steps of a run in order."""

from __future__ import annotations

from typing import Final

from stargraph.checkpoint.conformance._checks.deletion import RUNNING
from stargraph.checkpoint.conformance._compare import same, same_steps
from stargraph.checkpoint.conformance._expect import expect
from stargraph.checkpoint.conformance._growing import grown_run
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, chain, follow
from stargraph.checkpoint.protocol import Checkpoint

group: Final = Group("history", needs=("steps.append_and_read",), capability="history")


@group.check(
    "in_order",
    "history yields every step of one run, by number, and nothing of other runs.",
    contract="history.1",
    usual_cause="The order is that of text or of insertion, or a page size cuts it off.",
    version=2,
    needs=("growth.every_kind_of_change",),
)
async def in_order(kit: Kit) -> None:
    handle = await kit.open()
    steps, other = grown_run(kit.random, 130 if kit.thorough else 30), chain("run2", 3)
    while len(steps) < 130:
        steps.append(follow(steps[-1]))
    for checkpoint in [*other, *steps]:
        await handle.write(checkpoint)
    same_steps(steps, [found async for found in handle.history("run")], "history('run')")
    same_steps(other, [found async for found in handle.history("run2")], "history('run2')")


@group.check(
    "thousands",
    "Thousands of steps come whole and in order, from either end, also if the run goes on or is pruned meanwhile: what "
    "is there from the first item to the last comes once.",
    contract="history.1, capability.6",
    usual_cause="A page, or the most that the store below gives for one query, ends the iteration; or a page begins "
    "after so many rows instead of after the last step.",
    version=2,
    needs=("history.in_order", "history.newest_first", "history.range"),
    quick=False,
    deadline=90,
)
async def thousands(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=2100)
    if "batch" in kit.declared:
        for start in range(0, len(steps), 300):
            await handle.write_many(steps[start : start + 300])
    else:
        for checkpoint in steps:
            await handle.write(checkpoint)
    for newest_first in (False, True):
        found = [found async for found in other.history("run", newest_first=newest_first)]
        what = f"history('run', newest_first={newest_first}) of {len(steps)} steps"
        same_steps(steps[::-1] if newest_first else steps, found, what)
    found = [found async for found in other.history("run", from_step=40, to_step=2090)]
    same_steps(steps[40:2091], found, f"history('run', from_step=40, to_step=2090) of {len(steps)} steps")
    await _while_it_changes(kit, handle, other, steps)


async def _while_it_changes(kit: Kit, writer: Handle, reader: Handle, steps: list[Checkpoint]) -> None:
    """Let a long run go on while it is read from its end, and prune it while it is read from its beginning."""
    backwards = reader.history("run", newest_first=True)
    found = [await anext(backwards) for _ in range(10)]
    last = steps[-1]
    for _ in range(3):
        last = follow(last)
        await writer.write(last)
    found += [step async for step in backwards]
    same_steps(steps[::-1], found, "history('run', newest_first=True) of a run that goes on meanwhile")
    if "deletion" in kit.declared:
        keep = 1100
        forwards = reader.history("run")
        found = [await anext(forwards) for _ in range(10)]
        await writer.prune(older_than=LATER, statuses=RUNNING, keep_last=keep, run_id="run")
        found += [step async for step in forwards]
        kept = last.step + 1 - keep
        there = [step.step for step in found]
        what = f"history('run') of a run that prune(keep_last={keep}) comes into after ten steps"
        expect(there == sorted(set(there)), f"{what} gave steps twice, or in another order")
        same_steps(steps[kept:], [step for step in found if kept <= step.step < len(steps)], what)


@group.check(
    "newest_first",
    "history(newest_first=True) yields the highest step first.",
    contract="history.1",
    usual_cause="The argument is ignored, or the steps are compared as text.",
    version=2,
    needs=("growth.every_kind_of_change",),
)
async def newest_first(kit: Kit) -> None:
    handle = await kit.open()
    steps = grown_run(kit.random, 12)
    for checkpoint in steps:
        await handle.write(checkpoint)
    found = [found async for found in handle.history("run", newest_first=True)]
    same_steps(steps[::-1], found, "history('run', newest_first=True)")
    found = [found async for found in handle.history("run", from_step=2, to_step=10, newest_first=True)]
    same_steps(steps[10:1:-1], found, "history('run', from_step=2, to_step=10, newest_first=True)")


@group.check(
    "range",
    "from_step and to_step are both included; 0 is a step like any other.",
    contract="history.1",
    usual_cause="A half-open range, `if to_step:` where `is not None` is meant, or a bound that the store's integers "
    "cannot hold.",
    version=2,
)
async def step_range(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=8)
    for checkpoint in steps:
        await handle.write(checkpoint)
    for first, last in (
        (2, 5),
        (3, 3),
        (0, 0),
        (0, 7),
        (6, 100),
        (5, 2),
        (8, 9),
        (None, 2),
        (4, None),
        (2**53, None),
        (-3, 2),
    ):
        wanted = [step for step in steps if (first or 0) <= step.step <= (7 if last is None else last)]
        for newest_first in (False, True):
            found = [
                found async for found in handle.history("run", from_step=first, to_step=last, newest_first=newest_first)
            ]
            what = f"history('run', from_step={first}, to_step={last}, newest_first={newest_first})"
            same_steps(wanted[::-1] if newest_first else wanted, found, what)
    for huge in (2**53, 2**63, 2**70):
        found = [found async for found in handle.history("run", from_step=5, to_step=huge)]
        same_steps(steps[5:], found, f"history('run', from_step=5, to_step={huge})")


@group.check(
    "unknown_is_empty",
    "history of an unknown run yields nothing.",
    contract="history.3",
    usual_cause="A lookup that raises for an unknown run.",
)
async def unknown_is_empty(kit: Kit) -> None:
    handle = await kit.open()
    for checkpoint in chain("run1"):
        await handle.write(checkpoint)
    same_steps([], [found async for found in handle.history("run")], "history('run') of an unknown run")


@group.check(
    "interleaved",
    "Iterations that overlap, and calls between their items, do not disturb one another.",
    contract="capability.6, history.1",
    usual_cause="One cursor is shared by everything that the handle does.",
)
async def interleaved(kit: Kit) -> None:
    handle = await kit.open()
    first, second = chain("first", 7), chain("second", 7)
    for checkpoint in [*first, *second]:
        await handle.write(checkpoint)
    one, two, three = handle.history("first"), handle.history("second"), handle.history("first", newest_first=True)
    for step in range(7):
        same(first[step], await anext(one), f"history('first') beside other iterations, item {step}")
        same(second[step], await anext(two), f"history('second') beside other iterations, item {step}")
        same(first[6 - step], await anext(three), f"history('first', newest_first=True), item {step}")
        found = await handle.read_latest("second")
        same(second[-1], found, "read_latest('second') between the items of an iteration")
    for iterator in (one, two, three):
        expect(await anext(iterator, None) is None, "an iteration that overlaps with others yields too much")


@group.check(
    "during_appends",
    "Appending to a run while its history is read does not disturb either.",
    contract="capability.6, history.1",
    usual_cause="A read transaction blocks the writer, or the iteration fails or skips when the run grows.",
)
async def during_appends(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=6)
    for checkpoint in steps:
        await handle.write(checkpoint)
    found = []
    async for checkpoint in handle.history("run"):
        found.append(checkpoint)
        if len(found) in (2, 4):
            steps.append(follow(steps[-1]))
            await (handle if len(found) == 2 else other).write(steps[-1])
    expect(len(found) >= 6, f"history('run') gave {len(found)} steps while the run grew; 6 were there when it began")
    same_steps(steps[: len(found)], found, "history('run') while the run grew")


@group.check(
    "abandoned",
    "An iteration that is left before its end uses nothing up.",
    contract="history.1",
    usual_cause="The cursor, the transaction or the connection of the iteration is not given back.",
)
async def abandoned(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=6)
    for checkpoint in steps:
        await handle.write(checkpoint)
    for _ in range(30):
        iterator = handle.history("run")
        same(steps[0], await anext(iterator), "the first item of history('run')")
        await iterator.aclose()  # type: ignore[attr-defined]
    await handle.write(follow(steps[-1]))
    expect(len([found async for found in handle.history("run")]) == 7, "history('run') is not whole afterwards")
