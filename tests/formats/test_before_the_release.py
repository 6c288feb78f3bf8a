"""Stores from before the first release, whose formats had other numbers: refused as such, and left alone."""

from __future__ import annotations

import io
import json

import pytest
from support.golden import BEFORE_THE_RELEASE, KEYS, file_for, load
from support.places import Place, PostgresPlace, S3Place, SQLitePlace
from support.postgres_target import connection_to

from stargraph.checkpoint.codec import Cipher, Codec
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import StoreVersionError
from stargraph.transfer import import_runs


async def _all_of(place: Place) -> object:
    """Return what a place holds, whatever its tables are called."""
    if isinstance(place, SQLitePlace):
        return place.path.read_bytes()
    if isinstance(place, S3Place):
        return await place.dump()
    assert isinstance(place, PostgresPlace)
    async with connection_to(place.url) as (connection, schema):
        rows = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = $1 ORDER BY 1", schema.strip('"')
        )
        return [(name, await connection.fetch(f"SELECT * FROM {schema}.{name}")) for (name,) in rows]


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_store_is_refused_and_left_alone(place: Place, read_only: bool) -> None:
    await load(place, file_for(place, BEFORE_THE_RELEASE))
    before = await _all_of(place)
    store = open_checkpointer(place.url, read_only=read_only)
    with pytest.raises(StoreVersionError, match="was written before the first release") as refused:
        await store.bootstrap()
    assert refused.value.reason == "older-format"
    assert refused.value.hint
    assert await _all_of(place) == before
    await store.close()


def test_records_are_refused() -> None:
    for run in json.loads((BEFORE_THE_RELEASE / "records.json").read_text()):
        codec = Codec(cipher=Cipher.parse(KEYS) if run["encrypted"] else None)
        records = {step: bytes.fromhex(each["record"]) for step, each in enumerate(run["steps"])}
        for step in records:
            with pytest.raises(StoreVersionError, match="was written before the first release") as refused:
                codec.decode(records, run_id=run["run_id"], step=step)
            assert refused.value.reason == "older-format"


async def test_an_export_is_refused() -> None:
    async with MemoryCheckpointer() as store:
        with pytest.raises(StoreVersionError, match="line 3: the export was written before the first release"):
            await import_runs(store, io.BytesIO((BEFORE_THE_RELEASE / "export.jsonl").read_bytes()))
        assert await store.list_runs() == []
