"""Where a store may be: its path or URL, its files and directories, and what the file system must allow."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
from support import sqlite_processes
from support.mounts import mounted, remount
from support.records import first, following
from support.sqlite_files import fingerprint, refused

from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _files, _mounts
from stargraph.errors import CheckpointError, StoreUnavailableError

OTHER_USER = 65534


async def test_new_files_are_private(path: Path) -> None:
    before = os.umask(0)
    try:
        async with SQLiteCheckpointer(path) as store:
            await store.write(first())
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"run.sqlite": 0o600, "run.sqlite-wal": 0o600, "run.sqlite-shm": 0o600}


async def test_directories_are_made_and_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(_files, "_sync_directory", synced.append)
    target = path.parent / "a" / "b" / "run.sqlite"
    async with SQLiteCheckpointer(target):
        pass
    assert synced == [path.parent, path.parent / "a", path.parent / "a" / "b"]
    synced.clear()
    async with SQLiteCheckpointer(target) as store:
        assert await store.read_latest("run-1") is None
        assert synced == []
        step = first()
        await store.write(step)
        assert synced == [target.parent]  # the file may have been copied there
        await store.write(following(step))
        assert synced == [target.parent]


async def test_a_directory_that_cannot_be_synced_refuses_the_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteCheckpointer(path):
        pass

    def fail(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with SQLiteCheckpointer(path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(_files, "_sync_directory", fail)
            with pytest.raises(StoreUnavailableError) as caught:
                await store.write(first())
        assert caught.value.reason == "cannot-open"
        await store.write(first())


async def test_the_file_is_made_where_links_are_unknown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    assert [found.name for found in path.parent.iterdir()] == ["run.sqlite"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_path_with_odd_characters(path: Path) -> None:
    target = path.parent / "what? 100%25 #1 é;x=y" / "rün %3f.sqlite"
    async with SQLiteCheckpointer(target) as store:
        await store.write(first())
    assert target.stat().st_size
    async with SQLiteCheckpointer(target) as store:
        assert await store.read_latest("run-1") is not None


async def test_a_relative_path_stays_where_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    store = SQLiteCheckpointer("sub/run.sqlite")
    monkeypatch.chdir("/")
    async with store:
        pass
    assert (path.parent / "sub" / "run.sqlite").exists()


async def test_a_link_leads_to_the_store(path: Path) -> None:
    target = path.parent / "elsewhere" / "real.sqlite"
    path.symlink_to(target)
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
        assert sorted(found.name for found in target.parent.iterdir()) == [
            "real.sqlite",
            "real.sqlite-shm",
            "real.sqlite-wal",
        ]


async def test_a_directory_is_not_a_file(path: Path) -> None:
    path.mkdir()
    error = await refused(path)
    assert (error.reason, str(path) in str(error)) == ("is-directory", True)


async def test_a_file_is_not_a_directory(path: Path) -> None:
    path.touch()
    assert (await refused(path / "run.sqlite")).reason == "cannot-open"


@pytest.mark.parametrize(
    "name",
    [
        *(":memory:", "", "a\0b", "file:x?mode=memory", "~/run.sqlite"),
        *("sqlite:///run.sqlite", "postgresql://u:a-password@h/db", "S3:/bucket/p"),
    ],
)
def test_what_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        SQLiteCheckpointer(name)
    assert caught.value.reason == "invalid-path"
    assert caught.value.hint
    assert "a-password" not in str(caught.value)


@pytest.mark.parametrize("name", ["./sqlite:/run.sqlite", "./~/run.sqlite", "~run.sqlite", "a:b"])
def test_a_file_may_have_an_odd_name(name: str) -> None:
    assert Path(name).name in repr(SQLiteCheckpointer(name))


async def test_a_read_only_filesystem_is_refused(path: Path) -> None:
    with mounted(path.parent / "small", "size=4m") as small:
        async with SQLiteCheckpointer(small / "run.sqlite") as store:
            await store.write(first())
        before = fingerprint(small)
        remount(small, "ro")
        assert (await refused(small / "run.sqlite")).reason == "read-only"
        assert (await refused(small / "new.sqlite")).reason == "read-only"
        assert fingerprint(small) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("file_mode", "directory_mode"), [(0o444, 0o777), (0o666, 0o555), (0o000, 0o777)])
def test_missing_permissions_are_reported(file_mode: int, directory_mode: int) -> None:
    async def make() -> None:
        async with SQLiteCheckpointer(path) as store:
            await store.write(first())

    # Not in tmp_path: pytest keeps that private, whenever another one is started too.
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run.sqlite"
        asyncio.run(make())
        path.chmod(file_mode)
        path.parent.chmod(directory_mode)
        before = fingerprint(path.parent)
        output = sqlite_processes.run(
            """
            import asyncio, os, sys
            from stargraph.checkpoint.sqlite import SQLiteCheckpointer
            from stargraph.errors import StoreUnavailableError

            async def main():
                try:
                    await SQLiteCheckpointer(sys.argv[1]).bootstrap()
                except StoreUnavailableError as error:
                    print(error.reason)

            os.setuid(int(sys.argv[2]))
            asyncio.run(main())
            """,
            path,
            OTHER_USER,
        )
        assert output.strip() == "read-only"
        assert fingerprint(path.parent) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_that_takes_no_file_is_reported_at_once(path: Path) -> None:
    # Not in tmp_path: pytest keeps that private, whenever another one is started too.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        output = sqlite_processes.run(
            """
            import asyncio, os, sys, time
            from stargraph.checkpoint.sqlite import SQLiteCheckpointer
            from stargraph.errors import StoreUnavailableError

            async def main():
                begun = time.monotonic()
                for place in ("run.sqlite", "sub/run.sqlite"):
                    try:
                        await SQLiteCheckpointer(f"{sys.argv[1]}/{place}", busy_timeout=300).bootstrap()
                    except StoreUnavailableError as error:
                        print(error.reason, "permission" in error.hint)
                assert time.monotonic() - begun < 60

            os.setuid(65534)
            asyncio.run(main())
            """,
            name,
        )
        assert output == "permission-denied True\n" * 2
        assert list(Path(name).iterdir()) == []


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /proc rw - proc proc rw
31 22 0:40 / /home rw,relatime shared:5 master:1 - nfs4 server:/export rw,vers=4.2
32 31 254:1 / /home/local rw - xfs /dev/vdb rw
33 22 0:41 / /mnt/with\\040space rw - cifs //server/share rw
34 22 0:42 / /over rw - ext4 /dev/vdc rw
35 34 0:43 / /over rw - fuse.sshfs host: rw
36 22 0:44 / /fuse rw - fuse.ntfs-3g /dev/sdx rw
37 22 0:45 / /ho rw - nfs server:/x rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/run.sqlite", None),
        ("/home/me/run.sqlite", "nfs4"),
        ("/homer/run.sqlite", None),
        ("/home/local/run.sqlite", None),
        ("/mnt/with space/run.sqlite", "cifs"),
        ("/over/there/run.sqlite", "fuse.sshfs"),
        ("/fuse/run.sqlite", None),
    ],
)
def test_the_kernel_tells_the_filesystem(place: str, kind: str | None) -> None:
    assert _mounts.network_filesystem(Path(place), MOUNTS) == kind


async def test_a_network_filesystem_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = path.parent / "mountinfo"
    table.write_text(f"22 1 0:1 / {path.parent} rw - nfs server:/export rw\n")
    monkeypatch.setattr(_mounts, "_MOUNTINFO", table)
    error = await refused(path)
    assert error.reason == "network-filesystem"
    assert "nfs" in str(error)
    assert "allow_network_filesystem=True" in str(error)
    assert not path.exists()
    async with SQLiteCheckpointer(path, allow_network_filesystem=True) as store:
        await store.write(first())


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:///sub/run.sqlite", "sub/run.sqlite"),
        ("sqlite:///{here}/run.sqlite", "run.sqlite"),
        ("SQLITE:///a%20b.sqlite", "a b.sqlite"),
        ("sub/run.sqlite", "sub/run.sqlite"),
        ("{here}/what?x#y.sqlite", "what?x#y.sqlite"),
        ("sqlite:///slow.sqlite?synchronous=normal&busy_timeout=2.5&allow_network_filesystem=true", "slow.sqlite"),
    ],
)
async def test_urls_lead_to_files(path: Path, monkeypatch: pytest.MonkeyPatch, url: str, place: str) -> None:
    monkeypatch.chdir(path.parent)
    store = open_checkpointer(url.format(here=path.parent))
    assert isinstance(store, SQLiteCheckpointer)
    async with store:
        await store.write(first())
    assert [str(found.relative_to(path.parent)) for found in path.parent.rglob("*") if found.is_file()] == [place]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://run.sqlite",
        "sqlite:///",
        "sqlite:run.sqlite",
        "sqlite:///x?journal=off",
        "sqlite:///x?synchronous=off",
    ],
)
def test_odd_urls_are_refused(url: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        SQLiteCheckpointer.from_url(url)
    assert caught.value.reason == "invalid-url"


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("synchronous=off", "full or normal"),
        ("busy_timeout=-1", "0 or more seconds"),
        pytest.param("busy_timeout=" + "9" * 400, "0 or more seconds", id="an endless busy_timeout"),
        ("read_only=perhaps", "true or false"),
        ("allow_network_filesystem=", "true or false"),
    ],
)
def test_a_wrong_value_in_a_url_is_told_from_an_unknown_option(option: str, wanted: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(CheckpointError, match=f"{name} is '{value}': give {wanted}") as caught:
        SQLiteCheckpointer.from_url(f"sqlite:///x?{option}")
    assert caught.value.reason == "invalid-url"


def test_arguments_are_checked(path: Path) -> None:
    with pytest.raises(ValueError, match="synchronous"):
        SQLiteCheckpointer(path, synchronous="off")  # type: ignore[arg-type]
    for timeout in (-1, True, float("nan"), float("inf"), "30"):
        with pytest.raises(ValueError, match="busy_timeout"):
            SQLiteCheckpointer(path, busy_timeout=timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_pipe_is_told_to_be_no_store_and_not_a_broken_disk(tmp_path: Path, read_only: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreUnavailableError, match="pipe") as refused:
        await SQLiteCheckpointer(tmp_path / "pipe", read_only=read_only).bootstrap()
    assert refused.value.reason == "not-a-store"
