"""Records that hold what changed: exact at every step, few to read, small, and never built on what may be gone."""

from __future__ import annotations

import gc
import random
import secrets
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import HARD_STATE, following, genesis, json_values, same

from stargraph.checkpoint.codec import Cipher, Codec, Record, _delta, base_steps_of, decode, encode, missing_base_steps
from stargraph.checkpoint.codec._base_steps import DELTAS, base_distance
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, JsonValue
from stargraph.checkpoint.values import EncodedValue
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreVersionError

KEYS = Cipher({"k": b"0123456789abcdef"})
RECORDS_OF_A_READ = DELTAS + 1


def stored(codec: Codec, checkpoints: list[Checkpoint]) -> dict[int, Record]:
    """Append checkpoints to a store that is a dictionary."""
    records = {}
    for checkpoint in checkpoints:
        records[checkpoint.step] = codec.encode(checkpoint)
        codec.appended(records[checkpoint.step])
    return records


def data_of(records: dict[int, Record]) -> dict[int, bytes]:
    return {step: record.data for step, record in records.items()}


def check(checkpoints: list[Checkpoint], records: dict[int, Record], codec: Codec | None = None) -> None:
    """Every step reads as it was written, from the records that it names."""
    reader = codec or Codec()
    for checkpoint in checkpoints:
        step = checkpoint.step
        named = {step, *records[step].base_steps}
        read = reader.decode({at: records[at].data for at in named}, run_id=checkpoint.run_id, step=step)
        exact(read, checkpoint)


def exact(read: Checkpoint, written: Checkpoint) -> None:
    assert read == written
    assert same(read.state, written.state)
    assert same(read.update, written.update)
    assert read.state_json() == written.state_json()
    for name in Checkpoint.model_fields:
        assert getattr(read, name) == getattr(written, name), name


def run_of(length: int, change: Callable[[Checkpoint], dict[str, Any]], **fields: Any) -> list[Checkpoint]:
    made = [genesis(**fields)]
    while len(made) < length:
        made.append(following(made[-1], **change(made[-1])))
    return made


def chat(before: Checkpoint) -> dict[str, Any]:
    message = {"role": "user", "content": secrets.token_hex(300)}
    return {"changes": {"messages": [*before.state["messages"], message]}, "update": {"messages": [message]}}


