"""What goes in comes back equal, of the same type and in the same order, by every way in and out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.checkpoints import HARD_STATE, following, genesis, json_values, rich, same, states

from stargraph.checkpoint.codec import Keyring, decode, encode
from stargraph.checkpoint.protocol import Checkpoint, JsonValue, StepRange
from stargraph.checkpoint.values import MAX_BYTES
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StateError


def by_codec(checkpoint: Checkpoint) -> Checkpoint:
    return decode(encode(checkpoint), run_id=checkpoint.run_id, step=checkpoint.step)


def by_json(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint.model_validate_json(checkpoint.model_dump_json())


def by_objects(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint.model_validate(checkpoint.model_dump())


def by_standard_json(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint.model_validate(json.loads(json.dumps(checkpoint.model_dump(mode="json"))))


each_way = pytest.mark.parametrize("way", [by_codec, by_json, by_objects, by_standard_json])
Way = Callable[[Checkpoint], Checkpoint]


@each_way
def test_a_full_record(way: Way) -> None:
    whole = Keyring({"k": b"0123456789abcdef"}).seal(rich())
    back = way(whole)
    assert back == whole
    assert back.seal == whole.seal
    for name in Checkpoint.model_fields:
        assert getattr(back, name) == getattr(whole, name), name
    assert same(back.state, whole.state)
    assert same(back.update, whole.update)
    assert same(back.definition, whole.definition)
    assert isinstance(back.frontier[1].completed_steps[0], StepRange)  # type: ignore[union-attr]
    back.ensure_valid()


@each_way
def test_hard_values(way: Way) -> None:
    assert same(way(genesis(state=HARD_STATE, update=HARD_STATE)).state, HARD_STATE)
    assert same(way(genesis(state=HARD_STATE, update=HARD_STATE)).update, HARD_STATE)


@each_way
def test_sixty_levels(way: Way) -> None:
    deep: JsonValue = 1.0
    for _ in range(30):
        deep = {"": [deep]}
    assert same(way(genesis(state={"deep": deep}, definition=deep)).state, {"deep": deep})


@pytest.mark.parametrize("way", [by_codec, by_json])
def test_a_state_of_the_limit(way: Way) -> None:
    state = {"blob": "é" * (MAX_BYTES // 2 - 1)}
    assert way(genesis(state=state)).state == state


@given(states, states | st.none(), json_values)
def test_any_values_by_the_codec(
    state: dict[str, JsonValue], update: dict[str, JsonValue] | None, definition: JsonValue
) -> None:
    first = genesis(state=state, update=update, definition=definition)
    back = by_codec(first)
    assert same(back.state, state)
    assert same(back.update, update)
    assert same(back.definition, definition)
    assert by_codec(following(back, changes={"n": 1})) == following(first, changes={"n": 1})


@given(states, states | st.none(), json_values)
def test_any_values_by_json(
    state: dict[str, JsonValue], update: dict[str, JsonValue] | None, definition: JsonValue
) -> None:
    back = by_json(genesis(state=state, update=update, definition=definition))
    assert same(back.state, state)
    assert same(back.update, update)
    assert same(back.definition, definition)


@given(states)
def test_encoding_is_stable(state: dict[str, JsonValue]) -> None:
    first = genesis(state=state)
    assert encode(by_codec(first)) == encode(first) == encode(by_json(first))


class TestValidation:
    """`model_validate` and `model_validate_json` take text from anybody."""

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("NaN", StateError),
            ("1e999", StateError),
            (str(2**63), StateError),
            ("9" * 5000, ValidationError),
            ("[" * 61 + "]" * 61, StateError),
            ("[" * 100_000, ValidationError),
            ("[" * 1000 + "]" * 1000, ValidationError),
            ('"\\ud800"', ValidationError),
            ("[1.0]", CheckpointCorruptedError),
            ("[true]", CheckpointCorruptedError),
            ('[1],"a":[2]', CheckpointCorruptedError),
        ],
        ids=lambda value: value[:12] if isinstance(value, str) else value.__name__,
    )
    def test_hostile_values_end_in_one_of_three_errors(self, value: str, error: type[Exception]) -> None:
        record = genesis(state={"a": [1]}).model_dump_json()
        assert record.count("[1]") == 1
        with pytest.raises(error):
            Checkpoint.model_validate_json(record.replace("[1]", value))

    def test_bad_run_ids_and_shapes_are_refused_first(self) -> None:
        record = genesis().model_dump()
        with pytest.raises(CheckpointError, match="cannot be a run id"):
            Checkpoint.model_validate(record | {"run_id": "../x"})
        with pytest.raises(CheckpointError, match="only step 0, is the event 'started'"):
            Checkpoint.model_validate(record | {"step": 1})
        with pytest.raises(ValidationError, match="extra_forbidden"):
            Checkpoint.model_validate(record | {"extra": 1})
        with pytest.raises(StateError, match="state: a value of type list is not a JSON object"):
            Checkpoint.model_validate(record | {"state": [1]})

    def test_a_validated_record_shares_nothing_with_its_source(self) -> None:
        source = genesis(state={"a": [1]}).model_dump()
        back = Checkpoint.model_validate(source)
        source["state"]["a"].append(2)
        assert back.state == {"a": [1]}
        back.ensure_valid()
