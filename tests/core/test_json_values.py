"""What may be stored, and its canonical bytes."""

from __future__ import annotations

import copy
import enum
import hashlib
import json
import pickle
from collections import OrderedDict, UserDict, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import floats, genesis, json_values, same, sorted_deeply, states, text

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import MAX_BYTES, MAX_DEPTH, EncodedValue, canonical, check_json
from stargraph.checkpoint.values import _json as implementation
from stargraph.checkpoint.values._encoded import encode_members
from stargraph.errors import StateError


class Text(str):
    __slots__ = ()


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    left: int
    right: int


def nested(levels: int, inner: JsonValue = 1) -> JsonValue:
    value = inner
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


class TestCanonicalBytes:
    def test_the_fast_form_is_in_use(self) -> None:
        assert implementation._FAST_IS_CANONICAL

    @given(json_values)
    def test_the_fast_form_is_the_specified_one(self, value: JsonValue) -> None:
        assert implementation._fast_canonical(value) == implementation._slow_canonical(value).encode()

    @given(floats)
    def test_floats_too(self, number: float) -> None:
        assert implementation._fast_canonical(number) == implementation._slow_canonical(number).encode()

    def test_the_specified_form_takes_over_when_the_library_changes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        value = {"b": [1e16, -0.0], "a": "é\0"}
        expected = canonical(value)
        monkeypatch.setattr(implementation, "_FAST_IS_CANONICAL", False)
        monkeypatch.setattr(implementation, "_fast_canonical", lambda value: b"another form")
        assert canonical(value) == expected

    @given(json_values, json_values)
    def test_equal_bytes_mean_equal_values_of_equal_types(self, one: JsonValue, other: JsonValue) -> None:
        assert (canonical(one) == canonical(other)) == same(sorted_deeply(one), sorted_deeply(other))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (1, 1.0),
            (1, True),
            (0, False),
            (0.0, -0.0),
            (0, 0.0),
            ("1", 1),
            (None, "null"),
            ("é", "e\u0301"),
            ([], {}),
            ([1, 2], [2, 1]),
            ({"a": 1}, {"a": 1, "b": None}),
            (2**53, float(2**53)),
        ],
    )
    def test_what_python_or_other_forms_confuse_stays_apart(self, one: JsonValue, other: JsonValue) -> None:
        assert canonical(one) != canonical(other)
        assert canonical([one]) != canonical([other])

    @given(json_values)
    def test_it_is_json_that_reads_back(self, value: JsonValue) -> None:
        assert same(json.loads(canonical(value)), sorted_deeply(value))

    @given(states)
    def test_the_order_of_keys_does_not_matter(self, state: dict[str, JsonValue]) -> None:
        assert canonical(dict(reversed(state.items()))) == canonical(state)

    def test_keys_are_sorted_by_code_point_not_by_utf_16(self) -> None:
        assert canonical({"\U00010000": 1, "\uffff": 2}) == '{"\uffff":2,"\U00010000":1}'.encode()