class TestExactness:
    @settings(max_examples=60)
    @given(st.data())
    def test_any_run_reads_as_it_was_written(self, data: st.DataObject) -> None:
        keys = st.sampled_from(["a", "b", "é", "", "a/b"])
        states = st.dictionaries(keys, json_values, max_size=4)
        checkpoints = [genesis(state=data.draw(states), definition=data.draw(json_values))]
        for _ in range(data.draw(st.integers(0, 14))):
            before = checkpoints[-1]
            how = data.draw(st.sampled_from(["changes", "state", "append", "grow", "nothing", "failed"]))
            fields: dict[str, Any] = {}
            if how == "changes":
                fields = {"changes": data.draw(states), "update": data.draw(states | st.none())}
            elif how == "state":
                fields = {"state": data.draw(states)}
            elif how == "append":
                fields = {"changes": {"a": [before.state.get("a"), data.draw(json_values)]}}
            elif how == "grow":
                # Perhaps of a list of an earlier step, which is not what the record is made of.
                old = data.draw(st.sampled_from(checkpoints)).encoded_state().get("a")
                more = EncodedValue.of([data.draw(json_values)], "a")
                fields = {"changes": {"a": old.extended(more) if old and type(old.value) is list else more}}
            elif how == "failed":
                fields = {
                    "event": "failed",
                    "error": ErrorInfo(type="E", message=data.draw(st.text(max_size=9)) or "m"),
                }
            checkpoints.append(following(before, **fields))
        check(checkpoints, stored(Codec(), checkpoints))

    def test_a_list_that_is_known_to_grow_is_not_looked_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def grown(before: Checkpoint) -> dict[str, Any]:
            more = EncodedValue.of([secrets.token_hex(300)], "messages")
            return {"changes": {"messages": before.encoded_state()["messages"].extended(more)}}

        checkpoints = run_of(30, grown, state={"messages": ["x" * 5000]})
        monkeypatch.setattr(_delta, "diff", None)
        records = stored(Codec(), checkpoints)
        check(checkpoints, records)
        assert sum(not record.base_steps for record in records.values()) < 5
        assert all(part.grown_from is None for part in checkpoints[-1].encoded_state().values())

    def test_a_list_that_has_grown_from_another_step_is_told_apart(self) -> None:
        checkpoints = [genesis(state={"messages": ["a" * 200]})]
        first = checkpoints[0].encoded_state()["messages"]
        for text in ("b" * 300, "c" * 100, "d"):
            more = EncodedValue.of([text * 3], "messages")
            checkpoints.append(following(checkpoints[-1], changes={"messages": first.extended(more)}))
        check(checkpoints, stored(Codec(), checkpoints))

    def test_hard_values_that_come_and_go(self) -> None:
        checkpoints = [genesis(state=HARD_STATE)]
        for key in HARD_STATE:
            checkpoints.append(following(checkpoints[-1], state={k: v for k, v in HARD_STATE.items() if k != key}))
            checkpoints.append(following(checkpoints[-1], state=dict(reversed(HARD_STATE.items())), update=HARD_STATE))
        check(checkpoints, stored(Codec(), checkpoints))

    def test_values_that_differ_in_type_or_order_alone(self) -> None:
        values: list[JsonValue] = [1, 1.0, True, "1", {"b": 1, "a": 2}, {"a": 2, "b": 1}, 0.0, -0.0, [], {}, None]
        checkpoints = [genesis(state={"v": None})]
        for value in values * 3:
            checkpoints.append(following(checkpoints[-1], changes={"v": value}))
        check(checkpoints, stored(Codec(), checkpoints))

    def test_members_that_go_and_come_back_in_another_order(self) -> None:
        orders: list[str] = [
            "",
            "b",
            "",
            "ab",
            "ba",
            "cab",
            "",
            "bac",
            "b",
            "abc",
            "cba",
            "a",
            "dcba",
            "",
            "abcd",
            "dabc",
        ]
        checkpoints = [genesis(state={})]
        for order in orders * 4:
            checkpoints.append(following(checkpoints[-1], state=dict.fromkeys(order)))
        check(checkpoints, stored(Codec(), checkpoints))

    def test_a_field_that_becomes_none_again(self) -> None:
        first = genesis(definition={"graph": "x" * 100})
        second = following(
            first, event="failed", status="failed", error=ErrorInfo(type="E", message="m"), last_node="n"
        )
        third = following(second, event="resumed", status="running")
        check([first, second, third], stored(Codec(), [first, second, third]))

    @pytest.mark.parametrize("seed", range(3))
    def test_a_document_that_is_edited_in_random_places(self, seed: int) -> None:
        chance = random.Random(seed)

        def edit(before: Checkpoint) -> dict[str, Any]:
            text = before.state["text"]
            for _ in range(chance.choice([1, 1, 2, 5])):
                at = chance.randrange(len(text))
                text = text[:at] + chance.choice(["", "é", "new words"]) + text[at + chance.choice([0, 3]) :]
            return {"changes": {"text": text}, "update": {"text": text}}

        checkpoints = run_of(120, edit, state={"text": secrets.token_hex(5000)})
        records = stored(Codec(), checkpoints)
        check(checkpoints, records)
        assert sum(len(record.data) for record in records.values()) < 80_000

    def test_encrypted_records_are_deltas_too(self) -> None:
        checkpoints = run_of(60, chat, state={"messages": []})
        codec = Codec(cipher=KEYS)
        records = stored(codec, checkpoints)
        assert sum(not record.base_steps for record in records.values()) < 10
        check(checkpoints, records, codec)

    def test_decoding_many_gives_what_decoding_each_gives(self) -> None:
        checkpoints = run_of(90, chat, state={"messages": []})
        records = data_of(stored(Codec(), checkpoints))
        for steps in (range(90), range(30, 90), range(89, -1, -1), [5, 80, 5, 6, 0]):
            read = Codec().sequence_decoder("run-1").decode(records, steps)
            for checkpoint, step in zip(read, steps, strict=True):
                exact(checkpoint, checkpoints[step])


