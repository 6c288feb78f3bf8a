"""`genesis`, `next`, the chain of digests, and what counts as a valid checkpoint."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.checkpoints import (
    EXECUTOR,
    GRAPH_HASH,
    HARD_STATE,
    NOW,
    OTHER_EXECUTOR,
    chain,
    following,
    genesis,
    json_values,
    rich,
    same,
    states,
    text,
)

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.protocol import (
    Checkpoint,
    ErrorInfo,
    Interrupt,
    JsonValue,
    ProcessInfo,
    RecordedCall,
    Seal,
    StepRange,
    Task,
    add_step,
    is_run_id,
)
from stargraph.checkpoint.values import EncodedValue, format_time
from stargraph.errors import CheckpointError, StateError


class TestGenesis:
    def test_it_is_step_0(self) -> None:
        first = genesis(state={"n": 1}, update={"n": 1}, metadata={"team": "a"})
        assert (first.step, first.event, first.status, first.previous_digest) == (0, "started", "running", None)
        assert first.started_at == first.timestamp == NOW
        assert first.seal is None

    @given(states)
    def test_the_state_is_as_given(self, state: dict[str, JsonValue]) -> None:
        assert same(genesis(state=state).state, state)

    def test_any_mapping_is_taken_as_the_state(self) -> None:
        assert same(genesis(state=MappingProxyType({"b": 1, "a": 2})).state, {"b": 1, "a": 2})

    def test_instants_are_kept_in_utc(self) -> None:
        there = datetime(2026, 1, 31, 10, 5, 7, 120, tzinfo=timezone(timedelta(hours=1)))
        assert genesis(timestamp=there) == genesis(timestamp=NOW)
        assert genesis(timestamp=there).timestamp.tzinfo is UTC

    def test_a_fork_begins_anew(self) -> None:
        fork = genesis(parent_run_id="parent", parent_step=3, origin="fork", status="paused")
        assert (fork.step, fork.previous_digest, fork.status) == (0, None, "paused")


IDS = {"0123456789abcdef"}
"""Of a process: with a letter more it is none."""


class TestNext:
    def test_what_is_not_given_is_as_it_was(self) -> None:
        before = rich()
        after = following(before)
        kept = {
            *("run_id", "status", "graph_id", "graph_hash", "runtime_hash", "state", "frontier", "interrupts"),
            *("started_at", "executor_id", "process", "queue", "parent_run_id", "parent_step", "origin", "metadata"),
        }
        for name in kept:
            assert getattr(after, name) == getattr(before, name), name
        cleared = {"definition", "update", "last_node", "task_id", "task_started_at", "key", "error"}
        assert {name for name in cleared if getattr(after, name) is not None} == set()
        assert after.calls == ()
        assert (after.step, after.previous_digest) == (before.step + 1, before.digest)
        named = kept | cleared | {"calls", "step", "previous_digest", "event", "timestamp", "digest", "seal"}
        assert named == set(Checkpoint.model_fields)

    @given(states, states)
    def test_changes_are_merged_in_order(self, state: dict[str, JsonValue], changes: dict[str, JsonValue]) -> None:
        after = following(genesis(state=state), changes=changes)
        assert same(after.state, state | changes)

    @given(states, states)
    def test_a_whole_state_replaces_it(self, before: dict[str, JsonValue], after: dict[str, JsonValue]) -> None:
        assert same(following(genesis(state=before), state=after).state, after)

    @given(states, states)
    def test_changes_make_the_digest_that_the_whole_state_makes(
        self, state: dict[str, JsonValue], changes: dict[str, JsonValue]
    ) -> None:
        first = genesis(state=state)
        assert following(first, changes=changes).digest == following(first, state=state | changes).digest

    def test_fragments_are_taken_as_values(self) -> None:
        first = genesis()
        fragment = EncodedValue.of([1.0], "x")
        assert following(first, changes={"a": fragment, "b": 1}, update={"a": fragment}) == following(
            first, changes={"a": [1.0], "b": 1}, update={"a": [1.0]}
        )

    def test_changes_and_state_together_are_refused(self) -> None:
        with pytest.raises(ValueError, match="either the whole state, or changes"):
            following(genesis(), changes={}, state={})
        with pytest.raises(ValueError, match="either the whole state, or changes"):
            following(genesis(state={"a": 1}), removed=["a"], state={})

    def test_a_field_that_is_changed_and_removed_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'a' is both changed and removed"):
            following(genesis(state={"a": 1}), changes={"a": 2}, removed=["a"])

    @given(states, states, st.sets(text))
    def test_removed_fields_make_the_digest_that_the_whole_state_makes(
        self, state: dict[str, JsonValue], changes: dict[str, JsonValue], removed: set[str]
    ) -> None:
        removed -= changes.keys()
        after = {name: value for name, value in (state | changes).items() if name not in removed}
        first = genesis(state=state)
        step = following(first, changes=changes, removed=removed)
        assert step.state == after
        assert list(step.state) == list(after)
        assert step == following(first, state=after)

    def test_a_whole_state_takes_values_that_are_encoded_already(self) -> None:
        value = EncodedValue.of([1.0, {"a": None}], "x")
        assert genesis(state={"a": value, "b": 1}) == genesis(state={"a": [1.0, {"a": None}], "b": 1})
        step = following(genesis(), state={"a": value, "b": 1})
        assert step == following(genesis(), state={"a": [1.0, {"a": None}], "b": 1})
        assert step.state["a"] is value.value

    @pytest.mark.parametrize("key", ["", "x" * 256, "ü" * 128, "\ud800", 1])
    def test_a_key_that_no_store_can_index_is_refused(self, key: Any) -> None:
        with pytest.raises(CheckpointError, match="key") as raised:
            genesis(key=key)
        assert raised.value.reason == "invalid-checkpoint"
        with pytest.raises(CheckpointError, match="key"):
            following(genesis(), key=key)

    def test_a_key_is_of_its_step_alone(self) -> None:
        first = genesis(key="ü" * 127)
        assert (first.key, following(first).key, following(first, key="b").key) == ("ü" * 127, None, "b")
        assert following(first).digest != following(first, key="b").digest

    def test_unchanged_fields_share_their_memory(self) -> None:
        first = genesis(state={"large": [0] * 1000, "n": 0})
        assert following(first, changes={"n": 1}).state["large"] is first.state["large"]

    @pytest.mark.parametrize("field", ["state", "changes", "update"])
    def test_what_is_not_json_is_refused_with_its_path(self, field: str) -> None:
        path = "update" if field == "update" else "state"
        with pytest.raises(StateError, match=rf"{path}\.user\.scores\[1\]: NaN is not JSON"):
            following(genesis(), **{field: {"user": {"scores": [1, float("nan")]}}})

    @pytest.mark.parametrize("key", [1, None, "\ud800"])
    def test_keys_are_checked_beside_fragments_too(self, key: Any) -> None:
        with pytest.raises(StateError):
            following(genesis(), changes={key: EncodedValue(1, b"1")})


BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("graph_hash", "x", "graph_hash: String should match"),
    ("graph_hash", GRAPH_HASH + "\n", "graph_hash: String should match"),
    ("graph_hash", GRAPH_HASH.upper(), "graph_hash: String should match"),
    ("runtime_hash", 5, "runtime_hash: Input should be a valid string"),
    ("executor_id", "x", "executor_id: String should match"),
    ("executor_id", None, "executor_id: Input should be a valid string"),
    ("status", "finished", "status: Input should be 'queued'"),
    ("status", ["running"], "status: Input should be 'queued'"),
    ("timestamp", NOW.replace(tzinfo=None), "timestamp: Input should have timezone info"),
    ("timestamp", "yesterday", "timestamp: Input should be a valid datetime"),
    ("timestamp", datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "outside the years 1 to 9999 in UTC"),
    ("timestamp", datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), "outside the years 1 to 9999 in UTC"),
    ("frontier", ({"kind": "task"},), "frontier.0.task.id: Field required"),
    ("frontier", "ab", "frontier: Input should be a valid tuple"),
    ("interrupts", (Task(id="t", node="n", since_step=0),), "interrupts.0: Input should be"),
]

BAD_AT_STEP_0: list[tuple[str, Any, str]] = [
    ("graph_id", "a\ud800", "graph_id: a lone surrogate is not text"),
    ("graph_id", None, "graph_id: Input should be a valid string"),
    ("metadata", {"a": "\ud800"}, "metadata.a: a lone surrogate is not text"),
    ("metadata", {"a": 1}, "metadata.a: Input should be a valid string"),
    ("run_id", 5, "run_id: Input should be a valid string"),
    ("parent_step", -1, "parent_step: Input should be greater than or equal to 0"),
    ("parent_step", 2**60, "parent_step: Input should be less than or equal to"),
    ("parent_step", 3, "parent_step needs a parent_run_id"),
    ("parent_run_id", "p", "origin and parent_run_id belong together"),
    ("origin", "fork", "origin and parent_run_id belong together"),
    ("origin", "copy", "origin: Input should be 'fork' or 'subgraph'"),
]

BAD_LATER: list[tuple[str, Any, str]] = [
    ("event", "started", "step 0, and only step 0, is the event 'started'"),
    ("event", "finished", "event: Input should be 'started'"),
    ("event", [], "event: Input should be 'started'"),
    ("last_node", 5, "last_node: Input should be a valid string"),
    ("last_node", "\udfff", "last_node: a lone surrogate is not text"),
    ("task_id", 5, "task_id: Input should be a valid string"),
    ("task_started_at", NOW.replace(tzinfo=None), "task_started_at: Input should have timezone info"),
    ("error", "broken", "error: Input should be a valid dictionary or instance of ErrorInfo"),
    ("calls", ("x",), "calls.0: Input should be a valid dictionary or instance of RecordedCall"),
]


class TestRefusedFields:
    def _check(self, build: Callable[[], object], complaint: str) -> None:
        with pytest.raises(CheckpointError) as raised:
            build()
        assert raised.value.reason == "invalid-checkpoint"
        assert complaint in str(raised.value)
        assert str(raised.value).startswith("run ")

    @pytest.mark.parametrize(("name", "value", "complaint"), [*BAD_FIELDS, *BAD_AT_STEP_0])
    def test_by_genesis(self, name: str, value: Any, complaint: str) -> None:
        complaint = complaint.replace("timestamp:", "started_at:")
        self._check(lambda: genesis(**{name: value}), complaint)

    @pytest.mark.parametrize(("name", "value", "complaint"), [*BAD_FIELDS, *BAD_LATER])
    def test_by_next(self, name: str, value: Any, complaint: str) -> None:
        self._check(lambda: following(genesis(), **{name: value}), complaint)

    def test_the_value_of_a_field_is_not_quoted(self) -> None:
        with pytest.raises(CheckpointError) as raised:
            genesis(metadata={"token": ["hunter2"]})
        assert "hunter2" not in str(raised.value)
        assert raised.value.__cause__ is None

    @pytest.mark.parametrize(
        "run_id", ["", ".a", "-a", ":a", "_a", "a/b", "a b", "a\n", "a\0", "é", "a" * 201, "../x", "a\ud800", "a%2f"]
    )
    def test_what_cannot_be_a_run_id(self, run_id: str) -> None:
        assert not is_run_id(run_id)
        for field in ({"run_id": run_id}, {"parent_run_id": run_id, "origin": "fork"}):
            with pytest.raises(CheckpointError, match="cannot be a run id") as raised:
                genesis(**field)
            assert raised.value.reason == "invalid-run-id"

    @pytest.mark.parametrize("run_id", ["a", "0", "A.b_c:d-e", "a" * 200, "019a3b7c-0000-7000-8000-000000000000"])
    def test_what_can(self, run_id: str) -> None:
        assert is_run_id(run_id)
        assert genesis(run_id=run_id).run_id == run_id


class TestSmallRecords:
    @pytest.mark.parametrize(
        "build",
        [
            lambda: Task(id="\ud800", node="n", since_step=0),
            lambda: Task(id="t", node="n", since_step=-1),
            lambda: Task(id="t", node="n", since_step=0, index=2**64),
            lambda: Interrupt(id="i", task_id="t", node="n", prompt="\ud800", asked_at=NOW),
            lambda: RecordedCall(kind="call", task_id="t", name="n", occurrence=-1, started_at=NOW),
            lambda: Seal(key_id="\ud800", mac="0" * 64),
        ],
    )
    def test_what_the_digest_cannot_carry_is_refused(self, build: Callable[[], object]) -> None:
        with pytest.raises(ValidationError):
            build()

    def test_values_are_refused_with_their_path(self) -> None:
        with pytest.raises(StateError, match=r"payload\.a\[0\]: a value of type set"):
            Interrupt(id="i", task_id="t", node="n", prompt="?", payload={"a": [{1}]}, asked_at=NOW)
        with pytest.raises(StateError, match=r"result: NaN is not JSON"):
            RecordedCall(kind="call", task_id="t", name="n", result=float("nan"), started_at=NOW)

    def test_error_text_that_is_not_text_is_recorded_escaped(self) -> None:
        """A file's name may hold any bytes, and the failure that quotes it must be recorded."""
        error = ErrorInfo(type="OSError", message="no file caf\udce9", traceback="…\ud800", node="a")
        assert (error.message, error.traceback, error.node) == ("no file caf\\udce9", "…\\ud800", "a")
        encode(following(genesis(), event="failed", status="failed", error=error))

    def test_steps_gather_into_ranges(self) -> None:
        ranges: tuple[StepRange, ...] = ()
        for step in (1, 2, 3, 7, 9, 10):
            ranges = add_step(ranges, step)
        assert ranges == (StepRange(first=1, last=3), StepRange(first=7, last=7), StepRange(first=9, last=10))