class TestChecking:
    @given(json_values)
    def test_every_json_value_passes(self, value: JsonValue) -> None:
        check_json(value, "state")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (float("nan"), "state: NaN is not JSON"),
            ({"user": {"scores": [1, 2, 3, float("nan")]}}, "state.user.scores[3]: NaN is not JSON"),
            ([float("inf")], "state[0]: Infinity is not JSON"),
            ([[-float("inf")]], "state[0][0]: -Infinity is not JSON"),
            ({"n": 2**63}, "state.n: an integer outside 64 bits cannot be stored exactly"),
            ({"n": -(2**63) - 1}, "state.n: an integer outside 64 bits cannot be stored exactly"),
            ({"n": 10**5000}, "state.n: an integer outside 64 bits cannot be stored exactly"),
            ({"t": "a\ud800"}, "state.t: a lone surrogate (U+D800) is not text that JSON can carry"),
            ({"é\udfff": 1}, 'state["é\\udfff"]: a lone surrogate (U+DFFF) is not text that JSON can carry'),
            ({"s": {1}}, "state.s: a value of type set is not JSON"),
            ({"s": (1, 2)}, "state.s: a value of type tuple is not JSON"),
            ({"s": b"x"}, "state.s: a value of type bytes is not JSON"),
            ({"s": object()}, "state.s: a value of type object is not JSON"),
            ({"s": Decimal(1)}, "state.s: a value of type decimal.Decimal is not JSON"),
            ({"s": datetime(2026, 1, 1, tzinfo=UTC)}, "state.s: a value of type datetime.datetime is not JSON"),
            ({"a": {1: 2}}, "state.a: a key is a value of type int, and only text can be a key in JSON"),
            ({"a": {True: 2}}, "state.a: a key is a value of type bool, and only text can be a key in JSON"),
            ({None: 2}, "state: a key is a value of type NoneType, and only text can be a key in JSON"),
            ({10**5000: 2}, "state: a key is a value of type int, and only text can be a key in JSON"),
            ({float("nan"): 2}, "state: a key is NaN, and only text can be a key in JSON"),
            (
                {"a b": {"": {'"\\': {"\n": {1}}}}},
                'state["a b"][""]["\\"\\\\"]["\\u000a"]: a value of type set is not JSON',
            ),
            ({"k" * 100: {1}}, f'state["{"k" * 60}…"]: a value of type set is not JSON'),
        ],
    )
    def test_the_message_leads_to_the_value_and_the_hint_to_a_remedy(self, value: JsonValue, message: str) -> None:
        with pytest.raises(StateError) as raised:
            check_json(value, "state")
        assert raised.value.message == message
        assert raised.value.reason == "not-json"
        assert raised.value.hint
        assert raised.value.path == message.partition(": ")[0]

    @pytest.mark.parametrize(
        "value",
        [
            Text("a"),
            Colour.RED,
            Number.ONE,
            Pair(1, 2),
            OrderedDict(a=1),
            defaultdict(list),
            UserDict(),
            MappingProxyType({}),
            {Text("a"): 1},
            {Colour.RED: 1},
        ],
        ids=repr,
    )
    def test_subclasses_and_look_alikes_are_refused(self, value: object) -> None:
        """They would come back as another type."""
        with pytest.raises(StateError):
            check_json([value], "state")

    def test_sixty_levels_pass_and_one_more_does_not(self) -> None:
        check_json(nested(MAX_DEPTH), "state.deep")
        with pytest.raises(StateError, match=f"nested deeper than {MAX_DEPTH} levels"):
            check_json(nested(MAX_DEPTH + 1), "state.deep")

    def test_levels_count_inside_a_field(self) -> None:
        genesis(state={"deep": nested(MAX_DEPTH)})
        with pytest.raises(StateError, match="nested deeper"):
            genesis(state={"deep": nested(MAX_DEPTH + 1)})

    def test_a_cycle_is_refused(self) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        with pytest.raises(StateError, match="nested deeper"):
            check_json(cycle, "state")

    @given(json_values, st.lists(text | st.integers(0, 3), max_size=4))
    def test_the_path_is_exact(self, value: JsonValue, steps: list[str | int]) -> None:
        """Wrap NaN into objects and lists: the error's path names each of them, in order."""
        bad: JsonValue = float("nan")
        expected = ""
        for step in reversed(steps):
            if isinstance(step, int):
                bad = [value] * step + [bad]
                expected = f"[{step}]{expected}"
            else:
                bad = {step: bad}
                expected = implementation.path_part(step) + expected
        with pytest.raises(StateError) as raised:
            check_json(bad, "update")
        assert raised.value.path == "update" + expected

    def test_a_state_that_is_no_object_is_refused(self) -> None:
        with pytest.raises(StateError, match="state: a value of type list is not a JSON object"):
            encode_members([1], "state")  # type: ignore[arg-type]


