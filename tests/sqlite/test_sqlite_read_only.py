"""A store that may only be read: nothing is ever written, and what is read is what was stored."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support import sqlite_processes
from support.mounts import mounted, remount
from support.records import STARTED_AT, chain, first, following

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _mounts, _read_only
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError

Files = Callable[[Path], AbstractContextManager[None]]

RUN = chain(length=40, state={"count": 0, "text": "kept"}, metadata={"team": "a"})

DIES = """
import asyncio, os, sys
from support.records import following
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

async def main():
    store = SQLiteCheckpointer(sys.argv[1])
    await store.bootstrap()
    await store.write(following(await store.read_latest("run-1"), changes={}))
    os._exit(0)  # the log and its index stay behind

asyncio.run(main())
"""


def look(directory: Path) -> dict[str, tuple[int, int, int, str]]:
    """Everything that a write, a new file or a change of permissions would alter."""
    return {
        str(found.relative_to(directory)): (
            found.stat().st_ino,
            found.stat().st_mtime_ns,
            found.stat().st_mode,
            hashlib.sha256(found.read_bytes()).hexdigest() if found.is_file() else "",
        )
        for found in sorted([directory, *directory.rglob("*")])
    }


async def make(path: Path, checkpoints: list[Checkpoint] = RUN) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write_many(checkpoints)


async def read_all(path: Path) -> list[Checkpoint]:
    """Read by every method, and return the run."""
    async with SQLiteCheckpointer(path, read_only=True) as store:
        found = [checkpoint async for checkpoint in store.history("run-1")]
        assert await store.read_latest("run-1") == found[-1]
        assert await store.read_at_step("run-1", 1) == found[1]
        assert [run.last_step for run in await store.list_runs()] == [found[-1].step]
        assert (await store.search(graph_id="graph", order="updated")).items[0].run_id == "run-1"
        assert await store.count_runs() == {"running": 1}
        assert await store.children("run-1") == []
        return found


@contextmanager
def files_of_a_closed_store(path: Path) -> Iterator[None]:
    asyncio.run(make(path))
    yield


@contextmanager
def files_of_a_store_whose_process_died(path: Path) -> Iterator[None]:
    asyncio.run(make(path))
    sqlite_processes.run(DIES, path)
    yield


@contextmanager
def files_without_the_index(path: Path) -> Iterator[None]:
    with files_of_a_store_whose_process_died(path):
        Path(f"{path}-shm").unlink()
        yield


@contextmanager
def files_that_were_switched_out_of_wal(path: Path) -> Iterator[None]:
    asyncio.run(make(path))
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    other.close()
    yield


@contextmanager
def files_of_an_open_store(path: Path) -> Iterator[None]:
    asyncio.run(make(path))
    code = """
        import asyncio, sys
        from support.records import following
        from stargraph.checkpoint.sqlite import SQLiteCheckpointer

        async def main():
            store = SQLiteCheckpointer(sys.argv[1])
            await store.bootstrap()
            checkpoint = following(await store.read_latest("run-1"), changes={})
            for _ in range(2):  # the file of the log is made longer behind the first answer
                await store.write(checkpoint)
            print("written", flush=True)
            sys.stdin.readline()

        asyncio.run(main())
        """
    process = sqlite_processes.start(code, path)
    assert process.stdout
    assert process.stdout.readline() == "written\n"
    try:
        yield
    finally:
        _, errors = process.communicate("\n", timeout=60)
        assert (process.returncode, errors) == (0, "")


WAYS = [
    files_of_a_closed_store,
    files_of_a_store_whose_process_died,
    files_without_the_index,
    files_that_were_switched_out_of_wal,
    files_of_an_open_store,
]


@pytest.mark.parametrize("files", WAYS, ids=lambda files: files.__name__)
def test_reading_changes_nothing(tmp_path: Path, files: Files) -> None:
    directory = tmp_path / "store"
    directory.mkdir()
    path = directory / "run.sqlite"
    with files(path):
        before = look(directory)
        found = asyncio.run(read_all(path))
        assert look(directory) == before
    assert found[:40] == RUN
    # What the last process has written is in the log alone.
    assert len(found) == (40 if files in (files_of_a_closed_store, files_that_were_switched_out_of_wal) else 41)


@pytest.mark.parametrize("files", WAYS, ids=lambda files: files.__name__)
def test_a_read_only_filesystem_is_read(tmp_path: Path, files: Files) -> None:
    with mounted(tmp_path / "media", "size=8m") as media, files(media / "run.sqlite"):
        if files is not files_of_an_open_store:
            remount(media, "ro")
        before = look(media)
        found = asyncio.run(read_all(media / "run.sqlite"))
        assert found[:40] == RUN
        assert look(media) == before


def test_a_bind_mount_of_a_store_that_others_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "media").mkdir()
    path = tmp_path / "store" / "run.sqlite"
    mount = ["mount", "--bind", str(tmp_path / "store"), str(tmp_path / "media")]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount")
    try:
        remount(tmp_path / "media", "ro,bind")
        asyncio.run(alternate(path, tmp_path / "media" / "run.sqlite"))
    finally:
        subprocess.run(["umount", "-l", tmp_path / "media"], check=True)


def test_one_handle_follows_a_store_that_is_opened_written_and_closed(tmp_path: Path) -> None:
    asyncio.run(alternate(tmp_path / "run.sqlite", tmp_path / "run.sqlite"))


async def alternate(path: Path, as_reader: Path) -> None:
    await make(path, RUN[:1])
    async with SQLiteCheckpointer(as_reader, read_only=True) as reader:
        for checkpoint in RUN[1:15]:
            async with SQLiteCheckpointer(path) as writer:
                assert await reader.read_latest("run-1") == RUN[checkpoint.step - 1]
                await writer.write(checkpoint)
                assert await reader.read_latest("run-1") == checkpoint
            assert await reader.read_latest("run-1") == checkpoint
            assert [found.name for found in path.parent.iterdir()] == ["run.sqlite"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("files", WAYS, ids=lambda files: files.__name__)
def test_a_user_without_write_permission_reads(files: Files) -> None:
    # Not in tmp_path: pytest keeps that private, whenever another one is started too.
    with tempfile.TemporaryDirectory() as name:
        check_that_another_user_reads(Path(name), files)


def check_that_another_user_reads(directory: Path, files: Files) -> None:
    path = directory / "run.sqlite"
    with files(path):
        for found in directory.iterdir():
            found.chmod(0o444)
        directory.chmod(0o755)
        before = look(directory)
        output = sqlite_processes.run(
            """
            import asyncio, os, sys
            from stargraph.checkpoint.sqlite import SQLiteCheckpointer

            async def main():
                async with SQLiteCheckpointer(sys.argv[1], read_only=True) as store:
                    print((await store.read_at_step("run-1", 0)).digest)

            sys.stdout = open(os.devnull, "w")
            asyncio.run(main())  # what is imported at first use can be read by this user only
            sys.stdout = sys.__stdout__
            os.setuid(65534)
            asyncio.run(main())
            """,
            path,
        )
        assert output.strip() == RUN[0].digest
        assert look(directory) == before


async def test_whatever_would_change_the_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    await make(path)
    before = look(tmp_path)
    async with SQLiteCheckpointer(path, read_only=True) as store:
        assert store.read_only
        calls = [
            store.write(following(RUN[-1])),
            store.write(RUN[0]),
            store.write_many([first("run-2")]),
            store.write_many([]),
            store.delete_run("run-1"),
            store.delete_run("no such run"),
            store.prune(older_than=STARTED_AT),
        ]
        for call in calls:
            with pytest.raises(CheckpointError) as caught:
                await call
            assert (caught.value.reason, type(caught.value)) == ("read-only", CheckpointError)
        await store.prune(older_than=STARTED_AT, dry_run=True)
        await store.bootstrap()
    assert look(tmp_path) == before
    assert not SQLiteCheckpointer(path).read_only


@pytest.mark.parametrize("kind", ["nothing", "an empty file", "an empty database", "no directory"])
async def test_a_store_that_does_not_exist_is_not_made(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("no/run.sqlite" if kind == "no directory" else "run.sqlite")
    if kind == "an empty file":
        path.touch()
    elif kind == "an empty database":
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA journal_mode = WAL")
        other.close()
    before = look(tmp_path)
    with pytest.raises(StoreUnavailableError) as caught:
        await SQLiteCheckpointer(path, read_only=True).bootstrap()
    assert caught.value.reason == "no-store"
    assert look(tmp_path) == before


@pytest.mark.parametrize(
    ("pragma", "number", "reason"),
    [("application_id", int.from_bytes(b"SGcp", "big"), "older-format"), ("user_version", 99, "newer-format")],
)
async def test_another_format_is_reported(tmp_path: Path, pragma: str, number: int, reason: str) -> None:
    path = tmp_path / "run.sqlite"
    await make(path)
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA {pragma} = {number}")
    other.close()
    before = look(tmp_path)
    with pytest.raises(StoreVersionError) as caught:
        await SQLiteCheckpointer(path, read_only=True).bootstrap()
    assert caught.value.reason == reason
    assert look(tmp_path) == before


@pytest.mark.parametrize("content", [b"x", b"hello world\n", b"plain text\n" * 1000])
async def test_what_is_not_a_store_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailableError) as caught:
        await SQLiteCheckpointer(path, read_only=True).bootstrap()
    assert caught.value.reason == "not-a-store"
    assert path.read_bytes() == content


async def test_a_store_that_goes_away_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    await make(path)
    async with SQLiteCheckpointer(path, read_only=True) as store:
        path.unlink()
        with pytest.raises(StoreUnavailableError) as caught:
            await store.read_latest("run-1")
        assert caught.value.reason == "no-store"
        await make(path, RUN[:2])
        assert await store.read_latest("run-1") == RUN[1]


async def test_a_url_can_say_it(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    await make(path)
    store = open_checkpointer(f"sqlite:///{path}?read_only=true")
    assert isinstance(store, SQLiteCheckpointer)
    assert store.read_only
    assert "read_only=True" in repr(store)
    async with store:
        assert await store.read_latest("run-1") == RUN[-1]


async def test_a_handle_of_this_process_keeps_its_locks(tmp_path: Path) -> None:
    """To close a descriptor of a file drops the locks of the whole process on it, those of other handles too."""
    path = tmp_path / "run.sqlite"
    await make(path)
    code = """
