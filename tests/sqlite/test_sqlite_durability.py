"""What survives the loss of a process, a full disk and a file that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import sqlite_processes
from support.mounts import mounted
from support.records import chain, endless, first, following, noise

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _files, _wal
from stargraph.checkpoint.sqlite._connection import Store
from stargraph.checkpoint.sqlite._thread import ConnectionThread
from stargraph.errors import CheckpointConflictError, StoreUnavailableError

pytestmark = pytest.mark.thorough


def writing(store: SQLiteCheckpointer) -> ConnectionThread[sqlite3.Connection]:
    assert isinstance(store._store, Store)
    return store._store._writing


BURST = """
import asyncio, sys
from support.records import endless
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

async def burst(store, run_id):
    for checkpoint in endless(run_id):
        await store.write(checkpoint)
        print(run_id, checkpoint.step, checkpoint.digest, flush=True)

async def main():
    store = SQLiteCheckpointer(sys.argv[1], busy_timeout=300)
    await store.bootstrap()
    await asyncio.gather(*(burst(store, run_id) for run_id in sys.argv[2:]))

asyncio.run(main())
"""


def test_every_acknowledged_step_survives_sigkill(path: Path) -> None:
    acknowledged: dict[str, dict[int, str]] = {}
    for turn in range(3):
        names = [f"run-{turn}-{number}" for number in range(4)]
        process = sqlite_processes.start(BURST, path, *names)
        assert process.stdout
        lines: list[str] = []
        while len(lines) < 150 + 50 * turn or {line.split(" ")[0] for line in lines} != set(names):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        process.kill()
        lines += process.stdout.readlines()
        process.communicate()
        for line in lines:
            if line.endswith("\n"):  # the last one may be torn
                run_id, step, digest = line.split(" ")
                acknowledged.setdefault(run_id, {})[int(step)] = digest.rstrip()
    assert len(acknowledged) == 12

    async def check() -> None:
        async with SQLiteCheckpointer(path) as store:
            for run_id, steps in acknowledged.items():
                found = [checkpoint async for checkpoint in store.history(run_id)]
                assert {checkpoint.step: checkpoint.digest for checkpoint in found}.items() >= steps.items()
                assert len(found) <= len(steps) + 1
                assert all(after.previous_digest == before.digest for before, after in pairwise(found))
                await store.write(following(found[-1]))

    asyncio.run(check())


async def test_two_processes_write_while_a_third_reads(path: Path) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=300) as store:
        processes = [sqlite_processes.start(BURST, path, f"run-{number}") for number in range(2)]
        try:
            last = [-1, -1]
            while min(last) < 50 and not any(process.poll() for process in processes):
                for number in range(2):
                    latest = await store.read_latest(f"run-{number}")
                    step = -1 if latest is None else latest.step
                    assert step >= last[number]
                    last[number] = step
                await store.write(first(f"mine-{sum(last)}-{time.monotonic_ns()}"))
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert min(last) >= 50


async def test_an_executor_in_another_process_is_fenced(path: Path) -> None:
    code = """
import asyncio, sys
from support.records import executor_id, following
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointConflictError

async def main():
    store = SQLiteCheckpointer(sys.argv[1])
    await store.bootstrap()
    tail = await store.read_latest("run-1")
    await store.write(following(tail, event="resumed", executor_id=executor_id()))

