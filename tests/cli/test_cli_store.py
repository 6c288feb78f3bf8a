"""Which store a command works on: never a file by mistake, never made by a command that reads, always with its keys."""

from __future__ import annotations

import operator
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from support.cli import Folder

from stargraph.cli._app import app
from stargraph.cli._store import StoreRef
from stargraph.errors import StoreUnavailableError

KEYS = "2026-11:7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4sT"
RUN = ("run", "graph.yaml", "-i", "count=1", "--run-id", "r1")

READS = {
    "queues": (),
    "workers": (),
    "runs": (),
    "inspect": ("r1",),
    "verify": (),
    "anchor": (),
    "export": ("x.jsonl", "--all"),
    "replay": ("r1", "graph.yaml"),
    "doctor": (),
    "ui": (),
}
POSITIONAL = {"doctor", "ui"}
"""These take the store as an argument; the latter serves pages until it is stopped."""
WRITES = {
    "worker": ("graph.yaml", "--until-idle"),
    "requeue": ("r1",),
    "resume": ("r1", "graph.yaml"),
    "respond": ("r1", "--value", "1"),
    "pause": ("r1",),
    "cancel": ("r1",),
    "prune": ("--older-than", "1d"),
    "delete": ("r1",),
}


def names(folder: Folder) -> list[str]:
    return sorted(
        str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if "__pycache__" not in str(path)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "sqlite://",
        "sqlite:///",
        "sqlite://x",
        "s3:/b/p",
        "postgresql:/u:geheim22@h/db",
        "host=h password=geheim22 dbname=d",
        "$HOME/x",
        "a/",
        "-",
        "postgres",
        "S3",
        "memory",
    ],
)
def test_what_names_no_store_is_refused_by_every_command(folder: Folder, text: str) -> None:
    before = names(folder)
    for command, words in {"run": RUN[1:], "import": ("-",), **READS, **WRITES}.items():
        calls = [folder.call(command, *words, env={"STARGRAPH_CHECKPOINT": text})]
        if command in POSITIONAL:
            calls.append(folder.call(command, *words, "--", text))
        else:
            calls.append(folder.call(command, *words, "--checkpoint", text))
        for answer in calls:
            assert answer.code == 2, (command, answer)
            assert answer.err.startswith("error: "), (command, answer)
            assert "geheim22" not in answer.err
    assert names(folder) == before


def test_a_hint_names_the_store_as_the_command_takes_it(folder: Folder) -> None:
    """`migrate`, `run` and the others that make a store have no use for the hint."""
    for command, words in {**READS, **WRITES, "copy": ("--all",), "move": ("r1",)}.items():
        taken = ("gone.sqlite", "new.sqlite") if command in ("copy", "move") else ("gone.sqlite",)
        if command in POSITIONAL or len(taken) > 1:
            answer, name = folder.call(command, *taken, *words), "PATH_OR_URL" if len(taken) == 1 else "SRC"
        else:
            answer, name = folder.call(command, *words, "--checkpoint", *taken), "--checkpoint"
        hints = {line for line in answer.err.splitlines() if "names another" in line}
        wanted = f"hint: `stargraph run GRAPH` and `stargraph migrate STORE` make one; {name} names another."
        assert hints == (set() if command == "doctor" else {wanted}), (command, answer)
    for command, words in {**READS, **WRITES, "migrate": ()}.items():
        answer = folder.call(command, *words, env={"STARGRAPH_REQUIRE_STORE": "1"})
        name = "PATH_OR_URL" if command in {*POSITIONAL, "migrate"} else "--checkpoint"
        assert f"Give {name}, or set STARGRAPH_CHECKPOINT" in answer.err, (command, answer)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("postgres", "postgresql://USER@HOST/DATABASE"),
        ("PostgreSQL", "postgresql://USER@HOST/DATABASE"),
        ("s3", "s3://BUCKET/PREFIX"),
        ("sqlite", "sqlite:///run.sqlite"),
        ("memory", "memory://"),
        ("file", "./run.sqlite"),
    ],
)
def test_a_kind_of_store_is_no_store(folder: Folder, word: str, meant: str) -> None:
    answer = folder.call(*RUN, "--checkpoint", word)
    assert (answer.code, f"Write {meant} , or ./{word} for a file" in answer.err) == (2, True), answer
    assert not Path(word).exists()
    assert folder.call(*RUN, "--checkpoint", f"./{word}").code == 0
    assert Path(word).is_file()