class TestOwnership:
    @given(json_values)
    def test_no_record_shares_the_callers_objects(self, value: JsonValue) -> None:
        mine: list[dict[str, Any]] = [{"v": [copy.deepcopy(value)]} for _ in range(6)]
        state, changes, update, definition, result, payload = mine
        metadata = {"team": "a"}
        first = genesis(state=state, update=update, definition=definition, metadata=metadata)
        call = RecordedCall(kind="call", task_id="t", name="n", result=result, started_at=NOW)
        question = Interrupt(id="i", task_id="t", node="n", prompt="?", payload=payload, asked_at=NOW)
        second = following(
            first,
            event="migrated",
            changes=changes,
            update=update,
            definition=definition,
            calls=(call,),
            interrupts=(question,),
        )
        before = encode(first), encode(second)
        for each in mine:
            each["v"].append("more")
            each["w"] = 1
        metadata["team"] = "b"
        assert (encode(first), encode(second)) == before
        for theirs in (first.state, second.state, second.update, second.definition, second.calls[0].result):
            assert same(theirs, {"v": [value]})

    def test_a_value_changed_in_a_decoded_checkpoint_is_never_written(self) -> None:
        stored = encode(genesis(state={"items": [1], "n": 0}))
        read = decode(stored, run_id="run-1", step=0)
        read.state["items"].append(2)
        assert encode(read) == stored
        assert decode(encode(following(read, changes={"n": 1})), run_id="run-1", step=1).state["items"] == [1]
        assert read.fresh_state()["items"] == [1]

    def test_a_fresh_state_may_be_changed(self) -> None:
        first = genesis(state=HARD_STATE)
        fresh = first.fresh_state()
        assert same(fresh, HARD_STATE)
        fresh["one of each"].append(2)
        fresh["order"]["z"] = 1
        assert same(first.state, HARD_STATE)
        assert same(first.fresh_state(), HARD_STATE)