class TestReads:
    def test_every_step_is_decoded_from_few_records_of_one_segment(self) -> None:
        checkpoints = run_of(400, chat, state={"messages": []})
        records = stored(Codec(), checkpoints)
        keyframe = 0
        for step, record in records.items():
            assert len(record.base_steps) + 1 <= RECORDS_OF_A_READ
            keyframe = keyframe if record.base_steps else step
            assert list(record.base_steps) == sorted(set(record.base_steps))
            assert record.base_steps == base_steps_of(record.data, run_id="run-1", step=step)
            if record.base_steps:
                assert record.base_steps[0] == keyframe
                assert record.base_steps == (*records[record.base_steps[-1]].base_steps, record.base_steps[-1])

    @given(st.integers(1, 10**9))
    def test_bases_are_few_at_any_distance(self, distance: int) -> None:
        records = 1
        while distance:
            base = base_distance(distance)
            assert 0 <= base < distance
            distance, records = base, records + 1
        assert records <= RECORDS_OF_A_READ

    def test_the_bases_of_a_step_are_those_of_the_step_before_but_for_the_last_ones(self) -> None:
        before = [0]
        for distance in range(1, 5000):
            bases = [distance]
            while bases[-1]:
                bases.append(base_distance(bases[-1]))
            bases.reverse()
            assert bases[:-1] == before[: len(bases) - 1]
            before = bases

    def test_missing_bases_are_asked_for_until_none_is_missing(self) -> None:
        checkpoints = run_of(40, chat, state={"messages": []})
        records = data_of(stored(Codec(), checkpoints))
        some = {39: records[39]}
        assert missing_base_steps(some, run_id="run-1", steps=[39]) == list(
            base_steps_of(records[39], run_id="run-1", step=39)
        )
        some |= {step: records[step] for step in missing_base_steps(some, run_id="run-1", steps=[39])}
        assert missing_base_steps(some, run_id="run-1", steps=[39]) == []
        assert missing_base_steps({}, run_id="run-1", steps=[39]) == []

    def test_a_base_that_stands_alone_now_needs_none_of_the_others(self) -> None:
        """A prune may store a kept record again; what is decoded from it is none the wiser."""
        checkpoints = run_of(40, chat, state={"messages": []})
        records = data_of(stored(Codec(), checkpoints))
        base = base_steps_of(records[39], run_id="run-1", step=39)[-1]
        kept = {base: encode(checkpoints[base]), 39: records[39]}
        assert missing_base_steps(kept, run_id="run-1", steps=[39]) == []
        exact(Codec().decode(kept, run_id="run-1", step=39), checkpoints[39])


class TestDamage:
    def test_a_missing_base_is_reported(self) -> None:
        checkpoints = run_of(20, chat, state={"messages": []})
        records = data_of(stored(Codec(), checkpoints))
        base = base_steps_of(records[19], run_id="run-1", step=19)[-1]
        with pytest.raises(CheckpointCorruptedError, match=f"its base, step {base}, is missing"):
            Codec().decode({19: records[19]}, run_id="run-1", step=19)

    def test_another_run_s_base_is_refused(self) -> None:
        one, other = (run_of(12, chat, state={"messages": [name * 100]}) for name in "ab")
        records, others = (data_of(stored(Codec(), run)) for run in (one, other))
        for base in base_steps_of(records[11], run_id="run-1", step=11):
            with pytest.raises(CheckpointCorruptedError):
                Codec().decode(records | {base: others[base]}, run_id="run-1", step=11)

    @pytest.mark.parametrize("cipher", [None, KEYS], ids=["plain", "encrypted"])
    def test_every_flipped_bit_of_every_record_is_refused_or_changes_nothing(self, cipher: Cipher | None) -> None:
        checkpoints = run_of(
            4, lambda before: {"changes": {"n": before.step, "t": ["x" * 200]}}, state={"t": ["x" * 200]}
        )
        codec = Codec(cipher=cipher)
        records = data_of(stored(codec, checkpoints))
        assert base_steps_of(records[3], run_id="run-1", step=3)
        for step, record in records.items():
            for position in range(len(record)):
                for bit in range(8):
                    damaged = bytearray(record)
                    damaged[position] ^= 1 << bit
                    try:
                        read = codec.decode(records | {step: bytes(damaged)}, run_id="run-1", step=3)
                    except (CheckpointCorruptedError, StoreVersionError):
                        continue
                    exact(read, checkpoints[3])