@pytest.mark.parametrize("word", ["null", "None", "undefined", "true", "NaN"])
def test_what_stands_for_a_missing_value_is_no_store(folder: Folder, word: str) -> None:
    for words in ((*RUN, "--checkpoint", word), ("migrate", word), ("runs", "--checkpoint", word)):
        answer = folder.call(*words)
        assert (answer.code, f"./{word} for a file" in answer.err) == (2, True), answer
    assert folder.call(*RUN, env={"STARGRAPH_CHECKPOINT": word}).code == 2
    assert not Path(word).exists()
    assert folder.call(*RUN, "--checkpoint", f"./{word}").code == 0


@pytest.mark.parametrize(
    ("url", "hint"),
    [("file:///tmp/x.sqlite", "Write the path alone: /tmp/x.sqlite"), ("https://b.s3.amazonaws.com/p", "s3://BUCKET")],
)
def test_a_url_of_another_kind_is_guessed(folder: Folder, url: str, hint: str) -> None:
    answer = folder.call(*RUN, "--checkpoint", url)
    assert (answer.code, hint in answer.err) == (2, True), answer


def test_a_word_that_is_no_kind_of_store_is_a_file(folder: Folder) -> None:
    assert folder.call(*RUN, "--checkpoint", "my-bucket").code == 0
    assert Path("my-bucket").is_file()


@pytest.mark.parametrize("command", sorted(set(READS) - {"ui"}))
def test_an_error_quotes_the_url_as_it_was_written(folder: Folder, command: str) -> None:
    assert folder.call(*RUN).code == 0
    for url in ("sqlite://x", "sqlite:///.stargraph/run.sqlite?mode=ro", "s3://my-bucket/p?mode=ro"):
        named = [url] if command in POSITIONAL else ["--checkpoint", url]
        answer = folder.call(command, *READS[command], *named, "--json")
        assert answer.code == 2, answer
        assert "read_only=true" not in answer.json["error"]["message"]


@pytest.mark.parametrize("command", ["run", "migrate", *sorted(WRITES)])
def test_a_command_that_writes_refuses_a_read_only_url(folder: Folder, command: str) -> None:
    assert folder.call(*RUN).code == 0
    words = {"run": RUN[1:], "migrate": (), **WRITES}[command]
    for url in ("sqlite:///.stargraph/run.sqlite?read_only=true", "memory://?read_only=true"):
        named = [url] if command == "migrate" else ["--checkpoint", url]
        answer = folder.call(command, *words, *named)
        assert answer.code == 2, answer
        if url.startswith("sqlite"):
            assert "is opened read-only, and this command writes to it" in answer.err
            assert "Leave read_only out of the URL" in answer.err


@pytest.mark.parametrize("command", sorted({*READS, "schedule", "resume", "prune"} - {"ui"}))
def test_a_command_that_only_reads_takes_a_read_only_url(folder: Folder, command: str) -> None:
    assert folder.call(*RUN).code == 0
    counts = {"resume": (*WRITES["resume"], "--check"), "prune": (*WRITES["prune"], "--dry-run"), "schedule": ("list",)}
    url = "sqlite:///.stargraph/run.sqlite?read_only=true"
    before = Path(".stargraph/run.sqlite").read_bytes()
    named = [url] if command in POSITIONAL else ["--checkpoint", url]
    words = {**READS, **counts}[command]
    answer = folder.call(command, *words, *named)
    assert answer.code == 0, answer
    assert Path(".stargraph/run.sqlite").read_bytes() == before


