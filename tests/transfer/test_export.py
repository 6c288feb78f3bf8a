"""Exports: one portable file, refused with its line if it was cut or edited."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.checkpoints import HARD_STATE, rich
from support.memory import MemoryCheckpointer
from support.places import Place
from support.records import chain, first, following

from stargraph.audit import verify
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunDeletion, RunHistory
from stargraph.errors import CheckpointConflictError, StargraphError, StoreVersionError
from stargraph.transfer import TransferReport, export_runs, import_runs
from stargraph.transfer._lines import LineWriter, RunLine
from stargraph.transfer._transfer import head_of

KEYRING = Keyring({"k1": b"a secret of 16 bytes or more"})


async def exported(place: Place, *run_ids: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    async with place.open() as store:
        await export_runs(store, stream, run_ids or None, **options)
    return stream.getvalue()


class Pipe(io.BytesIO):
    """What cannot be read twice."""

    def seekable(self) -> bool:
        return False


async def memory() -> MemoryCheckpointer:
    store = MemoryCheckpointer()
    await store.bootstrap()
    return store


async def log(store: Checkpointer, run_id: str) -> list[Checkpoint]:
    assert isinstance(store, RunHistory)
    return [checkpoint async for checkpoint in store.history(run_id)]


async def test_what_was_exported_comes_back_equal_on_every_driver(file: Place, place: Place) -> None:
    hard = [KEYRING.seal(step) for step in chain("hard", 3, state={"count": 0, **HARD_STATE})]
    parent = first("rich", state=HARD_STATE, metadata={"team": "α", "": ""}, definition={"a": 1.0}, update={"": [1.0]})
    await file.write(*hard, parent, following(parent), *chain("long", 70, end="done"))
    text = await exported(file)
    assert json.loads(text.splitlines()[0])["format"] == "stargraph-export"
    for stream in (io.BytesIO(text), Pipe(text)):
        async with place.open() as store:
            report = await import_runs(store, stream)
        assert report.runs == 3
    assert report == TransferReport(runs=3, steps=0, present=75)
    async with file.open() as one, place.open() as other:
        for run_id in ("hard", "rich", "long"):
            mine, theirs = await log(one, run_id), await log(other, run_id)
            assert mine == theirs
            assert [list(step.state.items()) for step in mine] == [list(step.state.items()) for step in theirs]
        assert (await verify(other)).sound
    assert _without_time(await exported(place)) == _without_time(text)


def _without_time(text: bytes) -> list[bytes]:
    """The lines between the first, which has the time, and the last, which covers the first."""
    return text.splitlines()[1:-1]


async def test_every_field_of_a_checkpoint_is_in_its_line() -> None:
    step = rich()
    stream = io.BytesIO()
    lines = LineWriter(stream)
    lines.checkpoint(KEYRING.seal(step))
    shown = json.loads(stream.getvalue())["checkpoint"]
    assert shown.pop("form") == 1
    assert shown == KEYRING.seal(step).model_dump(mode="json")
    assert Checkpoint.model_validate(shown) == KEYRING.seal(step)


async def two_runs(place: Place) -> list[bytes]:
    await place.write(*chain("a", 3), *chain("b", 2, end="done"))
    return (await exported(place)).splitlines(keepends=True)


async def refused(text: bytes, *, pipe: bool = False) -> tuple[str, MemoryCheckpointer]:
    store = await memory()
    with pytest.raises(StargraphError) as raised:
        await import_runs(store, Pipe(text) if pipe else io.BytesIO(text))
    assert raised.value.reason == "invalid-export"
    return raised.value.message, store


async def test_a_file_that_was_cut_is_refused_wherever_it_was_and_nothing_is_stored(file: Place) -> None:
    lines = await two_runs(file)
    text = b"".join(lines)
    assert len(lines) == 9
    ends = [sum(map(len, lines[:number])) for number in range(len(lines))]
    for number, end in enumerate(ends):
        for cut in {end, end + 1, end + len(lines[number]) - 1}:
            message, store = await refused(text[:cut])
            assert f", line {number + 1}: the file was cut off here" in message
            assert not store.runs


async def test_from_a_pipe_the_whole_file_finishes_what_a_cut_one_began(file: Place) -> None:
    lines = await two_runs(file)
    for number in range(len(lines)):
        message, store = await refused(b"".join(lines[:number]), pipe=True)
        assert f"line {number + 1}" in message
        before = sum(map(len, store.runs.values()))
        report = await import_runs(store, Pipe(b"".join(lines)))
        assert (report.runs, report.steps, report.present) == (2, 5 - before, before)


Edit = Callable[[list[bytes]], list[bytes]]


def _line(number: int, old: bytes, new: bytes) -> Edit:
    def edit(lines: list[bytes]) -> list[bytes]:
        assert old in lines[number - 1]
        return [*lines[: number - 1], lines[number - 1].replace(old, new, 1), *lines[number:]]

    return edit


def _forged(edit: Edit) -> Edit:
    """The same by somebody who can compute a SHA-256."""

    def edited(lines: list[bytes]) -> list[bytes]:
        *before, last = edit(lines)
        shown = json.loads(last)
        shown["end"]["sha256"] = hashlib.sha256(b"".join(before)).hexdigest()
        return [*before, json.dumps(shown).encode() + b"\n"]

    return edited


def _without(number: int) -> Edit:
    return lambda lines: [*lines[: number - 1], *lines[number:]]


def _swapped(number: int) -> Edit:
    return lambda lines: [*lines[: number - 1], lines[number], lines[number - 1], *lines[number + 1 :]]


# The lines: 1 the header, 2 run a, 3 to 5 its steps, 6 run b, 7 and 8 its steps, 9 the end.
EDITS: dict[str, tuple[Edit, int, str]] = {
    "another format": (_line(1, b"stargraph-export", b"stargraph-import"), 1, "this is not an export"),
    "the time of the export": (_line(1, b'"exported_at":"2', b'"exported_at":"3'), 9, "was edited"),
    "a value": (_line(4, b'"count":1', b'"count":7'), 4, "was edited"),
    "a value, new end": (_forged(_line(4, b'"count":1', b'"count":7')), 4, "was edited"),
    "the type of a value": (_forged(_line(4, b'"count":1', b'"count":1.0')), 4, "was edited"),
    "a field": (_forged(_line(4, b'"graph_id":"graph"', b'"graph_id":"grasp"')), 4, "was edited"),
    "an unknown field": (_forged(_line(4, b'"step":1', b'"extra":1,"step":1')), 4, "not a checkpoint"),
    "a missing field": (_forged(_line(4, b'"executor_id"', b'"exekutor"')), 4, "not a checkpoint"),
    "no json": (_line(7, b"{", b"["), 7, "not JSON"),
    "no object": (lambda lines: [*lines[:2], b"[1]\n", *lines[3:]], 3, "not a JSON object"),
    "the head of a run": (_forged(_line(2, b'"step":2', b'"step":1')), 5, "not the last step"),
    "the digest of a run": (_forged(_line(2, b'"digest":"', b'"digest":"x')), 2, "a run or the end was expected"),
    "a step gone": (_forged(_without(4)), 5, "lines are missing"),
    "the first step gone": (_forged(_without(3)), 3, "step 0 was expected here, and not step 1"),
    "the last step gone": (_forged(_without(5)), 5, "lines are missing"),
    "a run line gone": (_forged(_without(6)), 6, "a run or the end was expected"),
    "two steps swapped": (_forged(_swapped(4)), 5, "step 3 was expected here, and not step 1"),
    "steps of two runs swapped": (_forged(lambda lines: _swapped(5)(_swapped(6)(lines))), 5, "is among those of 'a'"),
    "the counts": (_line(9, b'"runs":2', b'"runs":3'), 9, "was edited"),
    "text behind the end": (lambda lines: [*lines, b"{}\n"], 10, "something follows"),
}


@pytest.mark.parametrize(("line", "name"), [(1, b"version"), (3, b"form")])
async def test_a_newer_export_is_refused_as_such(file: Place, line: int, name: bytes) -> None:
    lines = _line(line, b'"%b":1' % name, b'"%b":2' % name)(await two_runs(file))
    store = MemoryCheckpointer()
    await store.bootstrap()
    with pytest.raises(StoreVersionError, match=f"line {line}: .* 2, and this software reads 1") as refused:
        await import_runs(store, io.BytesIO(b"".join(lines)))
    assert (refused.value.reason, bool(refused.value.hint)) == ("newer-format", True)
    assert not store.runs


@pytest.mark.parametrize("case", EDITS)
async def test_an_edited_file_is_refused_with_the_line_and_nothing_is_stored(file: Place, case: str) -> None:
    edit, number, complaint = EDITS[case]
    message, store = await refused(b"".join(edit(await two_runs(file))))
    assert message.startswith(f"the export, line {number}: ")
    assert complaint in message
    assert not store.runs


async def test_steps_of_two_chains_are_refused() -> None:
    one, other = chain("a", 3), chain("a", 3)
    stream = io.BytesIO()
    lines = LineWriter(stream)
    lines.header()
    lines.run(RunLine(head=head_of(other[2]), first_step=0, steps=3))
    for checkpoint in (one[0], *other[1:]):
        lines.checkpoint(checkpoint)
    lines.end()
    message, _ = await refused(stream.getvalue())
    assert "line 4: step 1 does not follow the step before it" in message


async def test_a_re_chained_forgery_needs_the_key(file: Place) -> None:
    genuine = [KEYRING.seal(step) for step in chain("a", 3)]
    forged = [genuine[0], *(made := [following(genuine[0], changes={"count": 1000})]), following(made[0])]
    await file.write(*forged)
    text = await exported(file)
    store = await memory()
    assert (await import_runs(store, io.BytesIO(text))).runs == 1
    store = await memory()
    report = await import_runs(store, io.BytesIO(text), keyring=KEYRING)
    assert [refusal.reason for refusal in report.refused] == ["unsealed"]


async def test_a_line_may_be_huge(file: Place) -> None:
    run = chain("a", 2, state={"count": 0, "text": "x" * 30_000_000})
    await file.write(*run)
    store = await memory()
    report = await import_runs(store, Pipe(await exported(file)))
    assert report.steps == 2
    assert store.runs["a"] == run


class Hasty(MemoryCheckpointer):
    """Loses step 2 once everything was read."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        found = await super().read_at_step(run_id, step)
        if step == 7 and (run_id, 2) in self.records:
            self.damage(run_id, 2, None)
        return found


