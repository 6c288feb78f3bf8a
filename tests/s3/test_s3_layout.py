"""Keys and objects: what is where, and what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import chain, first, following, noise

from stargraph.checkpoint.codec import Codec, base_steps_of
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo
from stargraph.checkpoint.s3._frame import Header, is_tombstone, pack, read_header, record_of, tombstone
from stargraph.checkpoint.s3._options import MAX_PREFIX_BYTES, parse_url
from stargraph.checkpoint.s3._schema import KeyLayout, RunKey
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreVersionError

KEYS = KeyLayout("some/prefix")
run_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", fullmatch=True)
steps = st.integers(0, 2**53)
instants = st.datetimes(timezones=st.just(UTC))


@given(run_ids, steps)
def test_a_slot_says_its_step(run_id: str, step: int) -> None:
    assert KEYS.step_of(KEYS.slot(run_id, step)) == step


@given(run_ids, steps, steps)
def test_slots_sort_the_highest_step_first(run_id: str, one: int, other: int) -> None:
    assert (KEYS.slot(run_id, one) < KEYS.slot(run_id, other)) == (one > other)


@given(run_ids, run_ids, steps)
def test_the_slots_of_two_runs_never_mix(one: str, other: str, step: int) -> None:
    assert KEYS.slot(one, step).startswith(KEYS.log(other)) == (one == other)
    assert KEYS.slot(one + "-1", step).startswith(KEYS.log(one)) is False


@given(run_ids, instants, steps)
def test_an_entry_and_a_file_say_their_run(run_id: str, started_at: datetime, step: int) -> None:
    assert KEYS.run_of(KEYS.entry(run_id, started_at)) == RunKey(started_at, run_id)
    assert KEYS.run_of(KEYS.file(run_id, started_at, step)) == RunKey(started_at, run_id, step)


@given(st.tuples(instants, run_ids), st.tuples(instants, run_ids))
def test_entries_sort_as_a_list_of_runs_does(one: tuple[datetime, str], other: tuple[datetime, str]) -> None:
    def expected(run: tuple[datetime, str]) -> tuple[timedelta, str]:
        return (datetime.max.replace(tzinfo=UTC) - run[0], run[1])

    in_order = KEYS.entry(one[1], one[0]) < KEYS.entry(other[1], other[0])
    assert in_order == (expected(one) < expected(other))


@given(instants, run_ids, run_ids, steps)
def test_a_file_follows_its_entry_at_once(started_at: datetime, run_id: str, other: str, step: int) -> None:
    entry, file = KEYS.entry(run_id, started_at), KEYS.file(run_id, started_at, step)
    assert entry < file
    assert other == run_id or not entry < KEYS.entry(other, started_at) < file


@pytest.mark.parametrize("name", ["", "x", "12-run", f"{'9' * 18}-.run", f"{'9' * 18}-a/b", f"{'9' * 18}-a,x.sqlite"])
def test_an_object_of_somebody_else_is_no_entry(name: str) -> None:
    assert KEYS.run_of(KEYS.runs + name) is None


def test_the_longest_key_fits() -> None:
    keys = KeyLayout("p" * MAX_PREFIX_BYTES)
    longest = keys.file("r" * 200, datetime(1, 1, 1, tzinfo=UTC), 2**53)
    assert len(longest) <= 1024
    assert len(keys.slot("r" * 200, 0)) <= 1024


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a/b/", "bucket", "a/b"),
        ("S3://bucket/a%20b", "bucket", "a b"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint:x/p", "arn:aws:s3:eu-west-1:1:accesspoint:x", "p"),
    ],
)
def test_a_url_names_a_bucket_and_a_prefix(url: str, bucket: str, prefix: str) -> None:
    address, options = parse_url(url)
    assert (address.bucket, address.prefix, options) == (bucket, prefix, {})


def test_a_url_carries_options() -> None:
    _, options = parse_url("s3://bucket/p?endpoint_url=http://localhost:9000&path_style=true&read_timeout=5")
    assert options == {"endpoint_url": "http://localhost:9000", "path_style": True, "read_timeout": 5.0}


@pytest.mark.parametrize(
    "url",
    [
        "bucket/prefix",
        "https://bucket/prefix",
        "s3://",
        "s3:///prefix",
        "s3://b",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/a%00b",
        "s3://bucket/a#b",
        f"s3://bucket/{'p' * (MAX_PREFIX_BYTES + 1)}",
        "s3://bucket/p?secret=1",
        "s3://bucket/p?path_style=maybe",
        "s3://bucket/p?deadline=long",
    ],
)
def test_a_url_that_does_not_fit_is_refused(url: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_url(url)
    assert caught.value.reason == "invalid-url"


def test_an_object_says_what_it_is_and_holds_the_record() -> None:
    checkpoint = following(first(metadata={"team": "ops"}), status="failed")
    codec = Codec()
    record = codec.encode(checkpoint)
    body = pack(checkpoint, record, codec)
    head = read_header(body, run_id="run-1", step=1)
    assert isinstance(head, Header)
    assert (head.digest, head.summary.status, head.summary.metadata) == (checkpoint.digest, "failed", {"team": "ops"})
    assert record_of(body, head, run_id="run-1", step=1) == record.data
    assert not is_tombstone(len(body))
    assert len(body) < len(record.data) + 600


def test_an_object_names_what_it_is_decoded_from() -> None:
    codec = Codec()
    bases: list[tuple[int, ...]] = []
    for checkpoint in chain("run", 30, state={"text": noise(10_000), "count": 0}):
        record = codec.encode(checkpoint)
        body = pack(checkpoint, record, codec)
        head = read_header(body, run_id="run", step=checkpoint.step)
        assert isinstance(head, Header)
        assert head.bases == record.base_steps == base_steps_of(record.data, run_id="run", step=checkpoint.step)
        # A prune relies on it: what comes after a step is decoded from it and what it is decoded from itself.
        assert not bases or set(head.bases) <= {checkpoint.step - 1, *bases[-1]}
        assert len(head.bases) <= 9
        bases.append(head.bases)
        codec.appended(record)
    assert max(len(found) for found in bases) > 2
    spoilt = body.replace(b'"bases":[0,', b'"bases":[1,')
    head = read_header(spoilt, run_id="run", step=29)
    assert isinstance(head, Header)
    with pytest.raises(CheckpointCorruptedError):
        record_of(spoilt, head, run_id="run", step=29)


def _packed(checkpoint: Checkpoint) -> bytes:
    codec = Codec()
    return pack(checkpoint, codec.encode(checkpoint), codec)


def test_a_long_first_line_asks_for_more() -> None:
    error = ErrorInfo(type="E", message="m", traceback="x" * 100_000)
    checkpoint = following(first(), status="failed", error=error)
    body = _packed(checkpoint)
    assert read_header(body[:16384], run_id="run-1", step=1) is None
    assert isinstance(read_header(body, run_id="run-1", step=1), Header)


def test_tombstones_are_reported_by_their_size_and_their_line() -> None:
    for kind in ("pruned", "deleted"):
        body = tombstone(kind)
        assert is_tombstone(len(body))
        assert read_header(body, run_id="any", step=9) == kind


def test_an_object_in_another_slot_is_refused() -> None:
    checkpoint = first()
    body = _packed(checkpoint)
    for run_id, step in (("run-1", 1), ("run-2", 0)):
        with pytest.raises(CheckpointCorruptedError):
            read_header(body, run_id=run_id, step=step)


@pytest.mark.parametrize("body", [b"\n", b"{}\n", b"[]\n", b"\xff\n", b'{"format":1,"kind":"record"}\n'])
def test_a_line_that_says_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(CheckpointCorruptedError):
        read_header(body, run_id="run-1", step=0)


def test_a_newer_object_is_refused_as_such() -> None:
    with pytest.raises(StoreVersionError):
        read_header(b'{"format":5}\n', run_id="run-1", step=0)


def test_a_cut_record_is_refused() -> None:
    checkpoint = first()
    body = _packed(checkpoint)
    head = read_header(body, run_id="run-1", step=0)
    assert isinstance(head, Header)
    with pytest.raises(CheckpointCorruptedError):
        record_of(body[:-1], head, run_id="run-1", step=0)