def test_a_reason_for_programs(folder: Folder) -> None:
    for env, reason in (
        ({"STARGRAPH_CHECKPOINT": ""}, "invalid-url"),
        ({"STARGRAPH_CHECKPOINT": "s3:/b/p"}, "invalid-url"),
        ({"STARGRAPH_REQUIRE_STORE": "1"}, "no-store-named"),
    ):
        assert folder.call(*RUN, "--json", env=env).json["error"]["reason"] == reason
    assert not Path(".stargraph").exists()


@pytest.mark.parametrize(
    ("value", "code"), [("1", 2), ("true", 2), ("anything", 2), ("0", 0), ("false", 0), ("", 0), ("off", 0)]
)
def test_the_default_store_can_be_refused(folder: Folder, value: str, code: int) -> None:
    assert folder.call(*RUN, env={"STARGRAPH_REQUIRE_STORE": value}).code == code
    assert Path(".stargraph").exists() == (code == 0)
    named = folder.call(*RUN, "--checkpoint", "named.sqlite", env={"STARGRAPH_REQUIRE_STORE": value})
    assert named.code == 0


def test_the_home_directory_is_expanded(folder: Folder, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    assert folder.call(*RUN, "--checkpoint", "~/deep/run.sqlite", env=home).code == 0
    assert (tmp_path / "home" / "deep" / "run.sqlite").exists()
    assert folder.call("inspect", "r1", env={**home, "STARGRAPH_CHECKPOINT": "~/deep/run.sqlite"}).code == 0
    assert not Path("~").exists()


@pytest.mark.parametrize("store", [None, "no/run.sqlite", "sqlite:///no/run.sqlite"])
@pytest.mark.parametrize("command", sorted(READS))
def test_a_command_that_reads_makes_nothing(folder: Folder, command: str, store: str | None) -> None:
    before = names(folder)
    named = [] if store is None else [store] if command in POSITIONAL else ["--checkpoint", store]
    answer = folder.call(command, *READS[command], *named)
    assert answer.code == (0 if command == "doctor" else 2), answer
    if command != "doctor":
        assert "there is no store at" in answer.err
        assert "stargraph migrate" in answer.err
    assert names(folder) == before


def files(folder: Folder) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder.path / ".stargraph").iterdir()}


