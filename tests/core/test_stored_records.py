"""The stored form: damage is noticed, whatever it is."""

from __future__ import annotations

import hashlib
import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import chain, following, genesis, rich

from stargraph.checkpoint.codec import RECORD_VERSION, decode, encode
from stargraph.checkpoint.protocol import Checkpoint, canonical
from stargraph.errors import CheckpointCorruptedError, StargraphError, StoreVersionError

HEADER = bytes((RECORD_VERSION, 0))


def _read(record: bytes, checkpoint: Checkpoint) -> Checkpoint:
    return decode(record, run_id=checkpoint.run_id, step=checkpoint.step)


def _refused_or_the_same(record: bytes, checkpoint: Checkpoint) -> bool:
    """Read a damaged record; tell whether it was refused. What is read must be what was written."""
    try:
        back = _read(record, checkpoint)
    except (CheckpointCorruptedError, StoreVersionError):
        return True
    assert back.digest == checkpoint.digest
    assert canonical(back.model_dump(mode="json", exclude={"seal"})) == canonical(
        checkpoint.model_dump(mode="json", exclude={"seal"})
    )
    return False


def test_it_begins_with_its_version_and_kind() -> None:
    assert encode(genesis())[:2] == HEADER
    assert orjson.loads(encode(genesis())[2:])["run_id"] == "run-1"


def test_every_flipped_bit_is_refused_or_changes_nothing() -> None:
    whole = following(genesis(state={"é": [1, 1.0, True, "a\0"], "": -0.0}, metadata={"a": "b"}), changes={"n": 12})
    record = encode(whole)
    refused = 0
    for position in range(len(record)):
        for bit in range(8):
            damaged = bytearray(record)
            damaged[position] ^= 1 << bit
            refused += _refused_or_the_same(bytes(damaged), whole)
    assert refused > 0.99 * len(record) * 8


@given(st.randoms(use_true_random=False))
def test_random_damage_is_refused_or_changes_nothing(chance: random.Random) -> None:
    whole = rich()
    damaged = bytearray(encode(whole))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(damaged))
        kind = chance.choice(("replace", "insert", "delete", "swap"))
        if kind == "replace":
            damaged[at] = chance.randrange(256)
        elif kind == "insert":
            damaged.insert(at, chance.randrange(256))
        elif kind == "delete":
            del damaged[at : at + chance.randint(1, 9)]
        else:
            other = chance.randrange(len(damaged))
            damaged[at], damaged[other] = damaged[other], damaged[at]
    if damaged:
        _refused_or_the_same(bytes(damaged), whole)


def test_every_truncated_record_is_refused() -> None:
    whole = rich()
    record = encode(whole)
    for length in range(len(record)):
        with pytest.raises(CheckpointCorruptedError) as raised:
            _read(record[:length], whole)
        assert raised.value.reason == "corrupted-record"


@pytest.mark.parametrize("tail", [b"x", b"{}", b"\0", encode(genesis())])
def test_a_record_with_something_behind_it_is_refused(tail: bytes) -> None:
    with pytest.raises(CheckpointCorruptedError):
        _read(encode(genesis()) + tail, genesis())


@pytest.mark.parametrize(("run_id", "step"), [("run-2", 1), ("RUN-1", 1), ("run-1", 0), ("run-1", 2)], ids=str)
def test_a_record_of_another_place_is_refused(run_id: str, step: int) -> None:
    with pytest.raises(CheckpointCorruptedError, match="it is step 1 of run 'run-1'") as raised:
        decode(encode(chain(2)[1]), run_id=run_id, step=step)
    assert (raised.value.reason, raised.value.run_id, raised.value.step) == ("corrupted-record", run_id, step)


@pytest.mark.parametrize("version", [RECORD_VERSION + 1, 99, 255])
@pytest.mark.parametrize("rest", [b"", b"\0", b"anything"])
def test_a_newer_record_is_refused_as_such(version: int, rest: bytes) -> None:
    with pytest.raises(StoreVersionError, match=f"version {version}, and this software reads up to 1") as raised:
        decode(bytes((version,)) + rest, run_id="r", step=0)
    assert raised.value.reason == "newer-format"
    assert raised.value.hint


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "it does not begin like a record"),
        (b"\x00\x00{}", "it does not begin like a record"),
        (b"\x01\x07{}", "it does not begin like a record"),
        (HEADER + b"null", "it is not an object"),
        (HEADER + b"[]", "it is not an object"),
        (HEADER + b'"x"', "it is not an object"),
        (HEADER + b"{}", "the state and the update are objects"),
        (HEADER + b'{"state":[],"update":null}', "the state and the update are objects"),
        (HEADER + b'{"state":{},"update":1}', "the state and the update are objects"),
        (HEADER + b'{"state":{},"update":null}', "run_id: Field required"),
        (HEADER + b'{"state":{"a":NaN},"update":null}', "unexpected"),
        (HEADER + b"[" * 100_000, "depth limit"),
        (HEADER + b'{"a":' * 100_000, "depth limit"),
        (HEADER + b'{"state":{"a":' + b"[" * 500 + b"]" * 500 + b'},"update":null}', ""),
        (HEADER + b"\xff\xfe", ""),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_what_was_never_a_record_is_refused_plainly(body: bytes, complaint: str) -> None:
    with pytest.raises(CheckpointCorruptedError) as raised:
        decode(body, run_id="r", step=3)
    assert raised.value.message.startswith("run 'r', step 3: the stored record is not what was written: ")
    assert complaint in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def _forged(**changes: object) -> bytes:
    fields = orjson.loads(encode(genesis(state={"a": 1}))[2:]) | changes
    return HEADER + orjson.dumps(fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "done"},
        {"state": {"a": 2}},
        {"state": {"a": 1.0}},
        {"state": {"a": True}},
        {"state": {"b": 1}},
        {"update": {}},
        {"graph_id": "other"},
        {"timestamp": "2026-01-31T09:05:07.000121Z"},
        {"metadata": {"a": "b"}},
        {"digest": hashlib.sha256().hexdigest()},
        {"step": 1, "event": "completed"},
        {"previous_digest": "0" * 64},
        {"unknown": None},
    ],
    ids=str,
)
def test_a_changed_field_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointCorruptedError):
        decode(_forged(**changes), run_id="run-1", step=0)


def test_another_order_or_spelling_of_the_same_values_is_read() -> None:
    """The digest is a function of the values, not of their text."""
    first = genesis(state={"b": 1, "a": "é"})
    fields = orjson.loads(encode(first)[2:])
    spelled = HEADER + orjson.dumps(dict(reversed(fields.items())), option=orjson.OPT_INDENT_2)
    assert _read(spelled, first) == first
    with_offset = fields | {"timestamp": "2026-01-31T10:05:07.000120+01:00"}
    assert _read(HEADER + orjson.dumps(with_offset), first) == first


def test_a_corrupted_record_is_not_quoted() -> None:
    secret = {"password": "hunter2"}
    for damaged in (
        _forged(metadata={"password": ["hunter2"]}),
        _forged(error={"type": "hunter2"}),
        _forged(state=secret),
        encode(genesis(state=secret))[:-1],
    ):
        with pytest.raises(StargraphError) as raised:
            decode(damaged, run_id="run-1", step=0)
        assert "hunter2" not in repr(raised.value) + str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__
