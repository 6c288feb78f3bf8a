"""A next version of each format, planted here: golden stores migrate with their data, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.checkpoints import genesis
from support.cli import Answer, own_folder
from support.golden import VERSION, file_for, folder_of, golden_runs, left, load
from support.places import Place, PostgresPlace, S3Place, SQLitePlace
from support.planted import planted
from support.postgres_target import connection_to
from support.workspace import ROOT

from stargraph.audit import verify
from stargraph.checkpoint.codec import _header, decode, encode
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import StoreVersionError

GOLDEN = folder_of(VERSION)


async def version_of(place: Place) -> int:
    """Return the version that a store has."""
    if isinstance(place, SQLitePlace):
        with place._database() as database:
            return int(database.execute("PRAGMA user_version").fetchone()[0])
    if isinstance(place, S3Place):
        return int(json.loads((await place.dump())["store/stargraph.json"])["format"])
    assert isinstance(place, PostgresPlace)
    async with connection_to(place.url) as (connection, schema):
        return int(await connection.fetchval(f"SELECT max(version) FROM {schema}.stargraph_version"))


async def noted(place: Place) -> int | None:
    """Return for how many runs the planted migration has left its note; None if it has not been carried out."""
    if isinstance(place, SQLitePlace):
        with place._database() as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone():
                return None
            return int(database.execute("SELECT count(*) FROM notes").fetchone()[0])
    if isinstance(place, S3Place):
        return sum(key.startswith("store/notes/") for key in await place.dump())
    assert isinstance(place, PostgresPlace)
    async with connection_to(place.url) as (connection, schema):
        if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.notes") is None:
            return None
        return int(await connection.fetchval(f"SELECT count(*) FROM {schema}.notes"))


async def check_whole(place: Place) -> None:
    """Check that every golden run reads, and verifies, as it was written."""
    async with place.open() as opened:
        store: Any = opened
        assert (await verify(store)).sound
        for run_id, run in left(golden_runs(VERSION)).items():
            assert [step async for step in store.history(run_id)][-len(run) :] == run


async def test_a_golden_store_is_migrated_with_its_data(place: Place) -> None:
    await load(place, file_for(place, GOLDEN))
    with planted():
        reader = open_checkpointer(place.url, read_only=True)
        with pytest.raises(StoreVersionError, match="stargraph migrate") as refused:
            await reader.bootstrap()
        assert refused.value.reason == "older-format"
        await check_whole(place)
        assert (await version_of(place), await noted(place)) == (2, len(left(golden_runs(VERSION))) + 1)
        await check_whole(place)  # and again, with nothing left to do
        await reader.bootstrap()
        await reader.close()


KILLED = """
import asyncio, sys
from stargraph.checkpoint.registry import open_checkpointer
from support.planted import planted

async def main():
    await open_checkpointer(sys.argv[1]).bootstrap()

with planted(stops=True):
    asyncio.run(main())
"""


def _kill_in_the_migration(program: str, *words: str) -> None:
    """Migrate a store in a child process, and kill that when a part of the migration is done."""
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=ROOT / "tests",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    said = child.stdout.readline()
    child.kill()
    _, errors = child.communicate(timeout=60)
    assert said == "half\n", errors
    assert child.returncode == -9


@pytest.mark.thorough
async def test_a_migration_that_is_killed_leaves_a_whole_store(place: Place) -> None:
    await load(place, file_for(place, GOLDEN))
    await asyncio.to_thread(_kill_in_the_migration, KILLED, place.url)
    assert await version_of(place) == 1
    await check_whole(place)  # by software that knows no other version
    with planted():
        await check_whole(place)
        assert (await version_of(place), await noted(place)) == (2, len(left(golden_runs(VERSION))) + 1)


@pytest.fixture
async def newer(place: Place) -> Place:
    """A golden store that newer software has migrated."""
    await load(place, file_for(place, GOLDEN))
    with planted():
        await check_whole(place)
    return place


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_store_is_refused(newer: Place, read_only: bool) -> None:
    store = open_checkpointer(newer.url, read_only=read_only)
    with pytest.raises(StoreVersionError, match=r"2.*up to 1") as refused:
        await store.bootstrap()
    assert (refused.value.reason, bool(refused.value.hint)) == ("newer-format", True)
    await store.close()
    assert await version_of(newer) == 2


COMMANDS = [
    ["runs"],
    ["inspect", "graph"],
    ["cancel", "graph"],
    ["verify"],
    ["prune", "--older-than", "1d"],
]


async def test_the_command_line_refuses_a_newer_store(newer: Place, tmp_path: Path) -> None:
    url = newer.url

    def call() -> None:
        with own_folder(tmp_path) as folder:
            calls = [[*words, "--checkpoint", url] for words in COMMANDS] + [["migrate", url], ["doctor", url]]
            for words in calls:
                answer = folder.call(*words)
                assert answer.code == 7, (words, answer)
                assert "up to 1" in answer.err
                assert "Upgrade stargraph-checkpoint-" in answer.err

    await asyncio.to_thread(call)
    assert await version_of(newer) == 2


@pytest.mark.thorough
async def test_doctor_leaves_an_older_store_as_it_is(place: Place, tmp_path: Path) -> None:
    await load(place, file_for(place, GOLDEN))

    def call(code: int, *words: str) -> Answer:
        with own_folder(tmp_path) as folder:
            answer = folder.call(*words)
        assert answer.code == code, answer
        return answer

    with planted():
        answer = await asyncio.to_thread(call, 7, "doctor", place.url)
        assert "has an older format, and was left as it is" in answer.out
        assert "stargraph migrate" in answer.err
        assert (await version_of(place), await noted(place) or 0) == (1, 0)
        await asyncio.to_thread(call, 0, "migrate", place.url)
        assert (await version_of(place), await noted(place)) == (2, len(left(golden_runs(VERSION))) + 1)
        assert ": works" in (await asyncio.to_thread(call, 0, "doctor", place.url)).out
    assert "has a newer format" in (await asyncio.to_thread(call, 7, "doctor", place.url)).out


COMMAND = """
import sys
from support.planted import planted
from stargraph.cli import main

with planted(stops=sys.argv[1:2] == ["migrate"]):
    main()
"""


@pytest.mark.thorough
async def test_a_migrate_command_that_is_killed_is_repeated(place: Place, tmp_path: Path) -> None:
    await load(place, file_for(place, GOLDEN))
    await asyncio.to_thread(_kill_in_the_migration, COMMAND, "migrate", place.url)

    def call(*words: str) -> Answer:
        with own_folder(tmp_path) as folder:
            answer = folder.call(*words)
        assert answer.code == 0, answer
        return answer

    listed = await asyncio.to_thread(call, "runs", "--json", "--checkpoint", place.url)
    assert len(listed.json) == len(left(golden_runs(VERSION)))
    with planted():
        await asyncio.to_thread(call, "migrate", place.url)
        assert (await version_of(place), await noted(place)) == (2, len(left(golden_runs(VERSION))) + 1)
        await asyncio.to_thread(call, "verify", "--checkpoint", place.url)
    assert await version_of(place) == 2


@contextmanager
def next_record_version() -> Iterator[None]:
    """Write records of version 2."""
    with patch.object(_header, "RECORD_VERSION", 2):
        yield


def test_a_newer_record_is_refused() -> None:
    checkpoint = genesis()
    with next_record_version():
        record = encode(checkpoint)
        assert decode(record, run_id="run-1", step=0) == checkpoint
    with pytest.raises(StoreVersionError, match="version 2, and this software reads up to 1") as refused:
        decode(record, run_id="run-1", step=0)
    assert refused.value.reason == "newer-format"