@pytest.mark.parametrize("command", sorted(set(READS) - POSITIONAL))
def test_a_command_that_reads_leaves_the_store_as_it_is(folder: Folder, command: str) -> None:
    assert folder.call(*RUN).code == 0
    before = files(folder)
    assert folder.call(command, *READS[command]).code == 0
    assert files(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
@pytest.mark.parametrize("command", sorted(set(READS) - {"ui"}))
def test_a_store_that_may_only_be_read_is_read(folder: Folder, command: str) -> None:
    assert folder.call(*RUN).code == 0
    (folder.path / ".stargraph").chmod(0o500)
    (folder.path / ".stargraph" / "run.sqlite").chmod(0o400)
    assert folder.call(command, *READS[command]).code == 0


@pytest.mark.parametrize("command", sorted(WRITES))
def test_a_command_that_goes_on_with_runs_makes_no_store(folder: Folder, command: str) -> None:
    before = names(folder)
    assert folder.call(command, *WRITES[command]).code == 2
    assert names(folder) == before


def test_a_copy_makes_its_destination_alone(folder: Folder) -> None:
    before = names(folder)
    assert folder.call("copy", "no.sqlite", "other.sqlite", "--all").code == 2
    assert folder.call("move", "no.sqlite", "other.sqlite", "r1").code == 2
    assert names(folder) == before


def test_migrate_makes_a_store_and_may_be_repeated(folder: Folder) -> None:
    for _ in range(2):
        answer = folder.call("migrate", "new/run.sqlite")
        assert (answer.code, answer.out) == (0, "store new/run.sqlite is ready\n")
    assert folder.call("runs", "--checkpoint", "new/run.sqlite").out == "no runs\n"
    assert folder.call("migrate", "--json", env={"STARGRAPH_CHECKPOINT": "other.sqlite"}).json["ready"] is True
    assert Path("other.sqlite").exists()
    assert folder.call("migrate", env={"STARGRAPH_REQUIRE_STORE": "1"}).code == 2


def test_every_command_that_takes_a_store_is_in_these_tests() -> None:
    known = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    without_store = {"graph", "schema", "drivers", "validate"}
    assert known - without_store == {"run", "enqueue", "copy", "move", "import", "migrate", *READS, *WRITES}


class ReadOnlyDriver:
    """A driver that says what it was opened as, and knows a store by the word `there` in its URL."""

    opened: list[str] = []  # noqa: RUF012

    def __init__(self, url: str) -> None:
        self._url = url

    @classmethod
    def from_url(cls, url: str, /) -> ReadOnlyDriver:
        cls.opened.append(url)
        return cls(url)

    @property
    def read_only(self) -> bool:
        return "read_only=true" in self._url

    async def bootstrap(self) -> None:
        if self.read_only and "there" not in self._url:
            raise StoreUnavailableError("there is nothing", reason="no-store")
        if not self.read_only:
            self.opened.append("writes")

    async def list_runs(self, **_: object) -> list[object]:
        return []

    async def read_latest(self, run_id: str) -> None:
        return None

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None: ...


@pytest.fixture
def server(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr("stargraph.checkpoint.registry._registry.find_driver", lambda address: ReadOnlyDriver)
    monkeypatch.setattr("stargraph.checkpoint.registry.find_driver", lambda address: ReadOnlyDriver)
    ReadOnlyDriver.opened.clear()
    return folder


def test_a_server_is_read_without_making_anything_there(server: Folder) -> None:
    answer = server.call("runs", "--checkpoint", "my://there")
    assert (answer.code, answer.out) == (0, "no runs\n")
    assert ReadOnlyDriver.opened == ["my://there?read_only=true"]
    missing = server.call("runs", "--checkpoint", "my://u:geheim22@gone")
    assert (missing.code, "writes" in ReadOnlyDriver.opened) == (2, False)
    assert missing.err.startswith("error: there is no store at my://u:***@gone\n")


def test_a_server_without_a_store_is_not_given_one_by_a_resume(server: Folder) -> None:
    assert server.call("cancel", "r1", "--checkpoint", "my://gone").code == 2
    assert "writes" not in ReadOnlyDriver.opened
    assert server.call("cancel", "r1", "--checkpoint", "my://there").code == 2
    assert ReadOnlyDriver.opened[-2:] == ["my://there?read_only=true", "writes"]


def test_the_printed_command_repeats_what_it_needs(folder: Folder, tmp_path: Path) -> None:
    folder.write("graph.yaml", "id: g\nnodes: [{id: a, kind: 'steps:fails'}]\n")
    folder.write("steps.py", "def fails(state): raise ValueError('x')\n")
    keys = tmp_path / "my keys.txt"
    keys.write_text(f"# of 2026\n\n{KEYS}\r\n", encoding="utf-8-sig")
    keys.chmod(0o600)
    store = ("--checkpoint", "my store.sqlite", "--encryption-keys", str(keys))
    answer = folder.call("run", "graph.yaml", "--run-id", "r1", *store)
    assert answer.code == 1
    printed = re.findall(r"with: stargraph (.*)", answer.err)
    assert len(printed) == 3, "to resume, to resume with changed code, to inspect"
    resumed = folder.call(*shlex.split(printed[0]))
    assert resumed.code == 1, "it fails again, at the same node"
    assert "ValueError: x" in resumed.err
    assert "Traceback" in folder.call(*shlex.split(printed[2])).out
    shown = folder.call("run", "graph.yaml", "--run-id", "r2", "--json", *store).json
    assert shown["resume"] == shlex.join(["stargraph", "resume", "r2", "graph.yaml", *store])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file holds no key"),
        (b" \r\n\n\t\n", "the file holds no key"),
        (b"# a comment alone\n", "the file holds no key"),
        (b"\xef\xbb\xbf", "the file holds no key"),
        (b"k:short\n", "the secret of key 1 is shorter than 16 bytes"),
        (b"\xff\xfe\x00", "the file is not text"),
        (KEYS.encode() * 2 + b" x", "more than one key"),
        (f"{KEYS},k2:{'x' * 16}".encode(), "more than one key"),
        (f"{KEYS}\n{KEYS}\n".encode(), "given twice"),
        (f'"{KEYS}"\n'.encode(), "in quotes"),
    ],
)
def test_a_key_file_that_gives_no_keys_never_stores_readable(folder: Folder, content: bytes, complaint: str) -> None:
    keys = folder.path / "keys.txt"
    keys.write_bytes(content)
    keys.chmod(0o600)
    for env in ({}, {"STARGRAPH_ENCRYPTION_KEY": KEYS}):
        answer = folder.call(*RUN, "--encryption-keys", "keys.txt", env=env)
        assert answer.code == 2
        assert answer.err.startswith("error: --encryption-keys keys.txt: ")
        assert complaint in answer.err
    assert not Path(".stargraph").exists()