asyncio.run(main())
"""
    async with SQLiteCheckpointer(path) as store:
        start = first()
        await store.write(start)
        await asyncio.to_thread(sqlite_processes.run, code, path)
        with pytest.raises(CheckpointConflictError):
            await store.write(following(start))
        with pytest.raises(CheckpointConflictError):
            await store.write(following(following(start)))


@pytest.mark.parametrize("what", ["the file", "its log", "its index", "all three", "the directory"])
@pytest.mark.parametrize("how", ["unlinked", "replaced"])
@pytest.mark.parametrize("settled", [False, True], ids=["just opened", "open for long"])
async def test_a_store_that_is_gone_takes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, what: str, how: str, settled: bool
) -> None:
    if settled:
        monkeypatch.setattr(_files, "_SETTLED_NS", -1)
    home = path.parent / "home"
    target = home / "run.sqlite"
    suffixes = {"the file": [""], "its log": ["-wal"], "its index": ["-shm"]}.get(what, ["", "-wal", "-shm"])
    other = SQLiteCheckpointer(path.parent / "other.sqlite")
    async with other, SQLiteCheckpointer(target) as store:
        await other.write(first("other"))
        await store.write(first())
        if settled:
            await asyncio.sleep(0.05)  # the clock of a file system moves in steps
            await store.write(first("run-0"))
        if what == "the directory":
            home.rename(path.parent / "away")
            if how == "replaced":
                shutil.copytree(path.parent / "away", home)
        else:
            for suffix in suffixes:
                name = Path(f"{target}{suffix}")
                name.unlink()
                if how == "replaced":
                    shutil.copyfile(f"{other._files.path}{suffix}", name)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError) as caught:
                await store.write(first("run-2"))
            assert caught.value.reason == "store-replaced"
            with pytest.raises(StoreUnavailableError):
                await store.read_latest("run-1")
            with pytest.raises(StoreUnavailableError):
                await store.bootstrap()


async def test_one_look_at_the_directory_is_enough_while_it_does_not_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SQLiteCheckpointer(path) as store:
        assert isinstance(store._store, Store)
        files = store._store._files
        looks: list[str] = []
        stat = os.stat

        def recorded(name: str, **options: Any) -> os.stat_result:
            looks.append(name)
            return stat(name, **options)

        monkeypatch.setattr(os, "stat", recorded)
        files.check()
        assert len(looks) == 4  # the directory has just changed
        monkeypatch.setattr(_files, "_SETTLED_NS", -1)
        await asyncio.sleep(0.05)
        files.check()
        looks.clear()
        files.check()
        assert looks == [str(path.parent)]
        (path.parent / "another").touch()
        looks.clear()
        files.check()
        assert len(looks) == 4


async def test_a_link_that_leads_elsewhere_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_SETTLED_NS", -1)
    for name in ("one", "two"):
        async with SQLiteCheckpointer(path.parent / name / "run.sqlite") as store:
            await store.write(first(name))
    path.symlink_to(path.parent / "one" / "run.sqlite")
    async with SQLiteCheckpointer(path) as store:
        for number in range(3):
            await store.write(first(f"run-{number}"))
        path.unlink()
        path.symlink_to(path.parent / "two" / "run.sqlite")
        with pytest.raises(StoreUnavailableError):
            await store.write(first("run-3"))


async def test_a_store_that_was_put_back_opens_again(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    await store.write(first())
    path.unlink()
    with pytest.raises(StoreUnavailableError):
        await store.write(first("run-2"))
    await store.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    async with store:
        await store.write(first("run-3"))
        assert [run.run_id for run in await store.list_runs()] == ["run-3"]


async def test_a_full_disk_loses_nothing_and_is_overcome(path: Path) -> None:
    with mounted(path.parent / "small", "size=3m") as small:
        async with SQLiteCheckpointer(small / "run.sqlite") as store:
            ballast = small / "ballast"
            ballast.write_bytes(bytes(1_500_000))
            written: list[Checkpoint] = []

            async def fill() -> None:
                for checkpoint in endless(pad=100_000):
                    await store.write(checkpoint)
                    written.append(checkpoint)

            with pytest.raises(StoreUnavailableError) as caught:
                await fill()
            assert caught.value.reason == "disk-full"
            assert len(written) > 3
            assert [found async for found in store.history("run-1")] == written
            with pytest.raises(StoreUnavailableError):
                await store.write(following(written[-1], changes={"pad": noise(100_000)}))
            ballast.unlink()
            for _ in range(3):
                written.append(following(written[-1]))
                await store.write(written[-1])
        async with SQLiteCheckpointer(small / "run.sqlite") as store:
            assert [found async for found in store.history("run-1")] == written


async def test_a_full_disk_takes_no_store_until_there_is_space(path: Path) -> None:
    with mounted(path.parent / "small", "size=1m") as small:
        ballast = small / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(2_000_000))
        store = SQLiteCheckpointer(small / "run.sqlite")
        with pytest.raises(StoreUnavailableError) as caught:
            await store.bootstrap()
        assert caught.value.reason == "disk-full"
        ballast.unlink()
        async with store:
            await store.write(first())


async def test_what_does_not_fit_fails_alone(path: Path) -> None:
    with mounted(path.parent / "small", "size=3m") as small:
        async with SQLiteCheckpointer(small / "run.sqlite") as store:
            records = [first(f"run-{number}") for number in range(20)]
            records[7] = first("run-7", state={"pad": noise(8_000_000)})
            outcomes = await asyncio.gather(*map(store.write, records), return_exceptions=True)
            assert [getattr(outcome, "reason", None) for outcome in outcomes] == [None] * 7 + ["disk-full"] + [
                None
            ] * 12
            assert {run.run_id for run in await store.list_runs()} == {f"run-{number}" for number in range(20)} - {
                "run-7"
            }


def test_a_limit_on_the_size_of_files_is_reported(path: Path) -> None:
    code = """
