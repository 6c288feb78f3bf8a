"""Keys on the command line: what is stored with them is read with them alone."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from support.cli import Folder

from stargraph.checkpoint.codec import Cipher
from stargraph.checkpoint.protocol import Checkpointer
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointCorruptedError, CheckpointError

KEYS = "k:0123456789abcdef"
NAME = "Ada of the secret name"


@pytest.fixture(autouse=True)
def _no_keys_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", KEYS)
    monkeypatch.delenv("STARGRAPH_ENCRYPTION_KEY")


def key_file(folder: Folder, text: str) -> Path:
    keys = folder.write("keys.txt", text)
    keys.chmod(0o600)
    return keys


def run(folder: Folder, *options: str) -> None:
    answer = folder.call("run", *options, "graph.yaml", "--run-id", "r1", "-i", "count=1", "-i", f"name={NAME}")
    assert answer.code == 0, answer.err


def test_a_run_with_keys_leaves_nothing_readable(folder: Folder) -> None:
    keys = key_file(folder, f"{KEYS}\n")
    run(folder, "--encryption-keys", str(keys))
    with sqlite3.connect(".stargraph/run.sqlite") as connection:
        everything = b"".join(record for (record,) in connection.execute("SELECT record FROM log"))
    connection.close()
    assert everything
    assert NAME.encode() not in everything
    answer = folder.call("inspect", "r1", "--encryption-keys", str(keys), "--step", "0", "--json")
    assert answer.json["state"]["name"] == NAME


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (None, "no-encryption-key"),
        ("k:another secret!!", "undecipherable"),
        ("z:0123456789abcdef", "unknown-encryption-key"),
    ],
)
def test_without_the_right_key_it_is_said_so(
    folder: Folder, keys: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", KEYS)
    run(folder)
    monkeypatch.delenv("STARGRAPH_ENCRYPTION_KEY")
    if keys is not None:
        monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", keys)
    answer = folder.call("inspect", "r1", "--json")
    assert (answer.code, answer.json["error"]["reason"]) == (7, reason)
    assert "STARGRAPH_ENCRYPTION_KEY" in answer.json["error"]["hint"]
    assert "0123456789abcdef" not in answer.out + answer.err


@pytest.mark.parametrize("text", ["k:another-secret!!", "z:0123456789abcdef"])
def test_an_error_names_where_the_keys_came_from(folder: Folder, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, "--encryption-keys", str(key_file(folder, f"{KEYS}\n")))
    wrong = key_file(folder, f"{text}\n")
    answer = folder.call("inspect", "r1", "--encryption-keys", str(wrong), "--json")
    assert answer.json["error"]["hint"].startswith(f"Check --encryption-keys {wrong}: ")

    async def read(store: Checkpointer) -> str:
        async with store:  # type: ignore[attr-defined]
            with pytest.raises(CheckpointCorruptedError) as caught:
                await store.read_latest("r1")
        return caught.value.hint or ""

    path = ".stargraph/run.sqlite"
    assert asyncio.run(read(open_checkpointer(path, encryption_keys=text))).startswith("Check encryption_keys: ")
    given = SQLiteCheckpointer(path, encryption=Cipher.parse(text))
    assert asyncio.run(read(given)).startswith("Check the Cipher that this program gave to the store: ")
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", text)
    assert asyncio.run(read(open_checkpointer(path))).startswith("Check STARGRAPH_ENCRYPTION_KEY: ")
    with pytest.raises(CheckpointError, match=r"^encryption_keys: "):
        open_checkpointer(path, encryption_keys="k:short")


def test_a_plain_store_is_refused_until_the_move_is_announced(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder)
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", KEYS)
    answer = folder.call("inspect", "r1", "--json")
    assert (answer.code, answer.json["error"]["reason"]) == (7, "not-encrypted")
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_ALLOW_PLAIN", "1")
    assert folder.call("inspect", "r1", "--json").code == 0


@pytest.mark.parametrize("text", ["k:short", "k:0123456789abcdef k:0123456789abcdef"])
def test_keys_that_cannot_be_used_are_refused(folder: Folder, text: str) -> None:
    keys = key_file(folder, text)
    answer = folder.call("runs", "--encryption-keys", str(keys), "--checkpoint", "x.sqlite")
    assert answer.code == 2
    answer = folder.call("run", "--encryption-keys", str(keys), "graph.yaml", "-i", "count=1")
    assert answer.code == 2
    assert "error: --encryption-keys " in answer.err
    assert "0123456789abcdef" not in answer.err


def test_a_file_of_keys_that_is_not_there_is_refused(folder: Folder) -> None:
    answer = folder.call("runs", "--encryption-keys", "nowhere.txt")
    assert answer.code == 2
    assert "nowhere.txt: No such file or directory" in answer.err
    assert not Path(".stargraph").exists()


@pytest.mark.parametrize(
    "key",
    [
        "2026-11:7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4sT",
        "team.a/2026:7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4s=",
        "prod:7ImrD5vC9VQ8/XUQ0m1k3bq.JH2yN4sT",
        "7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4sT",
        "7ImrD5vC9VQ8pXUQ0m1k3/qKJH2yN4sT+A/5bWk4eA0=",
    ],
)
@pytest.mark.parametrize("command", [("run", "graph.yaml", "-i", "count=1"), ("runs",), ("verify",), ("prune",)])
def test_a_key_in_the_place_of_the_file_is_not_shown(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, key: str, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("STARGRAPH_DEBUG", "1")
    words = (*command, *(("--older-than", "1d") if command == ("prune",) else ()))
    answer = folder.call(*words, "--json", "--encryption-keys", key)
    assert answer.code == 2
    assert answer.json["error"]["reason"] == "invalid-encryption-key"
    assert "was given a key" in answer.err
    for part in (key, key.rpartition(":")[2], key.rpartition(":")[2][:12]):
        assert part not in answer.err + answer.out
    assert not (folder.path / ".stargraph").exists()


@pytest.mark.parametrize(
    "name", ["nowhere.txt", "keys", "./a-file-with-a-long-name", "/run/secrets/stargraph-keys", "C:keys"]
)
def test_a_file_that_is_not_there_is_named(folder: Folder, name: str) -> None:
    answer = folder.call("runs", "--encryption-keys", name)
    assert answer.code == 2
    assert f"--encryption-keys {name}: No such file" in answer.err


def test_an_empty_name_of_a_file_with_keys_is_refused(folder: Folder) -> None:
    answer = folder.call("runs", "--encryption-keys", "")
    assert (answer.code, "--encryption-keys is empty" in answer.err) == (2, True)