class TestDigests:
    def test_each_step_names_the_one_before(self) -> None:
        steps = chain(5)
        assert [step.previous_digest for step in steps] == [None, *(step.digest for step in steps[:-1])]

    def test_the_same_work_by_two_executors_differs(self) -> None:
        first = genesis()
        assert following(first, executor_id=EXECUTOR).digest != following(first, executor_id=OTHER_EXECUTOR).digest

    @pytest.mark.parametrize("name", sorted(set(Checkpoint.model_fields) - {"digest", "seal"}))
    def test_every_field_is_covered(self, name: str) -> None:
        whole = rich()
        replaced: dict[str, Any] = {
            "step": 2,
            "event": "completed",
            "status": "paused",
            "run_id": "run-2",
            "parent_run_id": "parent:2",
            "origin": "subgraph",
            "parent_step": 5,
            "state": HARD_STATE | {"n": 1.0},
            "update": {"n": 1, "": [1]},
            "metadata": {"team": "α", "": " "},
            "definition": [{"b": 1, "a": 0.0}],
            "frontier": whole.frontier[:1],
            "interrupts": (),
            "calls": whole.calls[::-1],
            "error": ErrorInfo(**{**whole.error.model_dump(), "reason": None}) if whole.error else None,
            "executor_id": OTHER_EXECUTOR,
            "process": ProcessInfo(**{**whole.process.model_dump(), "pid": 1}) if whole.process else None,
            "queue": whole.queue.model_copy(update={"priority": -4}) if whole.queue else None,
            "started_at": NOW + timedelta(microseconds=1),
            "timestamp": NOW,
            "task_started_at": None,
        }
        other = replaced.get(name, "4c" * 32 if name.endswith(("hash", "digest")) else "other")
        fields = whole.model_dump() | {name: other}
        with pytest.raises(CheckpointError) as raised:
            Checkpoint.model_validate(fields)
        assert raised.value.reason == "digest-mismatch"

    def test_every_member_of_the_small_records_is_covered(self) -> None:
        whole = rich()
        fields = whole.model_dump()
        places: list[dict[str, Any]] = [*fields["frontier"], *fields["interrupts"], *fields["calls"], fields["error"]]
        places += [fields["queue"], fields["process"]]
        changed = 0
        for place in places:
            for name, value in list(place.items()):
                if type(value) is int or (isinstance(value, str) and name not in {"kind", "mode"} and value not in IDS):
                    place[name] = value + ("x" if isinstance(value, str) else 1)  # type: ignore[operator]
                    with pytest.raises(CheckpointError) as raised:
                        Checkpoint.model_validate(fields)
                    assert raised.value.reason == "digest-mismatch", name
                    place[name] = value
                    changed += 1
        assert changed > 20
        assert Checkpoint.model_validate(fields) == whole

    def test_the_seal_is_not_covered(self) -> None:
        first = genesis()
        sealed = first.sealed(Seal(key_id="k", mac="0" * 64))
        assert sealed.digest == first.digest
        assert sealed != first
        assert hash(sealed) == hash(first)
        sealed.ensure_valid()

    def test_equality_tells_1_from_true(self) -> None:
        assert genesis(state={"a": 1}) == genesis(state={"a": 1})
        assert genesis(state={"a": 1}) != genesis(state={"a": True})
        assert genesis() != object()

    @given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
    def test_times_have_one_form(self, moment: datetime) -> None:
        try:
            utc = moment.astimezone(UTC)
        except OverflowError:
            return
        shown = format_time(utc)
        assert len(shown) == len("2026-01-31T09:05:07.000120Z")
        assert datetime.fromisoformat(shown) == utc
        assert format_time(moment) == shown