@pytest.mark.parametrize("name", ["", "nowhere.txt", ".", "keys.txt/x"])
def test_a_key_file_that_is_none_is_refused(folder: Folder, name: str) -> None:
    folder.write("keys.txt", KEYS)
    answer = folder.call(*RUN, "--encryption-keys", name, "--json")
    assert (answer.code, answer.json["error"]["reason"]) == (2, "invalid-encryption-key")
    assert not Path(".stargraph").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o610])
def test_a_key_file_that_others_can_read_is_refused(folder: Folder, mode: int) -> None:
    keys = folder.write("keys.txt", KEYS)
    keys.chmod(mode)
    answer = folder.call(*RUN, "--encryption-keys", "keys.txt")
    assert answer.code == 2
    assert "others than its owner can read the keys" in answer.err
    assert "chmod 600 keys.txt" in answer.err
    keys.chmod(0o600)
    assert folder.call(*RUN, "--encryption-keys", "keys.txt").code == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_group_may_read_the_keys_of_root_alone(folder: Folder) -> None:
    keys = folder.write("keys.txt", KEYS)
    keys.chmod(0o440)
    assert folder.call(*RUN, "--encryption-keys", "keys.txt").code == 0
    os.chown(keys, 12345, 12345)
    assert folder.call(*RUN, "--encryption-keys", "keys.txt").code == 2


@pytest.mark.parametrize("variable", ["STARGRAPH_ENCRYPTION_KEY", "STARGRAPH_INTEGRITY_KEY"])
@pytest.mark.parametrize("value", ["", " ", ",", "k:short"])
def test_a_variable_that_gives_no_keys_never_stores_without_them(folder: Folder, variable: str, value: str) -> None:
    answer = folder.call(*RUN, env={variable: value})
    assert answer.code == 2
    assert answer.err.startswith(f"error: {variable}")
    assert not Path(".stargraph").exists()


def test_the_keys_of_a_file_do_not_reach_child_processes(folder: Folder) -> None:
    folder.write("graph.yaml", "id: g\nstate_schema: {keys: str}\nnodes: [{id: a, kind: 'looks:looks'}]\n")
    folder.write(
        "looks.py", "import os\ndef looks(state): return {'keys': os.environ.get('STARGRAPH_ENCRYPTION_KEY', 'none')}\n"
    )
    keys = folder.write("keys.txt", KEYS)
    keys.chmod(0o600)
    answer = folder.call("run", "graph.yaml", "-i", "keys=", "--encryption-keys", "keys.txt", "--json")
    assert answer.json["state"]["keys"] == "none"


def test_a_store_is_shown_without_secrets() -> None:
    assert str(StoreRef("postgresql://u:geheim@h/db")) == "postgresql://u:***@h/db"
    assert "geheim" not in StoreRef("postgresql://u:geheim@h/db").command("runs")


