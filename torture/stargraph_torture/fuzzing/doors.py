"""The doors of the library. Whatever comes in, a door lets it through or refuses it with one clear error."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from support.checkpoints import chain, rich
from support.graph_texts import EVERYTHING
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.codec import Codec, decode, encode
from stargraph.checkpoint.protocol import Checkpoint, is_run_id
from stargraph.cli._inputs import parse_since, split_pairs
from stargraph.cli._questions import readings
from stargraph.engine import Expression
from stargraph.errors import CheckpointCorruptedError, CheckpointError, GraphError, StargraphError, StoreVersionError
from stargraph.ir import parse_graph, parse_yaml, validate_value
from stargraph.transfer import export_runs, import_runs

LONGEST_SECONDS: Final = 10.0
"""Seconds of this process that a door may take."""

LONGEST_MESSAGE: Final = 20_000
"""Characters of an error: it quotes what it refuses only in part."""


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        enter: takes anything; raises AssertionError if it is not handled as it should be.
        seeds: what fits.
    """

    enter: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


@contextmanager
def _refusing(*errors: type[StargraphError]) -> Iterator[None]:
    """Allow these errors, each with a message of one voice; anything else passes."""
    begun, shown = time.process_time(), "nothing"
    try:
        yield
    except errors as error:
        shown = str(error)
    assert shown
    assert len(shown) < LONGEST_MESSAGE, len(shown)
    assert "Traceback (most" not in shown
    assert time.process_time() - begun < LONGEST_SECONDS


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def enter_graph(data: bytes) -> None:
    """A graph file."""
    with _refusing(GraphError):
        parse_graph(_text(data), compile_expression=Expression)


def enter_yaml(data: bytes) -> None:
    """A file of inputs."""
    with _refusing(GraphError):
        parse_yaml(_text(data))


_CHECKPOINT: Final = rich()
_LOG: Final = chain(6, run_id="run-1", state={"text": "a long text that hardly changes. " * 20, "n": 0})


def _records() -> dict[int, bytes]:
    codec, records = Codec(), {}
    for checkpoint in _LOG:
        record = codec.encode(checkpoint)
        codec.appended(record)
        records[checkpoint.step] = record.data
    return records


_RECORDS: Final = _records()


def enter_record(data: bytes) -> None:
    """A stored record that stands alone: it is refused, or it is sound, to the last value."""
    with _refusing(CheckpointCorruptedError, StoreVersionError):
        back = decode(data, run_id=_CHECKPOINT.run_id, step=_CHECKPOINT.step)
        back.ensure_valid()
        assert Checkpoint.model_validate_json(back.model_dump_json()) == back


def enter_records(data: bytes) -> None:
    """A stored record that others are decoded from: each of them is refused, or it is what was written."""
    for place in _RECORDS:
        records = {**_RECORDS, place: data}
        for checkpoint in _LOG[place + 1 :]:
            with _refusing(CheckpointCorruptedError, StoreVersionError):
                assert Codec().decode(records, run_id="run-1", step=checkpoint.step) == checkpoint


_TYPES: Final = ("str", "int", "float | None", "bool", "list[str]", "dict[str, list[int]]", 'Literal["a", "b"]', "any")


async def _export() -> bytes:
    store, stream = MemoryCheckpointer(), io.BytesIO()
    await store.bootstrap()
    for checkpoint in _LOG[:3]:
        await store.write(checkpoint)
    await export_runs(store, stream)
    return stream.getvalue()


async def _import(data: bytes) -> None:
    store, reports = MemoryCheckpointer(), []
    await store.bootstrap()
    with _refusing(StargraphError):
        reports.append(await import_runs(store, io.BytesIO(data)))
    assert sum(report.steps for report in reports) == len(store.records)


def enter_export(data: bytes) -> None:
    """A file of exported runs: it is taken whole, or nothing of it is."""
    asyncio.run(_import(data))


def enter_answer(data: bytes) -> None:
    """What a person types as an answer."""
    for value in readings(_text(data)):
        for kind in _TYPES:
            with _refusing(StargraphError):
                fits = validate_value(kind, value, "the answer")
                assert type(fits) is type(value) or (kind == "float | None" and type(value) is int)


def enter_run_id(data: bytes) -> None:
    """A run's name."""
    name, taken = _text(data), []
    with _refusing(CheckpointError):
        taken = chain(1, run_id=name)
        assert decode(encode(taken[0]), run_id=name, step=0) == taken[0]
    assert bool(taken) == is_run_id(name)


def enter_arguments(data: bytes) -> None:
    """Words of a command line that have a form of their own."""
    text = _text(data)
    with _refusing(StargraphError):
        assert parse_since(text).tzinfo is not None
    with _refusing(StargraphError):
        split_pairs(text.split(), "--tag")


DOORS: Final = {
    "graph": Door(enter_graph, (EVERYTHING.encode(),)),
    "yaml": Door(enter_yaml, (EVERYTHING.encode(), b'{"a": [1, 1.5, "x", null]}', b"a: &x [1]\nb: [*x, *x]\n")),
    "record": Door(enter_record, (encode(_CHECKPOINT), encode(_LOG[1]))),
    "records": Door(enter_records, tuple(_RECORDS.values())),
    "export": Door(enter_export, (asyncio.run(_export()),)),
    "answer": Door(enter_answer, (b'{"a": [1, 2]}', b"12", b"yes", b'"a"', b"1.0", b"true")),
    "run-id": Door(enter_run_id, (b"a", b"run-1.2:3_4", b"z" * 200)),
    "arguments": Door(enter_arguments, (b"a=b c=d", b"2026-01-31T12:00:00Z", b"12h", b"2026-W05")),
}
