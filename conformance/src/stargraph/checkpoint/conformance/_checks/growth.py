"""Long runs whose state grows and changes: however a step is stored, it reads back exactly, and so does each other one.

A driver may store a step as what changed since an earlier one. The contract does not say so; it says that every step
comes back equal, of the same type and in the same order, whoever wrote the step before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stargraph.checkpoint.conformance._compare import same
from stargraph.checkpoint.conformance._expect import refused, together
from stargraph.checkpoint.conformance._growing import KINDS, grown, grown_run
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import executor_id
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError

group: Final = Group(
    "growth",
    needs=(
        "bootstrap.second_handle",
        "steps.latest_is_numeric",
        "values.every_field",
        "values.text",
        "values.numbers",
        "values.keys",
        "values.key_order",
        "values.empties",
        "durability.other_handle",
    ),
)


async def read_back(handle: Handle, steps: Sequence[Checkpoint], when: str) -> None:
    """Expect steps of a run, each exactly as it was written, in the order in which they are given."""
    for checkpoint in steps:
        what = f"read_at_step({checkpoint.run_id!r}, {checkpoint.step}) {when}"
        same(checkpoint, await handle.read_at_step(checkpoint.run_id, checkpoint.step), what)


@group.check(
    "every_kind_of_change",
    "A run in which every kind of value changes in every way, step by step, reads back exactly at each step.",
    contract="value.1",
    usual_cause="A step is stored as its difference from the one before, and the difference is blind to something: a "
    "field that went away, the order of keys, 1 and 1.0 and True, an item in the middle of a list.",
)
async def every_kind_of_change(kit: Kit) -> None:
    handle = await kit.open()
    steps = grown_run(kit.random, 2 * KINDS + 3)
    for checkpoint in steps:
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_latest("run"), f"read_latest('run') after step {checkpoint.step}")
    await read_back(handle, steps, "of a run whose state changed in every way")
    other = await kit.open()
    await read_back(other, kit.random.sample(steps, len(steps)), "of another handle, in any order")


@group.check(
    "three_hundred_steps",
    "A run of 300 growing steps reads back exactly at each step and as the latest, on the same handle and on new ones.",
    contract="value.1",
    usual_cause="A chain of differences without an end: too deep to decode, or wrong where a new one begins.",
    needs=("growth.every_kind_of_change",),
    quick=False,
    deadline=120,
)
async def three_hundred_steps(kit: Kit) -> None:
    handle = await kit.open()
    steps = grown_run(kit.random, 300)
    for checkpoint in steps:
        await handle.write(checkpoint)
        if checkpoint.step % 7 == 0:
            same(checkpoint, await handle.read_latest("run"), f"read_latest('run') after step {checkpoint.step}")
    await read_back(handle, steps, "of a run of 300 steps")
    await handle.release()
    newcomer = await kit.open()
    same(steps[-1], await newcomer.read_latest("run"), "read_latest('run') of a new handle, after 300 steps")
    await read_back(newcomer, steps[::-1], "of a new handle, after 300 steps")
    steps.append(grown(steps[-1], kit.random))
    await newcomer.write(steps[-1])
    same(steps[-1], await newcomer.read_latest("run"), "read_latest('run') after a new handle went on at step 300")


@group.check(
    "interleaved_runs",
    "Runs whose steps are alike are written side by side on one handle; each reads back exactly.",
    contract="value.1",
    usual_cause="What the handle remembers of a run is kept by the number of the step, or for the last run alone.",
    needs=("growth.every_kind_of_change",),
)
async def interleaved_runs(kit: Kit) -> None:
    handle = await kit.open()
    length = 20 if kit.thorough else 12
    runs = [grown_run(kit.random, length, run_id) for run_id in ("first", "second", "third", "fourth")]
    for number in range(length):
        for steps in kit.random.sample(runs, len(runs)):
            await handle.write(steps[number])
    side_by_side = [grown_run(kit.random, 10 if kit.thorough else 4, f"task-{number}") for number in range(8)]
    await together(*(_write(handle, steps) for steps in side_by_side))
    reader = await kit.open()
    for steps in [*runs, *side_by_side]:
        same(steps[-1], await handle.read_latest(steps[0].run_id), f"read_latest({steps[0].run_id!r}) beside others")
        await read_back(reader, steps, "of a run that was written beside others")


async def _write(handle: Handle, steps: Sequence[Checkpoint]) -> None:
    for checkpoint in steps:
        await handle.write(checkpoint)


@group.check(
    "by_turns",
    "Handles that append to one run by turns, with lost races in between, leave a run that reads back exactly.",
    contract="value.1, rule.4, rule.9",
    usual_cause="A step is stored as its difference from what this handle wrote last, or tried to write, and not from "
    "the step before it.",
    needs=("growth.every_kind_of_change", "steps.usable_after_refusal", "fencing.stale_handle"),
)
async def by_turns(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(3)]
    steps = grown_run(kit.random, 1)
    await handles[0].write(steps[0])
    for number in range(1, 40 if kit.thorough else 20):
        before = steps[-1]
        winner, loser = kit.random.sample(handles, 2)
        mine = grown(before, kit.random, executor_id=executor_id(1))
        await winner.write(mine)
        steps.append(mine)
        if number % 3 == 0:
            lost = grown(before, kit.random, executor_id=executor_id(2))
            what = f"{naming(lost)}, which another handle has written"
            await refused(loser.write(lost), what, CheckpointConflictError, "step-taken", lost)
        if number % 5 == 0:
            same(mine, await loser.read_latest("run"), f"read_latest('run') of another handle after step {number}")
    for handle in [*handles, await kit.open()]:
        same(steps[-1], await handle.read_latest("run"), "read_latest('run') after handles wrote by turns")
    await read_back(await kit.open(), steps, "of a run that three handles wrote by turns")