import sqlite3, sys
try:
    print(sqlite3.connect(sys.argv[1], timeout=0).execute("PRAGMA journal_mode = DELETE").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
"""
    parked = len(_read_only._NEVER_CLOSED)
    reader = SQLiteCheckpointer(path, read_only=True)
    await reader.bootstrap()
    async with SQLiteCheckpointer(path) as writer:
        await writer.write(first("run-2"))
        assert len(await reader.list_runs()) == 2
        await reader.close()
        assert len(_read_only._NEVER_CLOSED) == parked + 1
        assert await asyncio.to_thread(sqlite_processes.run, code, path) == "database is locked\n"
    _read_only._NEVER_CLOSED.pop().close()


def test_a_copy_goes_away_with_the_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "temporary"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    path = tmp_path / "run.sqlite"

    async def read() -> None:
        async with SQLiteCheckpointer(path, read_only=True) as store:
            assert await store.read_at_step("run-1", 0) == RUN[0]
            (copy,) = home.iterdir()
            assert copy.stat().st_mode & 0o777 == 0o700

    with files_without_the_index(path):
        asyncio.run(read())
    assert list(home.iterdir()) == []


async def test_a_network_filesystem_is_read_only_if_nobody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.sqlite"
    await make(path)
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 0:1 / {tmp_path} rw - nfs server:/export rw\n")
    monkeypatch.setattr(_mounts, "_MOUNTINFO", table)
    async with SQLiteCheckpointer(path, read_only=True) as store:
        assert await store.read_latest("run-1") == RUN[-1]
        async with SQLiteCheckpointer(path, allow_network_filesystem=True) as writer:
            await writer.write(first("run-2"))
            with pytest.raises(StoreUnavailableError) as caught:
                await store.list_runs()
            assert caught.value.reason == "network-filesystem"
        assert len(await store.list_runs()) == 2