async def test_a_large_run_that_loses_a_step_while_it_is_exported_fails_the_export() -> None:
    store = Hasty()
    await store.bootstrap()
    for checkpoint in chain("a", 8, state={"count": 0, "text": "x" * 3_000_000}):
        await store.write(checkpoint)
    stream = io.BytesIO()
    store.read_latest = lambda run_id: MemoryCheckpointer.read_at_step(store, run_id, 7)  # type: ignore[method-assign]
    with pytest.raises(CheckpointConflictError) as raised:
        await export_runs(store, stream)
    assert raised.value.reason == "missing-steps"  # its store prunes nothing
    with pytest.raises(StargraphError, match=r"lines are missing|cut off"):
        await import_runs(await memory(), io.BytesIO(stream.getvalue()))


async def test_a_line_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, file: Place) -> None:
    monkeypatch.setattr("stargraph.transfer._lines.MAX_LINE", 500)
    lines = await two_runs(file)
    message, _ = await refused(b"".join(lines))
    assert "line 3: the line is longer than 500 bytes" in message


async def test_a_driver_that_cannot_begin_a_pruned_run_refuses_it_from_a_file(file: Place) -> None:
    await file.write(*chain("a", 6, end="done"), *chain("b", 2))
    async with file.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=datetime(2030, 1, 1, tzinfo=UTC), keep_last=2)
    text = await exported(file)
    assert b'"first_step":4,"steps":2' in text
    other = await memory()
    report = await import_runs(other, io.BytesIO(text))
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "pruned")]
    assert list(other.runs) == ["b"]


async def test_another_run_of_the_same_id_is_refused_and_left_as_it_is(file: Place) -> None:
    mine, theirs = chain("a", 4), chain("a", 2)
    await file.write(*mine)
    text = await exported(file)
    for there in (theirs, [*theirs, following(theirs[-1]), following(following(theirs[-1]))], mine[:2]):
        store = await memory()
        for checkpoint in there[:3]:
            await store.write(checkpoint)
        report = await import_runs(store, io.BytesIO(text))
        if there == mine[:2]:
            assert (report.steps, report.present) == (2, 2)
        else:
            assert [refusal.reason for refusal in report.refused] == ["diverged"]
            assert store.runs["a"] == there[:3]


async def test_a_damaged_run_is_left_out_of_an_export(file: Place) -> None:
    await file.write(*chain("a", 4), *chain("b", 2))
    await file.put("a", 2, b"\x02\x00{}")
    stream = io.BytesIO()
    async with file.open() as store:
        report = await export_runs(store, stream)
    assert [(refusal.run_id, refusal.reason) for refusal in report.refused] == [("a", "corrupted-record")]
    other = await memory()
    assert (await import_runs(other, io.BytesIO(stream.getvalue()))).runs == 1
