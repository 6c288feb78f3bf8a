"""KeyedSteps: find the steps of a run by the keys that the program gave them."""

from __future__ import annotations

from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same, show
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused, refused_argument
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, LINES, chain, executor_id, follow
from stargraph.checkpoint.protocol import Checkpoint, StepKey
from stargraph.errors import CheckpointConflictError, CheckpointCorruptedError, CheckpointError, StoreVersionError

group: Final = Group("keys", needs=("steps.append_and_read",), capability="keys")


_ALIKE: Final = (
    "key",
    "Key",
    "key ",
    "key\u0000",
    "key%",
    "ke_",
    "ключ",
    "e\u0301",
    "\u00e9",
    "\uffff",
    "\U0001f600",
    "a/b,c'\"",
    "7",
    "07",
    "k" * 255,
    LINES,
)
"""Keys that some store takes for others: by case, by blanks, as patterns, normalised, by UTF-16, cut off, by lines."""

_MANY: Final = 1010
"""Keys of one run, more than what stores and drivers give at once."""


def _keyed(*keys: str | None, run_id: str = "run") -> list[Checkpoint]:
    return chain(run_id, len(keys), keys=keys)


async def _written(handle: Handle, steps: list[Checkpoint]) -> list[Checkpoint]:
    for checkpoint in steps:
        await handle.write(checkpoint)
    return steps


async def _listed(handle: Handle, run_id: str, wanted: list[StepKey], when: str) -> None:
    found = await handle.step_keys(run_id)
    expect(found == wanted, f"step_keys({run_id!r}) {when} gave {show(found)}; the contract wants {show(wanted)}")