def _spoilt() -> list[tuple[str, Callable[[Checkpoint], Checkpoint]]]:
    def mutated(change: Callable[[Checkpoint], object]) -> Callable[[Checkpoint], Checkpoint]:
        def spoil(checkpoint: Checkpoint) -> Checkpoint:
            change(checkpoint)
            return checkpoint

        return spoil

    def assigned(name: str, value: object) -> Callable[[Checkpoint], Checkpoint]:
        return mutated(lambda checkpoint: checkpoint.__dict__.__setitem__(name, value))

    copied = [
        {"status": "done"},
        {"step": 7},
        {"state": {}},
        {"update": {}},
        {"update": None},
        {"digest": "0" * 64},
        {"previous_digest": None},
        {"timestamp": None},
        {"started_at": "2026-01-01"},
        {"metadata": {1, 2}},
        {"frontier": None},
        {"last_node": "\ud800"},
        {"error": ...},
        {"seal": "sealed"},
        {"seal": {"key_id": "k", "mac": "0" * 64}},
        {"unknown": 1},
    ]
    return [
        *((f"model_copy {update}", lambda cp, update=update: cp.model_copy(update=update)) for update in copied),
        ("model_construct", lambda cp: Checkpoint.model_construct(**cp.__dict__)),
        ("model_construct, empty", lambda cp: Checkpoint.model_construct()),  # type: ignore[call-arg]
        ("state replaced", assigned("state", {})),
        ("state with a new key", mutated(lambda cp: cp.state.__setitem__("new", 1))),
        ("state without a key", mutated(lambda cp: cp.state.popitem())),
        ("state with an equal value", mutated(lambda cp: cp.state.__setitem__("limits", list(cp.state["limits"])))),
        ("update with a new key", mutated(lambda cp: (cp.update or {}).__setitem__("new", 1))),
        ("metadata with a new tag", mutated(lambda cp: cp.metadata.__setitem__("new", "tag"))),
        ("definition changed inside", mutated(lambda cp: cp.definition[0].clear())),
        ("result changed inside", mutated(lambda cp: cp.calls[0].result.append(1))),
        ("payload changed inside", mutated(lambda cp: cp.interrupts[0].payload.clear())),
        ("a frozen record changed", mutated(lambda cp: cp.frontier[0].__dict__.__setitem__("node", "other"))),
    ]