class TestGrowth:
    def test_a_step_costs_what_it_changes(self) -> None:
        checkpoints = run_of(
            300, lambda before: {"changes": {"n": before.step}}, state={"big": secrets.token_hex(50_000)}
        )
        sizes = [len(record.data) for record in stored(Codec(), checkpoints).values()]
        assert sizes[0] > 50_000
        assert max(sizes[1:]) < 300

    def test_bytes_grow_with_the_steps_and_not_with_their_square(self) -> None:
        def size(length: int) -> int:
            return sum(len(r.data) for r in stored(Codec(), run_of(length, chat, state={"messages": []})).values())

        assert size(800) < 6 * size(200)  # in whole states it would be 16 times

    def test_an_update_that_the_state_holds_is_not_stored_twice(self) -> None:
        def replace(before: Checkpoint) -> dict[str, Any]:
            document = random.Random(before.step).randbytes(20_000).hex()
            return {"changes": {"document": document}, "update": {"document": document}}

        checkpoints = run_of(4, replace, state={"document": ""})
        assert all(len(record.data) < 21_000 for record in stored(Codec(), checkpoints).values())

    def test_keyframes_are_not_most_of_what_is_stored(self) -> None:
        records = stored(Codec(), run_of(500, chat, state={"messages": []})).values()
        keyframes = sum(len(record.data) for record in records if not record.base_steps)
        assert keyframes < 0.4 * sum(len(record.data) for record in records)