class TestSize:
    def test_a_state_of_the_limit_passes_and_one_byte_more_does_not(self) -> None:
        full = "x" * (MAX_BYTES - 2)
        assert len(encode_members({"blob": full}, "state")["blob"].encoded) == MAX_BYTES
        with pytest.raises(StateError) as raised:
            encode_members({"small": 1, "blob": full}, "state")
        assert raised.value.reason == "too-large"
        assert "64.0 MiB of JSON, more than the 64 MiB" in str(raised.value)
        assert "the largest field is 'blob'" in str(raised.value)

    def test_a_change_counts_with_the_rest_of_the_state(self) -> None:
        half = genesis(state={"one": "x" * (MAX_BYTES // 2)})
        with pytest.raises(StateError) as raised:
            half.next(
                event="completed",
                executor_id=half.executor_id,
                timestamp=half.timestamp,
                changes={"two": half.state["one"]},
            )
        assert raised.value.reason == "too-large"

    def test_other_values_have_the_same_limit(self) -> None:
        with pytest.raises(StateError, match=r"definition: 64\.0 MiB of JSON") as raised:
            genesis(definition="x" * MAX_BYTES)
        assert raised.value.reason == "too-large"


class TestEncodedValues:
    @given(json_values)
    def test_it_shares_nothing_with_the_callers_object(self, value: JsonValue) -> None:
        wrapped = {"v": [value]}
        encoded = EncodedValue.of(wrapped, "state")
        digest, before = encoded.digest, encoded.encoded
        wrapped["v"].append("more")
        fresh = encoded.fresh()
        assert same(fresh, {"v": [value]})
        fresh["v"].append("more")
        assert (encoded.digest, encoded.encoded) == (digest, before)
        assert same(encoded.value, {"v": [value]})

    @given(json_values)
    def test_the_digest_does_not_depend_on_how_it_was_made(self, value: JsonValue) -> None:
        encoded = EncodedValue.of(value, "v")
        assert (
            encoded.digest
            == EncodedValue(value, encoded.encoded).digest
            == hashlib.sha256(canonical(value)).hexdigest()
        )

    @given(st.lists(st.lists(json_values, max_size=3), min_size=1, max_size=5))
    def test_an_extended_list_is_the_list_of_all(self, parts: list[list[JsonValue]]) -> None:
        whole = EncodedValue.of(parts[0], "v")
        for part in parts[1:]:
            whole = whole.extended(EncodedValue.of(part, "v"))
        expected = EncodedValue.of([item for part in parts for item in part], "v")
        at_once = EncodedValue.of(parts[0], "v").extended(*[EncodedValue.of(part, "v") for part in parts[1:]])
        assert (at_once.value, at_once.encoded, at_once.digest) == (whole.value, whole.encoded, whole.digest)
        assert same(whole.value, expected.value)
        assert (whole.encoded, whole.digest) == (expected.encoded, expected.digest)
        for twin in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
            assert (twin.encoded, twin.digest) == (expected.encoded, expected.digest)
            assert same(twin.value, expected.value)

    @given(st.lists(json_values, min_size=1, max_size=4), st.lists(json_values, min_size=1, max_size=4))
    def test_the_text_of_a_longer_list_makes_the_value_of_that_text(
        self, before: list[JsonValue], more: list[JsonValue]
    ) -> None:
        whole = EncodedValue.of([*before, *more], "v")
        grown = EncodedValue.of(before, "v").grown_to(whole.encoded)
        assert grown is not None
        assert same(grown.value, whole.value)
        assert (grown.encoded, grown.digest) == (whole.encoded, whole.digest)
        again = EncodedValue.of([*before, *more, 1], "v")
        twice = grown.grown_to(again.encoded)
        assert twice is not None
        assert twice.digest == again.digest

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ([], [1]),
            (["a"], ["a,", 1]),
            ([1], [12, 3]),
            ([1], [1]),
            ([1, 2], [1]),
            ([1], [2, 1]),
            ({"a": 1}, {"b": 1}),
            ("a", "ab"),
        ],
    )
    def test_the_text_of_another_value_makes_none(self, before: JsonValue, after: JsonValue) -> None:
        assert EncodedValue.of(before, "v").grown_to(EncodedValue.of(after, "v").encoded) is None

    def test_a_longer_text_that_is_no_json_is_refused(self) -> None:
        for longer in (b"[1,]", b"[1,2", b"[1,2]]", b"[1,,2]"):
            with pytest.raises(ValueError, match=r"followed by nothing|unexpected|trailing"):
                EncodedValue.of([1], "v").grown_to(longer)
