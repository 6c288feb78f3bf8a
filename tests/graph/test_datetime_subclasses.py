"""Subclasses of `datetime` are taken wherever a time is: those of pendulum, and what freezegun puts in its place."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Self, TypeAlias

import pytest

from stargraph.audit import anchor, verify
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph, GraphBuilder

Store: TypeAlias = MemoryCheckpointer | SQLiteCheckpointer

graph = Graph(GraphBuilder("g").add_node("a", "echo"))
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))


class Moment(datetime):
    """A time as pendulum makes it, with another text."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return super().isoformat(sep, timespec).replace("+00:00", "Z")


class _Frozen(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dt.datetime)


class Frozen(datetime, metaclass=_Frozen):
    """A time as freezegun makes it."""

    @classmethod
    def now(cls, tz: Any = None) -> Self:
        return cls.fromtimestamp(MOMENT.timestamp(), tz)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryCheckpointer() if request.param == "memory" else SQLiteCheckpointer(tmp_path / "run.sqlite")
    async with made as opened:
        yield opened


async def test_a_time_of_a_subclass_is_stored_like_any_other(store: Store) -> None:
    moment = Moment.fromtimestamp(MOMENT.timestamp(), MOMENT.tzinfo)
    await graph.enqueue(store, run_id="r", not_before=moment)
    latest = await store.read_latest("r")
    assert latest is not None
    assert (latest.due_at, type(latest.due_at)) == (MOMENT, datetime)
    assert [run.due_at for run in await store.list_runs(since=moment)] == [MOMENT]
    page = await store.search(due_before=moment + timedelta(microseconds=1))
    assert [run.run_id for run in page.items] == ["r"]
    assert (await store.prune(older_than=moment)).checkpoints == 0


async def test_what_a_frozen_clock_wrote_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("stargraph.") and vars(module).get("datetime") is dt.datetime:
            monkeypatch.setattr(module, "datetime", Frozen)
    run = await graph.start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    (found,) = await store.list_runs()
    assert (found.started_at, found.updated_at) == (MOMENT, MOMENT)
    assert (await verify(store, anchor=await anchor(store))).sound