def test_a_command_reads_no_store_as_a_file_while_it_is_open(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close a file drops the locks of the process on it, SQLite's too: another process then removes the log."""
    folder.write("steps.py", "def work(state):\n    print('x')\n    return {}\n")
    folder.write("graph.yaml", "id: g\nnodes: [{id: a, kind: 'steps:work'}]\n")
    opened: list[str] = []
    read_text = Path.read_text

    def watched(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "run.sqlite":
            opened.append(str(path))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", watched)
    assert folder.call("run", "graph.yaml", "--checkpoint", "run.sqlite", "--run-id", "r").code == 0
    assert opened == []


def test_a_store_in_memory_is_for_a_quick_try(folder: Folder) -> None:
    folder.write("bad.py", "def fail(state):\n    raise LookupError('no')\n")
    folder.write("bad.yaml", 'id: bad\nnodes: [{id: only, kind: "bad:fail"}]\n')
    before = names(folder)
    tried = folder.call(*RUN, "--checkpoint", "memory://")
    assert (tried.code, tried.out.count("node=second")) == (0, 2), tried
    failed = folder.call("run", "bad.yaml", "--checkpoint", "memory://", "--json")
    assert (failed.code, failed.json["resume"]) == (1, None)
    assert "nothing of the run is left" in failed.err
    assert "stargraph resume" not in failed.err
    for command, words in {**READS, **WRITES}.items():
        if command != "doctor":
            named = ["memory://"] if command in POSITIONAL else ["--checkpoint", "memory://"]
            refused = folder.call(command, *words, *named)
            assert refused.code == 2, (command, refused)
            assert "a store in memory ends with the command that made it" in refused.err, (command, refused)
    assert names(folder) == before


def test_a_question_that_nobody_can_answer_later_is_said_so(folder: Folder) -> None:
    text = "id: ask\nstate_schema: {ok: {type: bool, default: false}}\n"
    folder.write("ask.yaml", text + "nodes: [{id: q, kind: interrupt, prompt: 'Well?', into: ok}]\n")
    asked = folder.call("run", "ask.yaml", "--checkpoint", "memory://")
    assert asked.code == 3, asked
    assert "Well?" in asked.err
    assert "nothing of the run is left" in asked.err
    assert "stargraph respond" not in asked.err


@pytest.mark.parametrize(
    ("store", "code"), [("nope.sqlite", 2), ("redis://user:hunter22@h/0", 2), ("s3://KEY:hunter22@bucket", 2)]
)
def test_pages_are_served_of_a_store_that_is_there(folder: Folder, store: str, code: int) -> None:
    refused = folder.call("ui", store)
    assert (refused.code, refused.out) == (code, "")
    assert "hunter22" not in refused.err
    assert not (folder.path / "nope.sqlite").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("verify",),
        ("prune", "--older-than", "1d"),
        ("delete", "r", "--yes"),
        ("cancel", "r"),
        ("pause", "r"),
        ("respond", "r", "--value", "1"),
        ("resume", "r", "graph.yaml"),
        ("requeue", "r"),
        ("schedule", "remove", "s"),
    ],
    ids=operator.itemgetter(0),
)
def test_a_file_that_was_only_touched_is_no_store_and_stays_empty(folder: Folder, words: tuple[str, ...]) -> None:
    file = folder.path / "touched.sqlite"
    file.touch()
    answer = folder.call(*words, "--checkpoint", "touched.sqlite")
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: there is no store at touched.sqlite")
    assert file.stat().st_size == 0


def test_the_doctor_leaves_a_file_that_was_only_touched_as_it_is(folder: Folder) -> None:
    file = folder.path / "touched.sqlite"
    file.touch()
    answer = folder.call("doctor", "touched.sqlite")
    assert (answer.code, "does not exist yet" in answer.out, file.stat().st_size) == (0, True, 0)
