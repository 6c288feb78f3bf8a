"""Runs that look alike are different runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same, show
from stargraph.checkpoint.conformance._expect import Violation, expect
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, chain, follow, rival
from stargraph.checkpoint.protocol import Checkpoint, Interrupt, RecordedCall, Task
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group("isolation", needs=("steps.append_and_read",))


async def _keep_apart(kit: Kit, run_ids: Sequence[str], *, remove: bool = True) -> None:
    """Write runs of different lengths side by side, remove some, and expect that each is its own."""
    handle = await kit.open()
    runs: dict[str, list[Checkpoint]] = {}
    for number, run_id in enumerate(run_ids):
        # A run that was not written yet must not be seen through another one's name.
        absent(await handle.read_latest(run_id), f"read_latest({run_id!r}) before that run was written")
        absent(await handle.read_at_step(run_id, 0), f"read_at_step({run_id!r}, 0) before that run was written")
        runs[run_id] = chain(run_id, 2 + number % 3, state={"own": run_id}, last_status="done")
        for checkpoint in runs[run_id]:
            await handle.write(checkpoint)
    for run_id, steps in runs.items():
        same(steps[-1], await handle.read_latest(run_id), f"read_latest({run_id!r}) beside {show(list(run_ids))}")
        for checkpoint in steps:
            found = await handle.read_at_step(run_id, checkpoint.step)
            same(checkpoint, found, f"read_at_step({run_id!r}, {checkpoint.step}) beside {show(list(run_ids))}")
        beyond = len(steps)
        absent(await handle.read_at_step(run_id, beyond), f"read_at_step({run_id!r}, {beyond}), beyond the latest")
    listed = sorted(summary.run_id for summary in await handle.list_runs(limit=1000))
    if listed != sorted(run_ids):
        raise Violation(f"list_runs() gave {show(listed)}; written were {show(sorted(run_ids))}")
    if remove and "deletion" in kit.declared:
        await _remove_apart(handle, runs)


async def _remove_apart(handle: Handle, runs: dict[str, list[Checkpoint]]) -> None:
    """Prune every run for itself and delete every second one, and expect that no removal has reached into another."""
    for run_id, steps in runs.items():
        report = await handle.prune(older_than=LATER, keep_last=1, run_id=run_id)
        what = f"prune(run_id={run_id!r}, keep_last=1) beside {show(list(runs))} removed {report.checkpoints} steps"
        expect(report.checkpoints < len(steps), f"{what}, of a run that has {len(steps)}")
    for run_id, steps in runs.items():
        latest = await handle.read_latest(run_id)
        same(steps[-1], latest, f"read_latest({run_id!r}) after each of {show(list(runs))} was pruned")
    gone = list(runs)[::2]
    for run_id in gone:
        expect(await handle.delete_run(run_id), f"delete_run({run_id!r}) beside {show(list(runs))} found no such run")
    for run_id, steps in runs.items():
        what = f"read_latest({run_id!r}) after delete_run of {show(gone)}"
        latest = await handle.read_latest(run_id)
        if run_id in gone:
            absent(latest, what)
        else:
            same(steps[-1], latest, what)


@group.check(
    "case",
    "Run ids that differ by case are different runs.",
    contract="log.12",
    usual_cause="A collation that ignores case, or file names on a file system that does.",
    version=2,
)
async def case(kit: Kit) -> None:
    await _keep_apart(kit, ["Run", "run", "RUN", "rUn"])
    if "deletion" in kit.declared:
        handle = await kit.open()
        await handle.delete_run("RUN")
        expect(await handle.read_latest("run") is not None, "read_latest('run') after delete_run('RUN') gave None")
        absent(await handle.read_latest("RUN"), "read_latest('RUN') after delete_run('RUN')")


@group.check(
    "punctuation",
    "Run ids that differ by `_`, `.`, `:` or `-` are different runs.",
    contract="log.12",
    usual_cause="Characters are replaced to make a file or key name, or `_` is a wildcard of LIKE.",
    version=2,
)
async def punctuation(kit: Kit) -> None:
    await _keep_apart(kit, ["a_b", "a.b", "a:b", "a-b", "ab", "aXb", "a__b", "a..b", "a_b_"])


@group.check(
    "prefixes",
    "A run id that begins with another one is another run.",
    contract="log.12",
    usual_cause="Keys are joined without a separator that ids cannot hold, so run 1 step 11 is run 11 step 1; or a "
    "removal takes all keys that begin with the id.",
    version=2,
)
async def prefixes(kit: Kit) -> None:
    await _keep_apart(kit, ["r", "r1", "r11", "r.1", "r:1", "r-1", "r:1:1", "r_1", "r-0", "r.0", "1", "11", "111"])


@group.check(
    "numbers",
    "Run ids and keys that are the same number, or the same truth, to whoever takes them for one are different ones.",
    contract="log.12, log.13",
    usual_cause="A column without a type, or with one that the database does not know, such as STRING in SQLite, or a "
    "file that is read as YAML or CSV, turns 007 into 7.",
)
async def numbers(kit: Kit) -> None:
    names = ["7", "07", "007", "7.0", "7e0", "1000", "1e3", "0x7", "true"]
    await _keep_apart(kit, names, remove=False)
    if "keys" in kit.declared:
        handle = await kit.open()
        steps = chain("keyed", len(names), keys=names)
        for checkpoint in steps:
            await handle.write(checkpoint)
        for key, checkpoint in zip(names, steps, strict=True):
            same(checkpoint, await handle.read_at_key("keyed", key), f"read_at_key('keyed', {key!r})")


@group.check(
    "long_ids",
    "Run ids of 200 characters that differ in the last one are different runs.",
    contract="log.12",
    usual_cause="A column or a file name that is too short cuts them off.",
    version=2,
)
async def long_ids(kit: Kit) -> None:
    await _keep_apart(kit, ["x" * 199 + "a", "x" * 199 + "b", "x" * 199, "x" * 150])


@group.check(
    "outside_alphabet",
    "A run id that cannot exist reads as None or is refused clearly; it never shows another run.",
    contract="log.12, read.1",
    usual_cause="Wildcards reach a LIKE or a glob, blanks are stripped, or `../` walks through directories.",
)
async def outside_alphabet(kit: Kit) -> None:
    handle = await kit.open()
    for run_id in ("r", "run", "r1", "s"):
        for checkpoint in chain(run_id, 2):
            await handle.write(checkpoint)
    strange = [
        "../r",
        "./r",
        "s/../r",
        "r%",
        "%",
        "_",
        "r?",
        "*",
        "r ",
        " r",
        "r\n",
        "r\0",
        "",
        "r'",
        'r"',
        "ｒ",
        "r\\",
    ]
    for run_id in [*strange, "r" * 1000]:
        for name, call in (("read_latest", handle.read_latest), ("read_at_step", handle.read_at_step)):
            arguments = (run_id,) if name == "read_latest" else (run_id, 0)
            what = f"{name}({', '.join(map(show, arguments))})"
            try:
                found = await call(*arguments)
            except (CheckpointError, ValueError):
                continue
            absent(found, what)


@group.check(
    "same_names_inside",
    "Runs of one graph have tasks, calls and questions of the same names, and may have other definitions; each run "
    "keeps its own.",
    contract="value.1, value.8",
    usual_cause="What a record holds is stored once for all runs, under the id of the graph, the task or the question.",
)
async def same_names_inside(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = [_of_one_graph(f"run-{number}", number) for number in range(3)]
    # By turns, so that whatever is shared is overwritten while each run still goes on.
    for at_once in zip(*runs, strict=True):
        for checkpoint in at_once:
            await handle.write(checkpoint)
    for reader in (handle, other, await kit.open()):
        for steps in runs:
            for checkpoint in steps:
                what = f"read_at_step({checkpoint.run_id!r}, {checkpoint.step}) beside runs of the same graph"
                same(checkpoint, await reader.read_at_step(checkpoint.run_id, checkpoint.step), what)
            what = f"read_latest({steps[0].run_id!r}) beside runs of the same graph"
            same(steps[-1], await reader.read_latest(steps[0].run_id), what)


def _of_one_graph(run_id: str, number: int) -> list[Checkpoint]:
    moment = NOON + timedelta(seconds=1)
    call = RecordedCall(
        kind="call", task_id="1", name="fetch", occurrence=0, result={"number": number}, started_at=moment
    )
    question = Interrupt(id="q", task_id="1", node="ask", prompt=f"{number}?", payload=[number], asked_at=moment)
    steps = [begin(run_id, definition={"nodes": [f"v{number}"]}, metadata={"team": f"t{number}"})]
    steps.append(follow(steps[-1], frontier=(Task(id="1", node=f"n{number}", since_step=number % 2),), task_id="1"))
    steps.append(follow(steps[-1], calls=(call,), task_id="1", update={"number": number}))
    steps.append(follow(steps[-1], status="awaiting_input", interrupts=(question,)))
    return steps


@group.check(
    "own_rules",
    "The rules of write look at the checkpoint's own run alone.",
    contract="rule.4, rule.9",
    usual_cause="The latest step, or the uniqueness of a step, is looked up without the run.",
)
async def own_rules(kit: Kit) -> None:
    handle = await kit.open()
    first, second = chain("first", 4, last_status="done"), chain("second", 3)
    for pair in zip(first, second, strict=False):
        for checkpoint in pair:
            await handle.write(checkpoint)
    await handle.write(first[3])
    try:
        await handle.write(rival(second[2], second[1]))
    except CheckpointConflictError:
        pass
    else:
        raise Violation("write of another step 2 of run 'second' succeeded beside run 'first'")
    third = follow(second[2])
    await handle.write(third)
    same(third, await handle.read_latest("second"), "read_latest('second') beside an ended run 'first'")
    same(first[3], await handle.read_latest("first"), "read_latest('first') beside run 'second'")
    await handle.write(begin("third"))