import asyncio, resource, signal, sys
from support.records import endless
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import StoreUnavailableError

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written = []
    async with SQLiteCheckpointer(sys.argv[1]) as store:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        try:
            for checkpoint in endless(pad=10_000):
                await store.write(checkpoint)
                written.append(checkpoint)
        except StoreUnavailableError as error:
            print(error.reason)
        assert [found async for found in store.history("run-1")] == written
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.write(checkpoint)
        assert await store.read_latest("run-1") == checkpoint

asyncio.run(main())
"""
    assert sqlite_processes.run(code, path).strip() in ("disk-full", "io-error")


async def test_the_log_stays_short_and_writers_do_not_wait_for_readers(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        records = endless(pad=40_000)
        for _ in range(600):
            await store.write(next(records))
        assert Path(f"{path}-wal").stat().st_size < 3 * _wal._CHECKPOINT_BYTES
        assert path.stat().st_size > 8_000_000


async def test_a_long_reader_delays_the_log_and_loses_nothing(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(first("run-0"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
            records = endless(pad=40_000)
            for _ in range(500):
                await store.write(next(records))
            assert reader.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
            long = Path(f"{path}-wal").stat().st_size
            assert long > 2 * _wal._CHECKPOINT_BYTES
            reader.execute("COMMIT")
        for _ in range(300):
            await store.write(next(records))
        with contextlib.closing(sqlite3.connect(path)) as other:
            # Moved and begun again: less is left in it than its file is long.
            _, frames, _ = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert frames * 4096 < long
        assert [run.last_step for run in await store.list_runs()] == [0, 799]


@pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
async def test_the_writer_is_as_safe_as_it_was_asked_to_be(path: Path, synchronous: str, level: int) -> None:
    def pragmas(connection: sqlite3.Connection) -> list[object]:
        names = ("synchronous", "wal_autocheckpoint", "journal_mode", "secure_delete")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    async with SQLiteCheckpointer(path, synchronous=synchronous) as store:  # type: ignore[arg-type]
        assert await writing(store).run(pragmas) == [level, 0, "wal", 1]


async def test_concurrent_writes_share_their_commits(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        statements: list[str] = []
        await writing(store).run(lambda connection: connection.set_trace_callback(statements.append))
        await asyncio.gather(*(store.write(first(f"run-{number}")) for number in range(100)))
        assert 1 <= statements.count("COMMIT") < 50
        statements.clear()
        for checkpoint in chain("alone", 5):
            await store.write(checkpoint)
        words = [statement.split()[0] for statement in statements]
        assert words == ["BEGIN", "INSERT", "INSERT", "COMMIT", *["BEGIN", "UPDATE", "INSERT", "COMMIT"] * 4]


async def test_a_second_handle_leaves_the_locks_of_the_first(path: Path) -> None:
    """Closing any descriptor of the file, even one made by open(), drops the locks of the whole process."""
    code = """
import sqlite3, sys
try:
    print(sqlite3.connect(sys.argv[1], timeout=0).execute("PRAGMA journal_mode = DELETE").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
"""
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
        async with SQLiteCheckpointer(path) as another:
            await another.write(first("run-2"))
        assert await asyncio.to_thread(sqlite_processes.run, code, path) == "database is locked\n"
        await store.write(first("run-3"))
    assert await asyncio.to_thread(sqlite_processes.run, code, path) == "delete\n"


async def test_a_crowd_of_writers_shares_commits_and_a_close_leaves_none_behind(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    runs = {f"run-{number}": chain(f"run-{number}", 6) for number in range(600)}

    async def write(checkpoints: list[Checkpoint]) -> None:
        for checkpoint in checkpoints[:5]:
            await store.write(checkpoint)

    await asyncio.gather(*map(write, runs.values()))
    last = [asyncio.ensure_future(store.write(checkpoints[5])) for checkpoints in runs.values()]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*last)
    async with SQLiteCheckpointer(path) as store:
        for run_id, checkpoints in runs.items():
            assert await store.read_latest(run_id) == checkpoints[5]