@group.check(
    "find",
    "read_at_key returns the highest step that has the key, and None if there is none.",
    contract="log.13, read_at_key.1, read_at_key.2",
    usual_cause="The first step with the key is found, or a key of another run, or the key is kept in memory.",
)
async def find(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = await _written(handle, _keyed("a", "b", None, "a", "c", None))
    await _written(handle, _keyed("d", "b", run_id="run:2"))
    for reader in (handle, other):
        for key, step in (("a", 3), ("b", 1), ("c", 4)):
            same(steps[step], await reader.read_at_key("run", key), f"read_at_key('run', {key!r})")
        for run_id, key in (("run", "d"), ("run:2", "a"), ("nobody", "a"), ("run", ""), ("run", "k" * 300)):
            absent(await reader.read_at_key(run_id, key), f"read_at_key({run_id!r}, {key!r})")
    last = follow(steps[-1], key="b")
    await other.write(last)
    same(last, await handle.read_at_key("run", "b"), "read_at_key('run', 'b') after another handle used the key again")


@group.check(
    "exact",
    "A key is found by exactly its own text.",
    contract="log.13, log.14, search.3",
    usual_cause="The column ignores case or trailing blanks, LIKE is used, or the key is cut off or normalised.",
    version=2,
)
async def exact(kit: Kit) -> None:
    handle = await kit.open()
    steps = await _written(handle, _keyed(*_ALIKE))
    for key, checkpoint in zip(_ALIKE, steps, strict=True):
        same(checkpoint, await handle.read_at_key("run", key), f"read_at_key('run', {key!r})")
    for key in ("KEY", "ke", "key  ", "k%", "%", "E\u0301", "k" * 254, "2:key", "2/key", "2\u0000key"):
        absent(await handle.read_at_key("run", key), f"read_at_key('run', {key!r})")
    # Put together with a separator that an id may hold, two keys of two runs would be one text.
    (theirs,) = await _written(handle, _keyed("key", run_id="run:2"))
    absent(await handle.read_at_key("run", "2:key"), "read_at_key('run', '2:key'), while 'run:2' has the key 'key',")
    same(theirs, await handle.read_at_key("run:2", "key"), "read_at_key('run:2', 'key')")


@group.check(
    "order",
    "step_keys returns each key of a run once, the highest first by code points, with its highest step.",
    contract="step_keys.1",
    usual_cause="The collation of a language or UTF-16 decides the order, or a key is listed for each of its steps.",
)
async def order(kit: Kit) -> None:
    handle = await kit.open()
    keys = [*_ALIKE, None, "key", "\uffff"]
    kit.random.shuffle(keys)
    await _written(handle, _keyed(*keys))
    await _written(handle, _keyed("zzz", run_id="run:2"))
    highest = {key: step for step, key in enumerate(keys) if key is not None}
    wanted = [StepKey(key, highest[key]) for key in sorted(highest, reverse=True)]
    await _listed(handle, "run", wanted, "of a run")
    await _listed(handle, "nobody", [], "of an unknown run")
    for below in ("key", "e\u0301", "\U0001f600", "", "kez", "\U0010ffff"):
        for limit in (0, 1, 3, 100):
            found = await handle.step_keys("run", below=below, limit=limit)
            due = [each for each in wanted if each.key < below][:limit]
            call = f"step_keys('run', below={below!r}, limit={limit})"
            expect(found == due, f"{call} gave {show(found)}; the contract wants {show(due)}")


@group.check(
    "arguments",
    "A limit that is no count is refused.",
    contract="log.13",
    usual_cause="The limit goes into the query as it is.",
)
async def arguments(kit: Kit) -> None:
    handle = await kit.open()
    await _written(handle, _keyed("a"))
    for limit in (-1, 1.5, "1"):
        await refused_argument(handle.step_keys("run", limit=limit), f"step_keys('run', limit={limit!r})")


@group.check(
    "refused_writes",
    "A step that was refused leaves no key.",
    contract="write.4, read_at_key.1",
    usual_cause="The key is noted before the append, and nobody looks whether the append succeeded.",
)
async def refused_writes(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = await _written(handle, _keyed("first"))
    mine = follow(steps[0], key="mine", executor_id=executor_id(1))
    theirs = follow(steps[0], key="theirs", executor_id=executor_id(2))
    await handle.write(mine)
    await refused(other.write(theirs), "the second write of step 1", CheckpointConflictError, "step-taken", theirs)
    await handle.write(mine)
    absent(await other.read_at_key("run", "theirs"), "read_at_key('run', 'theirs') after that write was refused")
    wanted = [StepKey("mine", 1), StepKey("first", 0)]
    for reader in (handle, other):
        await _listed(reader, "run", wanted, "after a write was refused")


@group.check(
    "batches",
    "Steps that were appended together are found by their keys.",
    contract="read_at_key.1, write_many.2",
    usual_cause="write_many stores the records by a statement of its own, which knows nothing of keys.",
)
async def batches(kit: Kit) -> None:
    if "batch" not in kit.declared:
        return
    handle = await kit.open()
    steps = _keyed("a", None, "b", "a", "c")
    await handle.write_many(steps[:2])
    await handle.write_many(steps[1:])
    for key, step in (("a", 3), ("b", 2), ("c", 4)):
        same(steps[step], await handle.read_at_key("run", key), f"read_at_key('run', {key!r}) after write_many")
    await _listed(handle, "run", [StepKey("c", 4), StepKey("b", 2), StepKey("a", 3)], "after write_many")


@group.check(
    "pruned_start",
    "The keys of a run that start_pruned began are found, and so are those of the steps that follow.",
    contract="read_at_key.1, read_at_key.2, step_keys.1, start_pruned.1",
    usual_cause="start_pruned stores the records by a statement of its own, which knows nothing of keys.",
)
async def pruned_start(kit: Kit) -> None:
    if "pruned-start" not in kit.declared:
        return
    handle, other = await kit.open(), await kit.open()
    steps = _keyed("a", "b", None, "a", "c", "b")
    await handle.start_pruned([steps[1], steps[4]])
    await handle.write(steps[5])
    for reader in (handle, other):
        for key, step in (("b", 5), ("c", 4)):
            same(steps[step], await reader.read_at_key("run", key), f"read_at_key('run', {key!r}) after start_pruned")
        absent(await reader.read_at_key("run", "a"), "read_at_key('run', 'a'), whose steps start_pruned left out")
        await _listed(reader, "run", [StepKey("c", 4), StepKey("b", 5)], "after start_pruned and a step more")


@group.check(
    "many",
    "All keys of a run are listed, 100 by default, in pages of any size.",
    contract="step_keys.1",
    usual_cause="A page inside the driver ends, or a list has a largest size, and the rest is left out.",
    version=2,
    quick=False,
    deadline=120,
)
async def many(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = _keyed(*(f"key-{number * 7 % _MANY:04}" for number in range(_MANY)))
    if "batch" in kit.declared:
        for start in range(0, _MANY, 300):
            await handle.write_many(steps[start : start + 300])
    else:
        await _written(handle, steps)
    wanted = sorted((StepKey(step.key or "", step.step) for step in steps), reverse=True)
    await _listed(other, "run", wanted[:100], f"of a run with {_MANY} keys")
    for limit in (101, 150, 2**70):
        found = await other.step_keys("run", limit=limit)
        expect(
            found == wanted[:limit],
            f"step_keys('run', limit={limit}) of {_MANY} keys gave {len(found)}: {show(found)}",
        )
    paged: list[StepKey] = []
    below = None
    while len(paged) <= _MANY and (page := await other.step_keys("run", below=below, limit=340)):
        paged += page
        below = page[-1].key
    expect(paged == wanted, f"the pages of step_keys('run', limit=340) gave {show(paged)}")


@group.check(
    "removals",
    "A step that was pruned or deleted is not found by its key.",
    contract="read_at_key.2, delete_run.1, prune.1",
    usual_cause="The index of keys is left as it is, and its entries outlive the steps; or what was found once is "
    "found again, until the run goes on.",
    version=2,
)
async def removals(kit: Kit) -> None:
    if "deletion" not in kit.declared:
        return
    handle, other = await kit.open(), await kit.open()
    steps = _keyed(*(f"{number % 4}" for number in range(11)), "last")
    steps[-1] = follow(steps[-2], key="last", status="done")
    await _written(handle, steps)
    await _written(handle, _keyed("0", run_id="run:2"))
    for key in ("0", "1", "2", "3", "last"):
        await other.read_at_key("run", key)
    await other.step_keys("run")  # what it remembers is outdated from here on
    await handle.prune(older_than=LATER, keep_last=2)
    kept = {step for step in range(12) if await handle.read_at_step("run", step) is not None}
    highest = {steps[step].key: step for step in sorted(kept)}
    for key in ("0", "1", "2", "3", "last"):
        found = await other.read_at_key("run", key)
        if key in highest:
            same(steps[highest[key]], found, f"read_at_key('run', {key!r}) after prune(keep_last=2)")
        else:
            absent(found, f"read_at_key('run', {key!r}) after prune(keep_last=2)")
    wanted = [StepKey(str(key), highest[key]) for key in sorted(map(str, highest), reverse=True)]
    await _listed(other, "run", wanted, "after prune(keep_last=2)")
    await handle.delete_run("run")
    for reader in (handle, other):
        absent(await reader.read_at_key("run", "last"), "read_at_key('run', 'last') after delete_run('run')")
        await _listed(reader, "run", [], "after delete_run('run')")
        await _listed(reader, "run:2", [StepKey("0", 0)], "of another run")


@group.check(
    "damage",
    "A key whose step cannot be read, or is lost, is not found at an older step, nor missing: it is exact, or raises.",
    contract="read_at_key.1, read.3, read.6, list.5",
    usual_cause="An `except` around the decoding of each record passes over what cannot be read, or the keys are those "
    "of the records that are there.",
    version=2,
    needs=("durability.other_handle",),
)
async def damage(kit: Kit) -> None:
    await _lost_key(kit)
    hook = kit.target.stored_bytes
    if hook is None:
        return
    handle = await kit.open()
    steps = await _written(handle, _keyed("a", "b", "a", None))
    await hook.put(kit.location, "run", 2, bytes(64))
    for reader in (handle, await kit.open()):
        what = "read_at_key('run', 'a'), whose latest step is damaged,"
        try:
            same(steps[2], await reader.read_at_key("run", "a"), what)
            await _listed(reader, "run", [StepKey("b", 1), StepKey("a", 2)], "of which a step is damaged")
        except (CheckpointCorruptedError, StoreVersionError):
            continue
        except CheckpointError as error:
            raise Violation(
                f"{what} raised {error_line(error)}; the contract wants CheckpointCorruptedError"
            ) from error


async def _lost_key(kit: Kit) -> None:
    lose = kit.target.lost_step
    if lose is None:
        return
    location = await kit.fresh_location()
    handle = await kit.open(location)
    steps = await _written(handle, _keyed("a", "b", "a", "c", None))
    await handle.release()
    await lose(location, "run", 2)
    reader, what = await kit.open(location), "of a run whose step 2 is lost,"
    read = reader.read_at_key("run", "a")
    await refused(read, f"read_at_key('run', 'a') {what} which had it last,", CheckpointCorruptedError, "missing-step")
    try:
        same(steps[3], await reader.read_at_key("run", "c"), f"read_at_key('run', 'c') {what}")
        same(steps[1], await reader.read_at_key("run", "b"), f"read_at_key('run', 'b') {what}")
    except CheckpointCorruptedError:
        return  # only the lost record knew that its key is neither
