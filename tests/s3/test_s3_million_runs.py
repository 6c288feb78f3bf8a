"""The index at a size that no test can store: a million runs that are computed as they are asked for."""

from __future__ import annotations

import builtins
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from support.records import STARTED_AT
from support.records import first as begin

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.s3._frame import pack
from stargraph.checkpoint.s3._index import RunIndex
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectInfo
from stargraph.checkpoint.s3._schema import KeyLayout

pytestmark = pytest.mark.thorough


class MillionRuns:
    """The index of a million live runs, and nothing that has to be kept in memory."""

    COUNT = 1_000_000

    def __init__(self) -> None:
        self.keys = KeyLayout("prefix")
        self.requests: list[str] = []

    def _entry(self, position: int) -> str:
        number = self.COUNT - 1 - position
        return self.keys.entry(f"run-{number}", STARTED_AT + timedelta(seconds=number))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return [await self.get(key) for key in keys]

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> builtins.list[ObjectInfo]:
        self.requests.append("LIST")
        if prefix == self.keys.runs:
            begun = bisect_right(range(self.COUNT), after, key=self._entry) if after else 0
            keys = [self._entry(position) for position in range(begun, min(begun + limit, self.COUNT))]
            return [ObjectInfo(key, 0, "", STARTED_AT) for key in keys]
        return [ObjectInfo(f"{prefix}{10**16 - 1}", 1000, "", STARTED_AT)]

    async def get(self, key: str, *, first: int | None = None) -> bytes:
        self.requests.append("GET")
        run_id = key.split("/")[-2]
        number = int(run_id.partition("-")[2])
        checkpoint = begin(run_id, started_at=STARTED_AT + timedelta(seconds=number))
        codec = Codec()
        return pack(checkpoint, codec.encode(checkpoint), codec)[:first]

    async def create(self, key: str, body: bytes | Path) -> str | None:
        raise NotImplementedError

    async def create_empty(self, keys: Sequence[str]) -> None:
        raise NotImplementedError

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        raise NotImplementedError

    async def folders(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        raise NotImplementedError

    async def remove(self, keys: Sequence[str]) -> None:
        raise NotImplementedError


async def test_a_list_of_the_newest_of_a_million_runs() -> None:
    store = MillionRuns()
    index = RunIndex(store, store.keys, LogReader(store, store.keys))
    runs = await index.first_runs(since=None, limit=50)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(999_999, 999_949, -1)]
    assert Counter(store.requests) == {"LIST": 51, "GET": 50}


async def test_a_list_from_an_instant_on_stops_there_among_a_million_runs() -> None:
    store = MillionRuns()
    index = RunIndex(store, store.keys, LogReader(store, store.keys))
    since = STARTED_AT + timedelta(seconds=999_997)
    assert len(await index.first_runs(since=since, limit=100)) == 3
    assert Counter(store.requests) == {"LIST": 4, "GET": 3}
