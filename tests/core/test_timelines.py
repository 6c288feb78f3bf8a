"""Rows of a timeline: what was recorded, read from the beginning of each record, or an error."""

from __future__ import annotations

import random

import pytest
from support.checkpoints import NOW, following, genesis
from support.golden_records import KEYS

from stargraph.checkpoint.codec import PREFIX_BYTES, Cipher, Codec, RecordCutError
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, RecordedCall, StepSummary
from stargraph.errors import CheckpointCorruptedError, StoreVersionError


def _run(*, large: int = 0, steps: int = 40) -> list[Checkpoint]:
    chance = random.Random(7)
    run = [genesis(run_id="r", state={"n": 0, "large": chance.randbytes(large).hex(), "gone": 1}, update={"n": 0})]
    while len(run) < steps:
        number = len(run)
        call = RecordedCall(kind="call", task_id="t", name="fetch", result={"secret": number}, started_at=NOW)
        failed = call.model_copy(update={"result": None, "error": ErrorInfo(type="OSError", message="no route")})
        run.append(
            following(
                run[-1],
                event="called" if number % 3 == 0 else "completed",
                calls=(call, failed) if number % 3 == 0 else (),
                changes={"n": number, f"f{number}": "x"},
                removed=("gone",) if number % 5 == 0 else (f"f{number - 2}",),
                update={"n": number} if number % 2 else None,
                last_node="work",
            )
        )
    return run


def _stored(run: list[Checkpoint], codec: Codec) -> dict[int, bytes]:
    records = {}
    for checkpoint in run:
        record = codec.encode(checkpoint)
        codec.appended(record)
        records[checkpoint.step] = record.data
    return records


def _rows(run: list[Checkpoint], records: dict[int, bytes]) -> list[StepSummary]:
    before = [None, *run]
    return [
        StepSummary.from_checkpoint(checkpoint, earlier, size=len(records[checkpoint.step]))
        for checkpoint, earlier in zip(run, before, strict=False)
    ]


@pytest.mark.parametrize("cipher", [None, Cipher.parse(KEYS)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("large", [0, 200_000])
def test_a_row_is_that_of_its_checkpoint(cipher: Cipher | None, large: int) -> None:
    run, codec = _run(large=large), Codec(cipher=cipher)
    records = _stored(run, codec)
    rows = _rows(run, records)
    assert codec.summarize(records, run_id="r", steps=range(40)) == rows
    assert codec.summarize(records, run_id="r", steps=[7, 20, 21]) == [rows[7], rows[20], rows[21]]
    assert "secret" not in rows[3].model_dump_json()
    assert StepSummary.model_validate_json(rows[3].model_dump_json()) == rows[3]


def test_the_beginning_of_a_record_is_enough() -> None:
    run, codec = _run(large=400_000, steps=3), Codec()
    records = _stored(run, codec)
    prefixes = {step: record[:PREFIX_BYTES] for step, record in records.items()}
    sizes = {step: len(record) for step, record in records.items()}
    assert sizes[0] > 2 * PREFIX_BYTES
    assert codec.summarize(prefixes, run_id="r", steps=range(3), sizes=sizes) == _rows(run, records)


@pytest.mark.parametrize("cipher", [None, Cipher.parse(KEYS)], ids=["a long event", "encrypted"])
def test_more_is_asked_for_if_the_beginning_does_not_tell_the_event(cipher: Cipher | None) -> None:
    noise = random.Random(3).randbytes(200_000).hex()
    call = RecordedCall(kind="call", task_id="t", name="fetch", result=noise, started_at=NOW)
    run = [genesis(run_id="r", state={"noise": noise})]
    run.append(following(run[0], event="called", calls=(call,)))
    codec = Codec(cipher=cipher)
    records = {checkpoint.step: codec.encode_alone(checkpoint).data for checkpoint in run}
    sizes = {step: len(record) for step, record in records.items()}
    with pytest.raises(RecordCutError) as cut:
        codec.summarize(records | {1: records[1][:PREFIX_BYTES]}, run_id="r", steps=[1], sizes=sizes)
    assert cut.value.step == 1
    assert codec.summarize(records, run_id="r", steps=[0, 1], sizes=sizes) == _rows(run, records)


def test_no_flipped_bit_makes_another_row() -> None:
    run, codec = _run(steps=6), Codec()
    records = _stored(run, codec)
    rows = _rows(run, records)
    refused = accepted = 0
    for step, record in records.items():
        for position in range(0, len(record) * 8, 3):
            damaged = bytearray(record)
            damaged[position // 8] ^= 1 << position % 8
            try:
                found = codec.summarize(records | {step: bytes(damaged)}, run_id="r", steps=range(6))
            except (CheckpointCorruptedError, StoreVersionError):
                refused += 1
            else:
                accepted += 1
                assert found == rows
    assert refused > 9 * accepted  # the others are in a state, which no row shows


def test_a_damaged_step_before_is_the_concern_of_its_own_row() -> None:
    run, codec = _run(steps=6), Codec()
    records = {checkpoint.step: codec.encode_alone(checkpoint).data for checkpoint in run}
    damaged = records | {4: records[4][:20]}
    row = _rows(run, records)[5]
    assert row.removed
    assert codec.summarize(damaged, run_id="r", steps=[5]) == [row.model_copy(update={"removed": ()})]
    with pytest.raises(CheckpointCorruptedError) as raised:
        codec.summarize(damaged, run_id="r", steps=[4, 5])
    assert raised.value.step == 4
