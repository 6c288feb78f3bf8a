"""The stored form: damage is noticed, whatever it is."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from dataclasses import replace
from zlib import crc32

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import chain, following, genesis, rich

from stargraph.checkpoint.codec import RECORD_VERSION, Codec, base_steps_of, decode, encode
from stargraph.checkpoint.codec._compression import MOST_BYTES
from stargraph.checkpoint.codec._delta import NOTHING, delta_between
from stargraph.checkpoint.codec._dictionary import DICTIONARY
from stargraph.checkpoint.codec._fields import BASE_CHECK_BYTES, fields_of
from stargraph.checkpoint.codec._stored import pack
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.values import canonical
from stargraph.errors import CheckpointCorruptedError, StargraphError, StoreVersionError

FIRST = 0xC0 | RECORD_VERSION

HEADER = bytes((FIRST, 0, 0))
"""A keyframe, neither compressed nor encrypted."""


def _fitting(body: bytes) -> bytes:
    """Put the check that fits before the literals of a body that was made by hand."""
    line, newline, literals = body.partition(b"\n")
    try:
        specs = list(orjson.loads(line)["f"].values())
    except (ValueError, TypeError, KeyError, AttributeError):
        specs = []
    event = literals[: sum(spec for spec in specs if isinstance(spec, int))]
    return line + newline + crc32(event, crc32(line)).to_bytes(4, "big") + literals


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


def _forged(checkpoint: Checkpoint, **changes: object) -> bytes:
    """A record whose content was changed by somebody who knows the form but not the digest."""
    texts = fields_of(checkpoint)
    for name, value in changes.items():
        if name == "state":
            texts = replace(texts, state={key: orjson.dumps(item) for key, item in value.items()})  # type: ignore[attr-defined]
        elif name == "update":
            texts = replace(texts, update={key: orjson.dumps(item) for key, item in value.items()})  # type: ignore[attr-defined]
        elif name == "digest":
            texts.fields["digests"] = bytes.fromhex(value)  # type: ignore[arg-type]
        elif name == "previous_digest":
            texts.fields["digests"] += bytes.fromhex(value)  # type: ignore[arg-type]
        elif name == "text":
            texts.fields["text"] = orjson.dumps(value)
        else:
            place = "run" if name in orjson.loads(texts.fields["run"]) else "event"
            texts.fields[place] = orjson.dumps(orjson.loads(texts.fields[place]) | {name: value})
    patch = delta_between(NOTHING, texts)
    return pack(checkpoint.run_id, checkpoint.step, patch, texts)


def test_it_begins_with_its_version_and_no_base() -> None:
    record = encode(genesis())
    assert (record[0], record[2]) == (FIRST, 0)
    assert base_steps_of(record, run_id="run-1", step=0) == ()
    assert _read(_forged(genesis()), genesis()) == genesis()


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


@pytest.mark.parametrize("version", [RECORD_VERSION + 1, 63])
@pytest.mark.parametrize("rest", [b"", b"\0", b"anything"])
def test_a_newer_record_is_refused_as_such(version: int, rest: bytes) -> None:
    shown = f"version {version}, and this software reads up to {RECORD_VERSION}"
    with pytest.raises(StoreVersionError, match=shown) as raised:
        decode(bytes((0xC0 | version,)) + rest, run_id="r", step=0)
    assert raised.value.reason == "newer-format"
    assert raised.value.hint


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "it does not begin like a record"),
        (b"\x00\x00{}", "it does not begin like a record"),
        (b"\xc1\x07\x00{}", "it does not begin like a record"),
        (b"\xc1\x00", "it does not begin like a record"),
        (b"\xc1\x00\x01", "it does not begin like a record"),
        (b"\xc1\x00\x01\x00{}", "it does not begin like a record"),
        (b"\xc1\x00\x01\x04{}", "it does not begin like a record"),
        (b"\xc1\x00\x02\x01\x02{}", "it does not begin like a record"),
        (b"\xc1\x00" + b"\xff" * 30, "it does not begin like a record"),
        (HEADER + b"{}", "subsection not found"),
        (HEADER + b"null\n", "it is not an object"),
        (HEADER + b"[]\n", "it is not an object"),
        (HEADER + b'"x"\n', "it is not an object"),
        (HEADER + b"{}\n", "'f'"),
        (HEADER + b'{"f":[],"s":{}}\n', "it is not an object"),
        (HEADER + b'{"f":{},"s":{}}\n', "it is not made of run, event and digests"),
        (HEADER + b'{"f":{"run":2,"event":2,"digests":1}}\n{}{}x', "its digests take 1 bytes"),
        (HEADER + b'{"f":{"run":2,"event":2,"digests":32}}\n{}[]' + b"x" * 32, "its run or event is not an object"),
        (HEADER + b'{"f":{"run":2,"event":2,"digests":32}}\n{}{}' + b"x" * 32, "run_id"),
        (HEADER + b'{"f":{"run":2,"event":3,"digests":32}}\n{}NaN' + b"x" * 32, "unexpected"),
        (HEADER + b'{"f":{"run":2,"event":2,"digests":32},"s":{"a":3}}\n{}{}' + b"x" * 32 + b"NaN", "unexpected"),
        (HEADER + b'{"f":{},"s":{"a":4}}\n1', "it ends too early"),
        (HEADER + b'{"f":{},"s":{"a":-1}}\n1', "it ends too early"),
        (HEADER + b'{"f":{},"s":{"a":1}}\n12', "it holds more than its scripts use"),
        (HEADER + b'{"f":{},"s":{"a":[0,1]}}\n', "it copies what its base does not have"),
        (HEADER + b'{"f":{},"s":{"a":[0]}}\n', "a script copies without a length"),
        (HEADER + b'{"f":{},"s":{"a":["0",1]}}\n', "a script holds what is not a number"),
        (HEADER + b'{"f":{},"s":{"a":1.5}}\n1', "a script is neither a number nor a list"),
        (HEADER + b'{"f":{},"s":{"a":1},"o":["b"]}\n1', "its order of the state is not that of the members"),
        (HEADER + b'{"f":{},"s":{"a":1},"o":["a","a"]}\n1', "its order of the state is not that of the members"),
        (HEADER + b'{"f":{},"s":{"a":[0,9223372036854775807]}}\n', "it copies what its base does not have"),
        (HEADER + b'{"f":{"unknown":1},"s":{}}\n1', ""),
        (HEADER + b"[" * 100_000 + b"\n", "depth limit"),
        (HEADER + b'{"f":{},"s":{"a":1000}}\n' + b"[" * 500 + b"]" * 500, ""),
        (HEADER + b"\xff\xfe\n", ""),
        (b"\xc1\x01\x00" + b"{}\n", "content size"),
        (b"\xc1\x01\x00\x28\xb5\x2f\xfd\x00\x58\x00\x00", "its compressed body does not say its size"),
        (b"\xc1\x02\x00" + b"\x01k" + b"\0" * 40, "it is encrypted, and no key was given"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_what_was_never_a_record_is_refused_plainly(body: bytes, complaint: str) -> None:
    if body.startswith(HEADER):
        body = HEADER + _fitting(body[len(HEADER) :])
    with pytest.raises(CheckpointCorruptedError) as raised:
        decode(body, run_id="r", step=3)
    assert raised.value.message.startswith("run 'r', step 3: the stored record ")
    assert complaint in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


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
        {"text": None},
    ],
    ids=str,
)
def test_a_changed_field_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointCorruptedError):
        decode(_forged(genesis(state={"a": 1}), **changes), run_id="run-1", step=0)


def test_another_spelling_of_the_same_values_is_read() -> None:
    """The digest is a function of the values, not of their text."""
    first = genesis(state={"b": 1, "a": "é"})
    assert _read(_forged(first, timestamp="2026-01-31T10:05:07.000120+01:00"), first) == first
    assert _read(_forged(first, state={"a": "é", "b": 1}), first) == first


def _bomb(size: int) -> bytes:
    """A compressed record of one field that is inflated to so many bytes."""
    body = _fitting(orjson.dumps({"f": {}, "s": {"a": size}}) + b"\n" + bytes(size))
    dictionary = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return bytes((FIRST, 1, 0)) + zstandard.ZstdCompressor(dict_data=dictionary).compress(body)


def test_a_record_that_would_fill_the_memory_is_refused_before_it_is_inflated() -> None:
    bomb = _bomb(MOST_BYTES)
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointCorruptedError, match="too large"):
            decode(bomb, run_id="run-1", step=0)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_base_that_differs_in_its_order_alone_is_refused() -> None:
    """The digest of a step says nothing of the order of its state."""
    first, other = genesis(state={"a": 1, "b": 2}), genesis(state={"b": 2, "a": 1}, metadata={"of": "another"})
    codec = Codec()
    codec.appended(codec.encode(first))
    record = codec.encode(following(first, changes={"a": 3, "b": 4}))
    assert record.base_steps == (0,)
    with pytest.raises(CheckpointCorruptedError, match="another step is stored in the place of its base"):
        Codec().decode({0: encode(other), 1: record.data}, run_id="run-1", step=1)


def test_a_record_that_copies_again_and_again_is_refused() -> None:
    first = genesis(state={"a": "x" * 2**20})
    again = [0, 2**20] * (MOST_BYTES // 2**20 + 1)
    line, base = orjson.dumps({"f": {}, "s": {"a": again}}), bytes.fromhex(first.digest)[:BASE_CHECK_BYTES]
    copies = bytes((FIRST, 0, 1, 1)) + line + b"\n" + crc32(base, crc32(line)).to_bytes(4, "big") + base
    with pytest.raises(CheckpointCorruptedError, match="makes more than"):
        Codec().decode({0: encode(first), 1: copies}, run_id="run-1", step=1)


def test_a_corrupted_record_is_not_quoted() -> None:
    secret = {"password": "hunter2"}
    for damaged in (
        _forged(genesis(), metadata={"password": ["hunter2"]}),
        _forged(genesis(), error={"type": "hunter2"}),
        _forged(genesis(), state=secret),
        encode(genesis(state=secret))[:-1],
    ):
        with pytest.raises(StargraphError) as raised:
            decode(damaged, run_id="run-1", step=0)
        assert "hunter2" not in repr(raised.value) + str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__