class TestMemory:
    def test_a_run_that_is_not_remembered_is_stored_alone(self) -> None:
        first = genesis()
        codec = Codec()
        codec.encode(first)
        assert codec.encode(following(first)).base_steps == ()

    def test_a_tail_is_remembered_only_once_it_was_appended(self) -> None:
        first, codec = genesis(state={"big": "x" * 500}), Codec()
        codec.appended(codec.encode(first))
        second = following(first)
        record = codec.encode(second)
        assert record.base_steps == (0,)
        third = following(second)
        assert codec.encode(third).base_steps == ()
        assert codec.encode(third, after=record).base_steps == (0, 1)
        codec.appended(record)
        assert codec.encode(third).base_steps == (0, 1)
        codec.forget("run-1")
        assert codec.encode(third).base_steps == ()

    def test_a_rival_s_step_is_never_built_on(self) -> None:
        first, codec = genesis(state={"big": "x" * 500}), Codec()
        codec.appended(codec.encode(first))
        mine, theirs = (following(first, executor_id=secrets.token_hex(16)) for _ in range(2))
        codec.appended(codec.encode(mine))
        assert codec.encode(following(theirs)).base_steps == ()

    def test_another_handle_goes_on_where_it_has_read(self) -> None:
        checkpoints = run_of(30, chat, state={"messages": []})
        records = stored(Codec(), checkpoints)
        reader = Codec()
        read = reader.decode_latest(data_of(records), run_id="run-1", step=29)
        after = following(read, changes={"n": 1})
        record = reader.encode(after)
        assert record.base_steps
        check([*checkpoints, after], records | {30: record})

    def test_an_older_read_does_not_make_a_newer_tail_forgotten(self) -> None:
        codec = Codec()
        checkpoints = run_of(6, chat, state={"messages": []})
        records = data_of(stored(codec, checkpoints))
        codec.decode_latest(records, run_id="run-1", step=4)
        assert codec.encode(following(checkpoints[5])).base_steps

    def test_an_ended_run_is_forgotten(self) -> None:
        codec = Codec()
        stored(codec, run_of(3, chat, state={"messages": []}))
        assert codec._contexts
        last = following(run_of(3, chat, state={"messages": []})[-1], status="done")
        codec.appended(codec.encode_alone(last))
        assert not codec._contexts
        assert codec._used == 0

    def test_memory_is_bounded_and_the_last_one_always_fits(self) -> None:
        codec = Codec(memory=50_000)
        for number in range(30):
            codec.appended(codec.encode(genesis(run_id=f"run-{number}", state={"big": "x" * 5000})))
        assert 1 < len(codec._contexts) < 12
        assert codec._used == sum(context.memory for context in codec._contexts.values()) <= 50_000
        large = genesis(run_id="large", state={"big": "x" * 500_000})
        codec.appended(codec.encode(large))
        assert list(codec._contexts) == ["large"]
        assert codec.encode(following(large)).base_steps == (0,)

    def test_memory_counts_what_a_small_run_takes(self) -> None:
        codec = Codec(memory=400_000)
        codec.appended(codec.encode(genesis(run_id="warm-up")))
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(1000):
                codec.appended(codec.encode(genesis(run_id=f"run-{number}")))
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken < 600_000

    def test_many_threads_may_use_a_codec(self) -> None:
        codec = Codec(memory=20_000)
        failures: list[BaseException] = []

        def work(name: str) -> None:
            try:
                checkpoints = run_of(40, chat, run_id=name, state={"messages": []})
                records = stored(codec, checkpoints)
                check(checkpoints, records, codec)
            except BaseException as failure:
                failures.append(failure)

        threads = [Thread(target=work, args=(f"run-{number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


class TestEncryption:
    def read(self, cipher: Cipher | None, record: bytes, *, run_id: str = "run-1", step: int = 0) -> Checkpoint:
        return Codec(cipher=cipher).decode({step: record}, run_id=run_id, step=step)

    def record(self, cipher: Cipher | None = KEYS, **fields: Any) -> bytes:
        return Codec(cipher=cipher).encode(genesis(state={"secret": "hunter2 " * 30}, **fields)).data

    def test_nothing_of_the_state_is_readable(self) -> None:
        record = self.record()
        assert b"hunter2" not in record
        assert self.read(KEYS, record).state["secret"].startswith("hunter2")
        assert self.record() != record  # another nonce

    @pytest.mark.parametrize(
        ("cipher", "reason"),
        [
            (None, "no-encryption-key"),
            (Cipher({"other": b"0123456789abcdef"}), "unknown-encryption-key"),
            (Cipher({"k": b"another secret!!"}), "undecipherable"),
        ],
    )
    def test_a_wrong_key_is_reported(self, cipher: Cipher | None, reason: str) -> None:
        with pytest.raises(CheckpointCorruptedError) as raised:
            self.read(cipher, self.record())
        assert raised.value.reason == reason
        assert ("STARGRAPH_ENCRYPTION_KEY" if cipher is None else "the Cipher that") in (raised.value.hint or "")
        assert "0123456789abcdef" not in str(raised.value) + repr(cipher)

    @pytest.mark.parametrize("place", [{"run_id": "run-2"}, {"step": 1}])
    def test_a_record_that_was_moved_is_refused(self, place: dict[str, Any]) -> None:
        with pytest.raises(CheckpointCorruptedError) as raised:
            self.read(KEYS, self.record(), **place)
        assert raised.value.reason == "undecipherable"

    def test_a_delta_is_bound_to_the_records_that_it_names(self) -> None:
        codec = Codec(cipher=KEYS)
        records = data_of(stored(codec, run_of(3, chat, state={"messages": []})))
        assert records[2][2:5] == b"\x02\x02\x01"  # two bases: two steps before, and one
        renamed = records[2][:2] + b"\x01\x01" + records[2][5:]
        with pytest.raises(CheckpointCorruptedError) as raised:
            codec.decode(records | {2: renamed}, run_id="run-1", step=2)
        assert raised.value.reason == "undecipherable"

    def test_plain_records_are_refused_but_during_a_move(self) -> None:
        plain = self.record(None)
        with pytest.raises(CheckpointCorruptedError) as raised:
            self.read(KEYS, plain)
        assert raised.value.reason == "not-encrypted"
        moving = Cipher({"k": b"0123456789abcdef"}, allow_plain=True)
        assert self.read(moving, plain) == self.read(KEYS, self.record())

    def test_keys_are_changed_by_putting_the_new_one_first(self) -> None:
        old, both = self.record(), Cipher.parse("new:fedcba9876543210,k:0123456789abcdef")
        assert self.read(both, old).step == 0
        new = self.record(both)
        assert self.read(both, new).step == 0
        with pytest.raises(CheckpointCorruptedError):
            self.read(KEYS, new)
        digest = genesis().digest
        assert Codec(cipher=both).fingerprint(digest) == Codec(cipher=KEYS).fingerprint(digest)

    def test_fingerprints_tell_equal_digests_and_nothing_else(self) -> None:
        digests = [checkpoint.digest for checkpoint in run_of(5, chat, state={"messages": []})]
        codec = Codec(cipher=KEYS)
        prints = [codec.fingerprint(digest) for digest in digests]
        assert len(set(prints)) == 5
        assert not set(prints) & set(digests)
        assert prints == [codec.fingerprint(digest) for digest in digests]
        assert all(before != after for before, after in pairwise(prints))
        assert [Codec().fingerprint(digest) for digest in digests] == digests

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [("", "at least one key"), ("k:short", "shorter than 16 bytes"), (f"{'k' * 256}:{'x' * 16}", "255")],
    )
    def test_bad_keys_are_refused(self, text: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            Cipher.parse(text)

    def test_the_environment_holds_the_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Cipher.from_environment() is None
        monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "k:0123456789abcdef")
        cipher = Cipher.from_environment()
        assert repr(cipher) == "Cipher(k)"
        assert cipher is not None
        assert not cipher.allow_plain
        assert self.read(cipher, self.record()).step == 0
        monkeypatch.setenv("STARGRAPH_ENCRYPTION_ALLOW_PLAIN", "1")
        moving = Cipher.from_environment()
        assert moving is not None
        assert moving.allow_plain

    @pytest.mark.parametrize("text", ["", " ", "\n\t", ","])
    def test_a_variable_without_a_key_is_refused(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", text)
        with pytest.raises(CheckpointError) as raised:
            Cipher.from_environment()
        assert raised.value.reason == "invalid-encryption-key"

    @pytest.fixture(autouse=True)
    def _no_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STARGRAPH_ENCRYPTION_KEY", raising=False)
        monkeypatch.delenv("STARGRAPH_ENCRYPTION_ALLOW_PLAIN", raising=False)


def test_a_state_that_grows_and_shrinks_is_read_from_few_records_too() -> None:
    codec = Codec()
    for seed in range(4):
        chance = random.Random(seed)
        keep = secrets.token_hex(1500)  # together with the text it is small one time and large another

        def swing(_: Checkpoint, chance: random.Random = chance) -> dict[str, Any]:
            return {"changes": {"text": "a" * chance.choice((0, 1200))}}

        run = run_of(200, swing, state={"keep": keep, "text": ""})
        assert max(len(record.base_steps) for record in stored(codec, run).values()) <= DELTAS
        codec.forget(run[0].run_id)


def test_the_simple_functions_stand_alone() -> None:
    first = genesis(state=HARD_STATE)
    assert base_steps_of(encode(first), run_id="run-1", step=0) == ()
    exact(decode(encode(first), run_id="run-1", step=0), first)


class TestHistory:
    """Steps that are read together."""

    def test_they_share_the_values_that_are_the_same_and_no_others(self) -> None:
        run = [genesis(state={"kept": {"a": [1]}, "n": [0], "as": [1.0]})]
        for number in range(1, 30):
            run.append(following(run[-1], changes={"n": [number], "as": [number % 2 and 1]}))
        records = data_of(stored(Codec(), run))
        read = list(Codec().sequence_decoder("run-1").decode(records, range(30)))
        assert read == run
        assert [checkpoint.model_dump_json() for checkpoint in read] == [
            checkpoint.model_dump_json() for checkpoint in run
        ]
        for before, after in pairwise(read):
            after.ensure_valid()
            assert after.state["kept"] is before.state["kept"]
            assert after.state["n"] is not before.state["n"]

    def test_what_is_read_alone_shares_nothing(self) -> None:
        records = data_of(stored(Codec(), [genesis(state={"a": [1]})]))
        codec = Codec()
        one, two = (codec.decode(records, run_id="run-1", step=0) for _ in range(2))
        assert one.state["a"] is not two.state["a"]

    def test_a_step_of_a_large_state_costs_what_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = [genesis(state={f"section {number}": ["x" * 100] * 10 for number in range(50)})]
        while len(run) < 20:
            run.append(following(run[-1], changes={"section 7": ["y" * len(run)]}))
        records = data_of(stored(Codec(), run))
        parsed = 0
        real = EncodedValue.of_stored

        def counting(text: bytes) -> EncodedValue:
            nonlocal parsed
            parsed += 1
            return real(text)

        monkeypatch.setattr(EncodedValue, "of_stored", counting)
        assert list(Codec().sequence_decoder("run-1").decode(records, range(20))) == run
        assert parsed == 50 + 19

    def test_damage_in_the_middle_is_found(self) -> None:
        run = [genesis(state={"a": "x" * 500, "b": 1})]
        while len(run) < 6:
            run.append(following(run[-1], changes={"b": len(run)}))
        records = data_of(stored(Codec(), run))
        alone = data_of(stored(Codec(), [genesis(state={"a": "y" * 500, "b": 1})]))
        with pytest.raises(CheckpointCorruptedError):
            list(Codec().sequence_decoder("run-1").decode(records | {0: alone[0]}, range(6)))
