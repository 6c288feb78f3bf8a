"""Values come back byte by byte, and can be read where their form allows it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from stargraph.checkpoint.values import MAX_DEPTH, EncodedValue
from stargraph.langgraph._values import Former, decode_value, encode_value


class Ticket(BaseModel):
    title: str
    priority: float = 1.0


@dataclass
class Point:
    x: int
    y: int


SERDE = JsonPlusSerializer()
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=8)
)
keys = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(["$", "$ ", ""]) | st.integers(-5, 5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def both_ways(typed: tuple[str, bytes], before: Former | None = None) -> EncodedValue:
    encoded = encode_value(typed, before)
    assert decode_value(encoded.value) == typed
    assert EncodedValue.of(encoded.value, "x").digest == encoded.digest
    return encoded


@given(values)
def test_any_msgpack_comes_back_byte_by_byte(value: Any) -> None:
    both_ways(("msgpack", ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)))


@given(st.text(max_size=8), st.binary(max_size=32))
def test_any_bytes_of_any_serializer_come_back(kind: str, data: bytes) -> None:
    both_ways((kind, data))


@pytest.mark.parametrize(
    "value",
    [
        HumanMessage("hi", id="1"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"a": [1, 2.0]}, "id": "t"}], id="2"),
        [HumanMessage("a", id="1"), AIMessage("b", id="2")],
        Ticket(title="t"),
        Point(1, 2),
        {"a": (1, 2), "b": {3, 4}},
        Decimal("1.10"),
        datetime(2026, 1, 31, tzinfo=UTC),
        uuid.UUID(int=7),
        b"\x00\xff",
        bytearray(b"x"),
        None,
        2**64 - 1,
        float("inf"),
        -0.0,
        {1: "a", "$": 2},
        {"$": "typed", "type": "x", "base64": ""},
        "plain",
    ],
    ids=repr,
)
def test_what_langgraph_stores_comes_back_as_it_was(value: Any) -> None:
    typed = SERDE.dumps_typed(value)
    both_ways((typed[0], bytes(typed[1])))
    assert SERDE.loads_typed(decode_value(encode_value(typed).value)) == SERDE.loads_typed(typed)


def test_a_conversation_can_be_read() -> None:
    encoded = encode_value(SERDE.dumps_typed([HumanMessage("Where is my order?", id="1")]))
    assert b"Where is my order?" in encoded.encoded
    assert b"base64" not in encoded.encoded
    assert encode_value(SERDE.dumps_typed({"a": [1, "b", None]})).value == {"a": [1, "b", None]}


@given(st.lists(values, min_size=1, max_size=4), st.lists(values, max_size=3))
def test_a_grown_list_is_what_the_whole_list_is(before: list[Any], more: list[Any]) -> None:
    option = ormsgpack.OPT_NON_STR_KEYS
    typed = ("msgpack", ormsgpack.packb(before, option=option))
    former = Former(encode_value(typed), typed)
    whole = ("msgpack", ormsgpack.packb([*before, *more], option=option))
    grown, alone = both_ways(whole, former), encode_value(whole)
    assert (grown.digest, grown.encoded, grown.value) == (alone.digest, alone.encoded, alone.value)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["list", "object"])
def test_what_nests_deeper_than_json_may_is_kept_as_bytes(wrap: Callable[[Any], Any]) -> None:
    value: Any = "x"
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert both_ways(("msgpack", ormsgpack.packb(value))).value == value
    deeper = both_ways(("msgpack", ormsgpack.packb(wrap(value)))).value
    assert deeper["$"] == "typed"
    wide = [[{}], "[{" * MAX_DEPTH] * MAX_DEPTH
    assert both_ways(("msgpack", ormsgpack.packb(wide))).value == wide


@pytest.mark.parametrize("unsafe", [math.inf, -math.inf, math.nan, 2**63, 2**64 - 1, {"$": 1}], ids=repr)
def test_one_item_that_json_cannot_say_is_found_among_many(unsafe: Any) -> None:
    value = ["ordinary", -1, None] * 50
    both_ways(("msgpack", ormsgpack.packb([*value, unsafe, *value])))


@pytest.mark.parametrize("bits", [b"\x7f\x80\x00\x00", b"\x3f\x80\x00\x00"], ids=["inf", "1.0"])
def test_a_short_float_comes_back_as_it_was(bits: bytes) -> None:
    both_ways(("msgpack", b"\x92\xca" + bits + b"\x01"))  # LangGraph's serializer writes long ones only


@pytest.mark.parametrize("stored", [{"$": "unknown"}, {"$": 1}, {"$": "typed", "type": 1, "base64": ""}])
def test_what_was_never_written_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"stored value|typed value"):
        decode_value(stored)