class TestValidity:
    @pytest.mark.parametrize(("name", "spoil"), _spoilt(), ids=[name for name, _ in _spoilt()])
    def test_what_the_digest_does_not_cover_is_refused(
        self, name: str, spoil: Callable[[Checkpoint], Checkpoint]
    ) -> None:
        whole = rich()
        whole.ensure_valid()
        spoilt = spoil(whole)
        for use in (spoilt.ensure_valid, lambda: encode(spoilt), lambda: spoilt.sealed(None)):
            with pytest.raises(CheckpointError) as raised:
                use()
            assert raised.value.reason == "invalid-checkpoint"

    @pytest.mark.parametrize("tags", [{}, {"team": "a"}])
    @pytest.mark.parametrize(
        ("name", "spoil"),
        # A plain checkpoint has no list or object inside that could be changed.
        [
            pytest.param(name, spoil, id=name)
            for name, spoil in _spoilt()
            if "inside" not in name and "frozen" not in name
        ],
    )
    def test_so_it_is_where_nothing_needs_a_second_look(
        self, name: str, spoil: Callable[[Checkpoint], Checkpoint], tags: dict[str, str]
    ) -> None:
        plain = following(genesis(state={"limits": [1]}, metadata=tags), update={"n": 1}, last_node="a")
        spoilt = spoil(plain)
        for use in (spoilt.ensure_valid, lambda: encode(spoilt), lambda: spoilt.sealed(None)):
            with pytest.raises(CheckpointError) as raised:
                use()
            assert raised.value.reason == "invalid-checkpoint"

    def test_a_frozen_field_cannot_be_assigned(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            genesis().status = "done"  # type: ignore[misc]

    @pytest.mark.parametrize(
        "duplicate", [copy.copy, copy.deepcopy, lambda cp: pickle.loads(pickle.dumps(cp)), lambda cp: cp.model_copy()]
    )
    def test_a_true_copy_is_valid(self, duplicate: Callable[[Checkpoint], Checkpoint]) -> None:
        whole = rich()
        assert encode(duplicate(whole)) == encode(whole)

    @given(text)
    def test_odd_text_is_no_obstacle(self, odd: str) -> None:
        first = genesis(graph_id=odd, metadata={odd: odd}, frontier=(Task(id=odd, node=odd, since_step=0),))
        encode(following(first, last_node=odd, task_id=odd, error=ErrorInfo(type=odd, message=odd, traceback=odd)))


@pytest.mark.parametrize("read", [False, True], ids=["made", "read"])
def test_a_kept_checkpoint_takes_memory_as_its_values_do_and_no_buffers(read: bool) -> None:
    def steps(count: int) -> list[Checkpoint]:
        made = chain(count, state={"n": 0, "text": "word " * 40})
        return [decode(encode(each), run_id=each.run_id, step=each.step) for each in made] if read else made

    steps(3)  # what is made once is made here
    gc.collect()
    tracemalloc.start()
    try:
        kept = steps(60)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(kept) < 8_000
