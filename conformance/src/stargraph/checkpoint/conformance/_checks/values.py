"""What is written comes back equal, of the same type, in the same order; or it is refused and nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same
from stargraph.checkpoint.conformance._expect import Violation, error_line
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LINES, NOON, begin, chain, executor_id, follow, noise
from stargraph.checkpoint.protocol import (
    Checkpoint,
    ErrorInfo,
    FanOut,
    Interrupt,
    JsonValue,
    RecordedCall,
    Seal,
    StepRange,
    Task,
)
from stargraph.errors import CheckpointError, StateError

group: Final = Group("values", needs=("steps.append_and_read",))


async def _round_trip(kit: Kit, state: Mapping[str, JsonValue], update: Mapping[str, JsonValue] | None = None) -> None:
    """Write values as the state and as an update; read them on the same handle and on another one."""
    handle, other = await kit.open(), await kit.open()
    first = begin(state=state, update=update)
    second = follow(first, state=state, update=state)
    for checkpoint in (first, second):
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_latest("run"), "read_latest('run')")
    for reader in (handle, other):
        for checkpoint in (first, second):
            found = await reader.read_at_step("run", checkpoint.step)
            same(checkpoint, found, f"read_at_step('run', {checkpoint.step})")


def _rich_run() -> list[Checkpoint]:
    """A run that uses every field and every event."""
    tasks = (
        Task(id="t1", node="plan", since_step=0, calls=(StepRange(first=1, last=2), StepRange(first=4, last=4))),
        Task(id="t2", node="plan", since_step=0, index=3),
        FanOut(
            task_id="t3",
            mode="map",
            rule="fan-out",
            join="report",
            since_step=0,
            width=9,
            next_index=4,
            completed_steps=(StepRange(first=3, last=5),),
        ),
        FanOut(task_id="t4", mode="parallel", rule="both", join="report", since_step=1, width=2, next_index=2),
    )
    question = Interrupt(
        id="q-1",
        task_id="t1",
        node="plan",
        prompt=f"Page somebody?\n\u00e9\U0001f600{LINES}",
        payload={"severity": 4, "options": [True, None, 1.0]},
        into="approval",
        child_run_id="child:1",
        asked_at=NOON + timedelta(microseconds=1),
    )
    wait = Interrupt(
        id="q-2", task_id="t1", node="plan", prompt="wait 60 s", asked_at=NOON, due_at=NOON + timedelta(microseconds=7)
    )
    error = ErrorInfo(type="pkg.Broken", message=f"a\u0000b{LINES}", reason=LINES, node="plan", traceback=LINES)
    call = RecordedCall(
        kind="call",
        task_id="t1",
        name="fetch",
        key="k",
        occurrence=2,
        result={"b": 1, "a": [1.0, -0.0], LINES: LINES},
        started_at=NOON,
    )
    failed = RecordedCall(kind="answer", task_id="t1", name="ask", error=error, started_at=NOON)
    attempt = RecordedCall(kind="attempt", task_id="t1", name="attempt", occurrence=1, error=error, started_at=NOON)
    steps = [
        begin(
            "rich.run:1",
            definition={"nodes": ["plan", LINES], "weights": {"z": 1, "a": 2.0}},
            update={"inputs": None},
            parent_run_id="parent",
            parent_step=7,
            origin="subgraph",
            metadata={"team": "blue", "": "", "ключ": "значение\u0000", "a.b": "c", LINES: LINES},
            frontier=tasks[:1],
            interrupts=(question,),
        )
    ]
    second = executor_id(2)
    for fields in (
        {"event": "called", "calls": (call, failed), "task_id": "t1", "task_started_at": NOON, "key": "ключ/1"},
        {"event": "completed", "update": {"count": 5, "z": [], "a": {}}, "frontier": tasks, "task_id": "t1"},
        {"event": "asked", "status": "awaiting_input", "interrupts": (question, wait), "calls": (attempt,)},
        {"event": "answered", "status": "running", "interrupts": (), "executor_id": second},
        {"event": "paused", "status": "paused"},
        {"event": "resumed", "status": "running", "executor_id": executor_id(3)},
        {"event": "migrated", "graph_hash": "d4" * 32, "runtime_hash": "e5" * 32, "definition": {"nodes": []}},
        {"event": "failed", "status": "failed", "error": error, "last_node": "plan"},
        {"event": "resumed", "status": "running", "frontier": ()},
        {"event": "pause_requested", "executor_id": second, "last_node": None},
        {"event": "cancel_requested", "executor_id": second},
        {"event": "cancelled", "status": "cancelled"},
    ):
        steps.append(follow(steps[-1], **fields))
    return steps


@group.check(
    "every_field",
    "Every field of a checkpoint comes back, for every event and status.",
    contract="value.1, value.8, log.11",
    usual_cause="The fields are copied one by one into columns, and one was forgotten.",
    version=2,
)
async def every_field(kit: Kit) -> None:
    handle = await kit.open()
    steps = _rich_run()
    for checkpoint in steps:
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_latest("rich.run:1"), f"read_latest after the event {checkpoint.event!r}")
    for checkpoint in steps:
        found = await handle.read_at_step("rich.run:1", checkpoint.step)
        same(checkpoint, found, f"read_at_step of the event {checkpoint.event!r}")


@group.check(
    "text",
    "Text comes back code point by code point: NUL, astral characters, NFC and NFD.",
    contract="value.4, value.7",
    usual_cause="A column type that drops or refuses NUL, a normalisation, or utf8 of three bytes.",
)
async def text(kit: Kit) -> None:
    state = {
        "nul": "a\u0000b",
        "only_nul": "\u0000",
        "astral": "\U0001f600\U0010ffff",
        "nfc": "\u00e9",
        "nfd": "e\u0301",
        "both": ["\u00e9", "e\u0301", "\ufb01", "fi"],
        "controls": "".join(map(chr, range(0x20))) + "\u007f\u0085\u2028\u2029\ufeff\ufffe",
        "blank": "  \t a \n",
        "empty": "",
        "windows": "a\r\nb\rc",
        "quotes": "\"'`\\%_;--/*",
        "looks_like": ["null", "true", "1", "NaN", "2026-03-04T12:00:00Z", "{}", "$ref"],
        "turkish": "İıßẞ",
        "rtl": "\u202eabc\u202c مرحبا",
    }
    await _round_trip(kit, state)


@group.check(
    "numbers",
    "Numbers keep their value and their type: -0.0, 1 and 1.0 and True, 64-bit integers, the smallest floats.",
    contract="value.3, value.7",
    usual_cause="A JSON column or a parser with one number type, or floats that are printed with too few digits.",
)
async def numbers(kit: Kit) -> None:
    state = {
        "negative_zero": -0.0,
        "zeros": [0, 0.0, -0.0, False],
        "ones": [1, 1.0, True],
        "int_bounds": [2**63 - 1, -(2**63), 2**53, 2**53 + 1, -(2**53) - 1],
        "floats": [
            0.1,
            1 / 3,
            5e-324,
            2.2250738585072014e-308,
            1.7976931348623157e308,
            1e16,
            1e15,
            1e22,
            123456789.125,
        ],
        "whole_floats": [1e0, 100.0, 1e100, -3.0],
    }
    await _round_trip(kit, state)


@group.check(
    "keys",
    "Any text can be a key, even an empty one, and keys that look alike stay apart.",
    contract="value.2",
    usual_cause="Keys become columns, paths or attributes, or are normalised.",
)
async def keys(kit: Kit) -> None:
    members: dict[str, JsonValue] = {
        "": "empty",
        " ": "blank",
        "a.b": 1,
        "a": {"b": 2, "": {"": 3}},
        "\u0000": 4,
        "\u00e9": 5,
        "e\u0301": 6,
        "A": 7,
        "__class__": 8,
        "$ne": 9,
        "0": 10,
        "00": 11,
        "\U0001f600": 12,
        "k" * 500: 13,
    }
    await _round_trip(kit, {**members, "inside": members, "list": [members]})


@group.check(
    "key_order",
    "Keys come back in the order in which they were written.",
    contract="value.1, value.2",
    usual_cause="jsonb, or a dump with sorted keys.",
)
async def key_order(kit: Kit) -> None:
    members: dict[str, JsonValue] = {"b": 1, "a": 2, "10": 3, "9": 4, "aa": 5, "B": 6, "z": {"y": 1, "x": 2}}
    await _round_trip(kit, {"zz": members, "aa": [members], "mm": dict(reversed(members.items()))}, members)


@group.check(
    "empties",
    "null, empty lists, empty objects and absent members stay what they are.",
    contract="value.2",
    usual_cause="Empty values are left out of the record, or null is stored as absence.",
)
async def empties(kit: Kit) -> None:
    await _round_trip(kit, {"null": None, "list": [], "object": {}, "nested": [[], {}, [None], {"a": None}, [[]]]}, {})
    await _round_trip_second(kit)


async def _round_trip_second(kit: Kit) -> None:
    """An empty state, and an update that is None and not empty."""
    handle = await kit.open()
    first = begin("empty", state={}, update=None)
    second = follow(first, state={}, update={})
    for checkpoint in (first, second):
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_at_step("empty", checkpoint.step), "read_at_step of an empty state")


@group.check(
    "depth",
    "60 levels of nesting come back.",
    contract="value.5",
    usual_cause="A recursive walk, or a parser with a lower bound.",
)
async def depth(kit: Kit) -> None:
    lists: JsonValue = "bottom"
    mixed: JsonValue = 1
    for level in range(59):
        lists = [lists]
        mixed = {"in": mixed} if level % 2 else [mixed]
    await _round_trip(kit, {"lists": lists, "mixed": mixed})


@group.check(
    "megabytes",
    "A state of some megabytes comes back.",
    contract="value.5",
    usual_cause="A column, a message or a page of the store that is too small, or cuts off.",
    version=2,
)
async def megabytes(kit: Kit) -> None:
    text = "stargraph é\u0000 " * 50_000 + noise(kit.random, 3 * 2**20)
    state: dict[str, JsonValue] = {"text": text, "many": list(range(50_000))}
    handle = await kit.open()
    first = begin(state=state)
    await handle.write(first)
    same(first, await handle.read_latest("run"), "read_latest('run') of a state of two megabytes")


@group.check(
    "sixty_four_mebibytes",
    "A state of 64 MiB comes back.",
    contract="value.5",
    usual_cause="A limit of the store below: split the record, and say so in the driver's documentation.",
    version=2,
    needs=("values.megabytes",),
    quick=False,
    deadline=120,
)
async def sixty_four_mebibytes(kit: Kit) -> None:
    handle = await kit.open()
    parts = {f"part-{number:02d}": noise(kit.random, 2**20) for number in range(63)}
    first = begin(state=parts | {"rest": noise(kit.random, 2**20 - 512)})
    await handle.write(first)
    same(first, await handle.read_latest("run"), "read_latest('run') of a state of 64 MiB")


@group.check(
    "instants",
    "Times come back to the microsecond, as the same instant, in UTC.",
    contract="value.10",
    usual_cause="Times are stored as float seconds, in milliseconds, or without their offset.",
)
async def instants(kit: Kit) -> None:
    handle = await kit.open()
    zone = timezone(timedelta(hours=-3, minutes=-30))
    moments = [
        datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=UTC),
        datetime(2038, 1, 19, 3, 14, 8, 999_999, tzinfo=zone),
        datetime(1970, 1, 1, 0, 0, 0, 100, tzinfo=UTC),
        datetime(1965, 5, 6, 7, 8, 9, 123_457, tzinfo=UTC),
        datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, 0, 0, tzinfo=zone),
    ]
    for number, moment in enumerate(moments):
        first = begin(f"run-{number}", timestamp=moment)
        second = follow(first, timestamp=moment, task_started_at=moment, task_id="t")
        for checkpoint in (first, second):
            await handle.write(checkpoint)
            found = await handle.read_at_step(checkpoint.run_id, checkpoint.step)
            same(checkpoint, found, f"read_at_step of a checkpoint of {moment.isoformat()}")


@group.check(
    "seal",
    "The seal comes back with the checkpoint, although the digest does not cover it; a retry with another seal changes "
    "nothing.",
    contract="value.1, log.5, rule.3",
    usual_cause="The seal was taken for a part of what the digest covers, and is not stored; or a cache keeps what a "
    "retry brought, and not what is stored.",
    version=2,
)
async def seal(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    first = begin().sealed(Seal(key_id="key-1", mac="ab" * 32))
    second = follow(first)
    await handle.write(first)
    await other.write(first.sealed(Seal(key_id="key-2", mac="cd" * 32)))
    for reader in (handle, other):
        same(
            first,
            await reader.read_latest("run"),
            "read_latest of a checkpoint that was written again with another seal",
        )
    await handle.write(second)
    await other.write(second.sealed(Seal(key_id="key-2", mac="cd" * 32)))
    for reader in (handle, other):
        same(first, await reader.read_at_step("run", 0), "read_at_step of a sealed checkpoint")
        same(second, await reader.read_latest("run"), "read_latest of a checkpoint without a seal")


@group.check(
    "altered_refused",
    'A checkpoint that its digest does not cover is refused (reason "invalid-checkpoint"); nothing is stored.',
    contract="log.8, log.9, log.10, rule.1",
    usual_cause="The fields are stored without codec.encode or ensure_valid, which check them.",
)
async def altered_refused(kit: Kit) -> None:
    handle = await kit.open()
    await handle.write(begin("other"))
    good = chain(length=2, state={"count": 0, "list": [1]})
    replaced = good[0].model_copy(update={"state": {"count": 1}})
    renamed = good[0].model_copy(update={"run_id": "somebody-else"})
    reassigned = begin(state={"count": 0, "list": [1]})
    reassigned.state["count"] = 7
    unchecked = Checkpoint.model_construct(**{**good[0].__dict__, "state": {"count": float("nan")}})
    forged = {"another state": replaced, "another run id": renamed, "a state that was changed in place": reassigned}
    for name, checkpoint in (forged | {"NaN in its state": unchecked}).items():
        await _refuse_invalid(handle, checkpoint, f"{naming(checkpoint)} of a checkpoint with {name}")
        absent(await handle.read_latest(checkpoint.run_id), "read_latest after an invalid checkpoint was refused")
    await handle.write(good[0])
    following = good[1].model_copy(update={"status": "done"})
    await _refuse_invalid(handle, following, f"{naming(following)} of a checkpoint with another status")
    same(good[0], await handle.read_latest("run"), "read_latest('run') after an invalid step 1 was refused")


async def _refuse_invalid(handle: Handle, checkpoint: Checkpoint, what: str) -> None:
    try:
        await handle.write(checkpoint)
    except CheckpointError as error:
        if error.reason != "invalid-checkpoint":
            raise Violation(
                f"{what} raised {error_line(error)}; the contract wants the reason 'invalid-checkpoint'"
            ) from error
    except StateError:
        return
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants CheckpointError") from error
    else:
        raise Violation(f"{what} succeeded; the contract wants CheckpointError(reason='invalid-checkpoint')")


@group.check(
    "writer_keeps_no_hold",
    "Changing an object after it was written does not change what is stored.",
    contract="value.11",
    usual_cause="The store keeps the caller's object instead of its encoded form.",
)
async def writer_keeps_no_hold(kit: Kit) -> None:
    handle = await kit.open()
    mine = begin(state={"list": [1], "object": {"a": 1}}, metadata={"team": "blue"})
    untouched = begin(state={"list": [1], "object": {"a": 1}}, metadata={"team": "blue"})
    await handle.write(mine)
    mine.state["list"].append("changed after the write")
    mine.state["object"]["a"] = "changed after the write"
    mine.state["more"] = 1
    mine.metadata["team"] = "red"
    same(untouched, await handle.read_latest("run"), "read_latest('run') after the writer changed its object")
    same(untouched, await handle.read_at_step("run", 0), "read_at_step('run', 0) after the writer changed its object")


@group.check(
    "reader_keeps_no_hold",
    "Changing an object that was read does not change what is stored, nor what others read.",
    contract="value.11, value.13",
    usual_cause="A cache hands out one object to all readers.",
)
async def reader_keeps_no_hold(kit: Kit) -> None:
    handle = await kit.open()
    written = begin(state={"list": [1], "object": {"a": 1}}, metadata={"team": "blue"})
    await handle.write(written)
    for read in (handle.read_latest, lambda run_id: handle.read_at_step(run_id, 0)):
        found = same(written, await read("run"), "the first read")
        found.state["list"].append("changed by a reader")
        found.state["object"]["a"] = "changed by a reader"
        found.metadata["team"] = "red"
    untouched = begin(state={"list": [1], "object": {"a": 1}}, metadata={"team": "blue"})
    same(untouched, await handle.read_latest("run"), "read_latest('run') after a reader changed its object")
    same(untouched, await handle.read_at_step("run", 0), "read_at_step('run', 0) after a reader changed its object")
    (summary,) = await handle.list_runs()
    summary.metadata["team"] = "red"
    (summary,) = await handle.list_runs()
    if summary.metadata != {"team": "blue"}:
        raise Violation(f"list_runs() gave the metadata {summary.metadata} after a reader changed what it was given")
