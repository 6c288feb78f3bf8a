"""Threads move from LangGraph's own savers and back, and can be read on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import asyncpg
import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from typer.testing import CliRunner

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CheckpointError
from stargraph.langgraph import StargraphSaver
from stargraph.langgraph._cli import app, main
from stargraph.langgraph._move import _are_equal, copy_threads
from stargraph.langgraph._opaque import OpaqueSerializer

from .test_graphs import Story, approval, comparable, config, each_story, history
from .test_random_calls import VALUES
from .test_saver import place_of


@each_story
async def test_a_story_reads_the_same_after_it_moved_and_moved_back(story: Story) -> None:
    source, back = InMemorySaver(), InMemorySaver()
    await story(source)
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        first = await copy_threads(source, ours)
        assert first.copied > 0
        again = await copy_threads(source, ours)
        assert (again.copied, again.present) == (0, first.copied)
        await copy_threads(ours, back)
    assert (await copy_threads(source, back)).copied == 0


class Theirs(NamedTuple):
    """A schema of PostgreSQL for LangGraph's saver.

    Attributes:
        dsn: names it to LangGraph's saver, which makes its tables there.
        schema: its name.
        connection: a connection of the test, with the tables of the server's default schema.
    """

    dsn: str
    schema: str
    connection: Any


@pytest.fixture
async def theirs(postgres: str) -> AsyncIterator[Theirs]:
    schema = f"theirs_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE SCHEMA {schema}")
    try:
        separator = "&" if "?" in postgres else "?"
        yield Theirs(f"{postgres}{separator}options=-csearch_path%3D{schema}", schema, connection)
    finally:
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()


async def call(*words: object) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in words])


async def test_an_interrupted_thread_goes_on_after_it_moved(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "theirs.sqlite")) as theirs:
        await approval(theirs).ainvoke({"n": 0, "log": []}, config())
    done = await call("import", tmp_path / "theirs.sqlite", tmp_path / "ours.sqlite")
    assert done.exit_code == 0, done.output
    assert "1 thread, 3 checkpoints copied and verified" in done.output
    async with StargraphSaver.from_url(str(tmp_path / "ours.sqlite")) as ours:
        graph: Any = approval(ours)
        answered = await graph.ainvoke(Command(resume="yes"), config())
        assert answered["log"][:2] == ["count", "answer yes"]
        expected = comparable(await history(graph, config()))
    done = await call("export", tmp_path / "ours.sqlite", tmp_path / "back.sqlite")
    assert done.exit_code == 0, done.output
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "back.sqlite")) as back:
        assert comparable(await history(approval(back), config())) == expected


@pytest.mark.parametrize("words", [["import", "none.sqlite", "x.sqlite"], ["import"], ["export", "a"]])
def test_a_mistake_ends_with_2(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.parametrize("words", [["import", "text.py", "new.sqlite"], ["export", "new.sqlite", "text.py"]])
def test_a_file_of_another_kind_is_named_without_a_traceback(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.py").write_text("nothing = None\n" * 100)
    with StargraphSaver.from_url("new.sqlite"):
        pass
    monkeypatch.setattr("sys.argv", ["stargraph-langgraph", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "text.py: LangGraph's saver cannot use it: file is not a database" in told
    assert "Traceback" not in told
    assert (tmp_path / "text.py").read_text() == "nothing = None\n" * 100


def stargraph_store(file: Path) -> None:
    with StargraphSaver.from_url(str(file)) as saver:
        approval(saver).invoke({"n": 0, "log": []}, config())


def other_database(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE checkpoints (kilometre INTEGER)")


def database_without_threads(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")


@pytest.mark.parametrize(
    ("make", "words", "complaint"),
    [
        (stargraph_store, ["export", "x", "x"], "it is a Stargraph store"),
        (stargraph_store, ["import", "x", "new"], "it is a Stargraph store"),
        (other_database, ["import", "x", "new"], "its table 'checkpoints' is not that of LangGraph's own saver"),
        (other_database, ["export", "ours", "x"], "its table 'checkpoints' is not that of LangGraph's own saver"),
        (database_without_threads, ["import", "x", "new"], "it holds no threads"),
        (Path.touch, ["import", "x", "new"], "it holds no threads"),
    ],
)
def test_what_is_no_database_of_their_saver_is_refused_before_it_is_changed(
    make: Callable[[Path], None],
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x")
    stargraph_store(tmp_path / "ours")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr("sys.argv", ["stargraph-langgraph", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"error: x: {complaint}" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_export_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stargraph-langgraph", "export", "sqlite:///misspelt.sqlite", "back.sqlite"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert "misspelt.sqlite" in lines[0]
    assert lines[0].startswith("error: ")
    assert lines[1:] == ["hint: Correct the path or URL of SOURCE."]
    assert not list(tmp_path.iterdir())


APPLICATION = """
import enum
from dataclasses import dataclass
from pydantic import BaseModel

class Color(enum.Enum):
    RED = "red"

class Ticket(BaseModel):
    title: str

@dataclass
class Point:
    x: float
    ticket: Ticket
"""


def application_values(monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[Any]]:
    """Return the name of a new module, which can be imported, and values of its classes."""
    module: Any = ModuleType(f"application_{uuid.uuid4().hex}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(APPLICATION, module.__dict__)  # noqa: S102  # the text above
    return module.__name__, [
        module.Color.RED,
        module.Point(float("nan"), module.Ticket(title="t")),
        {1: b"b", "n": 2**63},
    ]


async def put_values(saver: Any, values: list[Any]) -> None:
    made: Any = {**empty_checkpoint(), "channel_values": {"a": values, "b": values[0], "c": "text", "d": b"bytes"}}
    made["channel_versions"] = dict.fromkeys(made["channel_values"], f"{1:032}.5")
    where = await saver.aput(place_of("t"), made, {"step": 0}, made["channel_versions"])
    await saver.aput_writes(where, [("a", values[1]), ("__error__", values)], "task")


async def test_a_command_moves_values_whose_classes_it_cannot_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, values = application_values(monkeypatch)
    application = sys.modules[name]
    theirs, ours, back = (str(tmp_path / each) for each in ("theirs.sqlite", "ours.sqlite", "back.sqlite"))
    async with AsyncSqliteSaver.from_conn_string(theirs) as saver:
        await put_values(saver, values)
    monkeypatch.delitem(sys.modules, name)
    for words in (("import", theirs, ours), ("export", ours, back), ("import", back, ours)):
        done = await call(*words)
        assert done.exit_code == 0, done.output
    assert "0 checkpoints copied and verified, 1 there already" in done.output
    monkeypatch.setitem(sys.modules, name, application)
    async with StargraphSaver.from_url(ours) as one, AsyncSqliteSaver.from_conn_string(back) as two:
        for reader in (one, two):
            found: Any = await reader.aget_tuple(place_of("t"))
            kept = found.checkpoint["channel_values"]
            assert repr(kept) == repr({"a": values, "b": values[0], "c": "text", "d": b"bytes"})
            assert repr(sorted(found.pending_writes)) == repr([("task", "__error__", values), ("task", "a", values[1])])


async def test_a_command_moves_a_checkpoint_in_the_form_of_old_versions(tmp_path: Path) -> None:
    constructor = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "HumanMessage"]}
    old: Any = {**empty_checkpoint(), "channel_values": {"m": [{**constructor, "kwargs": {"content": "hi"}}], "n": 1}}
    old["channel_versions"] = dict.fromkeys(old["channel_values"], f"{1:032}.5")
    theirs, ours, back = (str(tmp_path / each) for each in ("theirs.sqlite", "ours.sqlite", "back.sqlite"))
    async with AsyncSqliteSaver.from_conn_string(theirs) as saver:
        await saver.setup()
        row = ("t", "", old["id"], None, "json", json.dumps(old).encode(), b"{}")
        await saver.conn.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        await saver.conn.commit()
        expected: Any = await saver.aget_tuple(place_of("t"))
    assert expected.checkpoint["channel_values"] == {"m": [HumanMessage("hi")], "n": 1}
    for words in (("import", theirs, ours), ("export", ours, back)):
        done = await call(*words)
        assert done.exit_code == 0, done.output
    async with StargraphSaver.from_url(ours) as one, AsyncSqliteSaver.from_conn_string(back) as two:
        for reader in (one, two):
            found: Any = await reader.aget_tuple(place_of("t"))
            assert found.checkpoint == expected.checkpoint


def test_the_serializer_of_a_move_says_what_is_a_snapshot_of_a_delta_channel() -> None:
    for value in (_DeltaSnapshot([1]), {"inside": _DeltaSnapshot([1, b"b"])}):
        typed = JsonPlusSerializer().dumps_typed(value)
        loaded = OpaqueSerializer().loads_typed(typed)
        assert isinstance(loaded["inside"] if isinstance(loaded, dict) else loaded, _DeltaSnapshot)
        assert OpaqueSerializer().dumps_typed(loaded) == typed


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_the_serializer_of_a_move_writes_what_it_has_read(value: Any) -> None:
    theirs, serializer = JsonPlusSerializer(), OpaqueSerializer()
    typed = theirs.dumps_typed(value)
    assert serializer.dumps_typed(serializer.loads_typed(typed)) == typed
    loaded = serializer.loads_typed(theirs.dumps_typed({"inside": [value]}))
    assert serializer.dumps_typed(loaded) == theirs.dumps_typed({"inside": [value]})
    for other in (("msgpack+aes", b"secret"), ("pickle", b"never loaded")):
        assert serializer.dumps_typed(serializer.loads_typed(other)) == other


async def test_a_checkpoint_of_another_serializer_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encrypted = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "theirs.sqlite")) as saver:
        saver.serde = encrypted
        await approval(saver).ainvoke({"n": 0, "log": []}, config())
        async with StargraphSaver.from_url(str(tmp_path / "ours.sqlite"), encrypted) as ours:
            assert (await copy_threads(saver, ours)).copied == 3
    for words in (["import", "theirs.sqlite", "new.sqlite"], ["export", "ours.sqlite", "back.sqlite"]):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["stargraph-langgraph", *words])
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main)
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert "by another serializer, in the form 'msgpack+aes'" in told
        assert "hint: Call stargraph.langgraph.copy_threads" in told


class Undecided:
    """Like an array, it does not say whether it equals another one."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


async def test_values_that_do_not_equal_themselves_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    _, values = application_values(monkeypatch)
    source = InMemorySaver()
    await put_values(source, [*values, {"nan": [float("nan")]}, (float("nan"),)])
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        assert [(await copy_threads(source, ours)).copied for _ in range(2)] == [1, 0]
    assert not _are_equal(float("nan"), 1.0)
    assert not _are_equal([float("nan")], [float("nan"), 1])
    assert not _are_equal({"a": float("nan")}, {"b": float("nan")})
    assert not _are_equal(Undecided(), Undecided())


async def test_an_interrupted_copy_is_repeated_and_copies_the_rest() -> None:
    source = InMemorySaver()
    for number in range(6):
        await approval(source).ainvoke({"n": number, "log": []}, config(f"thread {number}"))
    seen: list[tuple[int, int]] = []

    def stop_after_seven(done: int, of: int) -> None:
        seen.append((done, of))
        if done == 7:
            raise KeyboardInterrupt

    async with StargraphSaver(MemoryCheckpointer()) as ours:
        with pytest.raises(KeyboardInterrupt):
            await copy_threads(source, ours, progress=stop_after_seven)
        assert seen == [(done, 18) for done in range(1, 8)]
        report = await copy_threads(source, ours)
        assert (report.threads, report.copied, report.present) == (6, 11, 7)


@pytest.mark.thorough
async def test_a_copy_lists_names_and_no_values(
    theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangGraph's saver for PostgreSQL loads all that it lists at once."""
    options: Any = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    connections: Any = AsyncConnectionPool(theirs.dsn, min_size=1, max_size=2, kwargs=options, open=False)
    async with (
        AsyncPostgresSaver.from_conn_string(theirs.dsn) as one,
        connections as pool,
        AsyncSqliteSaver.from_conn_string(str(tmp_path / "theirs.sqlite")) as two,
        StargraphSaver(MemoryCheckpointer()) as ours,
    ):
        await one.setup()
        for thread in ("b", "a"):
            await approval(one).ainvoke({"n": 0, "log": []}, config(thread))
        for kind in (AsyncPostgresSaver, AsyncSqliteSaver, StargraphSaver):
            monkeypatch.setattr(kind, "alist", None)
        reports = [
            await copy_threads(source, target)
            for source, target in ((one, two), (two, ours), (ours, one), (AsyncPostgresSaver(pool), ours))
        ]
    assert [(each.threads, each.copied, each.present) for each in reports] == [
        (2, 6, 0),
        (2, 6, 0),
        (2, 0, 6),
        (2, 0, 6),
    ]


async def test_a_copy_goes_from_thread_to_thread() -> None:
    source = InMemorySaver()
    for thread in ("b", "a", "b"):
        await approval(source).ainvoke({"n": 0, "log": []}, config(thread))
    written: list[str] = []

    class Noting(InMemorySaver):
        def put(self, config: Any, *words: Any) -> Any:
            written.append(config["configurable"]["thread_id"])
            return super().put(config, *words)

    await copy_threads(source, Noting())
    assert written == sorted(written)
    assert len(written) > 6


async def test_a_checkpoint_that_reads_back_otherwise_is_told_from_a_thread_that_has_gone_on() -> None:
    class Forgetful(InMemorySaver):
        def get_tuple(self, config: Any) -> Any:
            found = super().get_tuple(config)
            return found and found._replace(metadata={**found.metadata, "step": 99})

    source = InMemorySaver()
    await approval(source).ainvoke({"n": 0, "log": []}, config())
    with pytest.raises(CheckpointError, match="reads back as another one") as raised:
        await copy_threads(source, target := Forgetful())
    assert raised.value.reason == "not-equal"
    assert raised.value.hint is not None
    assert raised.value.hint.endswith("report this.")
    with pytest.raises(CheckpointError, match="in the target already with other writes") as raised:
        await copy_threads(source, target)
    assert raised.value.reason == "not-equal"
    assert raised.value.hint is not None
    assert "gone on since an earlier copy" in raised.value.hint


async def put_metadata(saver: Any, metadata: dict[str, Any], thread_id: Any = "t", *, number: int = 1) -> None:
    made: Any = {**empty_checkpoint(), "channel_values": {"n": number}, "channel_versions": {"n": f"{number:032}.5"}}
    place: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    await saver.aput(place, made, metadata, made["channel_versions"])


def refused_export(
    source: str, dest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    monkeypatch.setattr("sys.argv", ["stargraph-langgraph", "export", source, dest])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()


ODD: list[Any] = [dt.datetime(2026, 1, 1), {1, 2}, b"bytes", {1: 2}, [{"inside": uuid.UUID(int=1)}]]  # noqa: DTZ001


@pytest.mark.parametrize("value", ODD, ids=repr)
async def test_an_export_names_the_checkpoint_whose_metadata_is_no_json(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, back = str(tmp_path / "ours.sqlite"), str(tmp_path / "back.sqlite")
    async with StargraphSaver.from_url(ours) as saver:
        await put_metadata(saver, {"step": 0, "when": value})
        found = await saver.aget_tuple(place_of("t"))
        assert found is not None
        told = await asyncio.to_thread(refused_export, ours, back, monkeypatch, capsys)
        assert told[0].startswith(f"error: thread 't', checkpoint {found.checkpoint['id']}: ")
        assert told[1].startswith("hint: ")
        assert told[1].count("'when'") == 1
        assert "'step'" not in told[1]
        assert len(told) == 2
        # The hint helps.
        await saver.aput(place_of("t"), found.checkpoint, {"step": 0}, {})
    done = await call("export", ours, back)
    assert done.exit_code == 0, done.output


@pytest.mark.thorough
async def test_an_export_names_the_checkpoint_that_a_database_refuses(
    theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = str(tmp_path / "ours.sqlite")
    async with StargraphSaver.from_url(ours) as saver:
        await put_metadata(saver, {"ratio": float("nan")})
    told = await asyncio.to_thread(refused_export, ours, theirs.dsn, monkeypatch, capsys)
    assert told[0].startswith("error: thread 't', checkpoint ")
    assert "'ratio'" in told[-1]


async def test_a_fault_of_a_target_that_is_not_about_a_value_goes_on_to_the_caller() -> None:
    class Broken(InMemorySaver):
        def put(self, *words: Any) -> Any:
            raise ConnectionResetError("gone")

    source = InMemorySaver()
    await put_metadata(source, {})
    with pytest.raises(ConnectionResetError, match="gone"):
        await copy_threads(source, Broken())


async def test_threads_whose_ids_are_not_text_are_copied_as_text() -> None:
    source = InMemorySaver()
    threads = [7, "a", None, uuid.UUID(int=1), 1.5]
    for number, thread_id in enumerate(threads):
        await put_metadata(source, {}, thread_id, number=number)
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        report = await copy_threads(source, ours)
        assert (report.threads, report.copied, report.present) == (5, 5, 0)
        report = await copy_threads(source, ours)
        assert (report.threads, report.copied, report.present) == (5, 0, 5)
        for number, thread_id in enumerate(threads):
            found = await ours.aget_tuple(place_of(str(thread_id)))
            assert found is not None
            assert found.checkpoint["channel_values"] == {"n": number}
        await put_metadata(source, {}, "7")
        with pytest.raises(CheckpointError, match="threads 7 and '7' have the same id as text") as raised:
            await copy_threads(source, ours)
        assert raised.value.reason == "ambiguous-thread"


@pytest.mark.thorough
async def test_threads_move_from_their_database_and_back(theirs: Theirs, tmp_path: Path) -> None:
    async with AsyncPostgresSaver.from_conn_string(theirs.dsn) as saver:
        await saver.setup()
        await approval(saver).ainvoke({"n": 0, "log": []}, config())
        expected = comparable(await history(approval(saver), config()))
    done = await call("import", theirs.dsn, tmp_path / "ours.sqlite")
    assert done.exit_code == 0, done.output
    assert "1 thread, 3 checkpoints copied and verified" in done.output
    async with StargraphSaver.from_url(str(tmp_path / "ours.sqlite")) as ours:
        assert comparable(await history(approval(ours), config())) == expected
        await ours.adelete_thread("none")
    async with AsyncPostgresSaver.from_conn_string(theirs.dsn) as saver:
        await saver.adelete_thread(config()["configurable"]["thread_id"])
    done = await call("export", tmp_path / "ours.sqlite", theirs.dsn)
    assert done.exit_code == 0, done.output
    async with AsyncPostgresSaver.from_conn_string(theirs.dsn) as saver:
        assert comparable(await history(approval(saver), config())) == expected
    async with StargraphSaver.from_url(str(tmp_path / "snapshots.sqlite")) as ours:
        await put_values(ours, [_DeltaSnapshot([1]), 1])
    done = await call("export", tmp_path / "snapshots.sqlite", theirs.dsn)
    assert done.exit_code == 0, done.output
    stored = f"SELECT checkpoint->'channel_values'->>'b' FROM {theirs.schema}.checkpoints WHERE thread_id = 't'"
    assert await theirs.connection.fetchval(stored) == "true", (
        "the mark by which they know a snapshot of a delta channel"
    )


@pytest.mark.thorough
async def test_a_database_is_only_read_by_an_import_and_refused_if_it_holds_something_else(
    postgres: str,
    theirs: Theirs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, schema, connection = theirs
    read_only = f"{path}%20-cdefault_transaction_read_only%3Don"

    def refused(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["stargraph-langgraph", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    async def tables() -> Any:
        return await connection.fetch("SELECT * FROM pg_tables WHERE schemaname = $1 ORDER BY tablename", schema)

    assert "it holds no threads" in await asyncio.to_thread(refused, "import", path, tmp_path / "ours.sqlite")
    assert await tables() == []
    async with AsyncPostgresSaver.from_conn_string(path) as saver:
        await saver.setup()
        await approval(saver).ainvoke({"n": 0, "log": []}, config())
    done = await call("import", read_only, tmp_path / "ours.sqlite")
    assert done.exit_code == 0, done.output
    assert "3 checkpoints copied and verified" in done.output
    # The last migration is one that they have not run yet.
    await connection.execute(
        f"DELETE FROM {schema}.checkpoint_migrations WHERE v = (SELECT max(v) FROM {schema}.checkpoint_migrations)"
    )
    assert "read-only transaction" in await asyncio.to_thread(refused, "import", read_only, tmp_path / "x.sqlite")
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    async with StargraphSaver.from_url(f"{postgres}{'&' if '?' in postgres else '?'}schema={schema}") as ours:
        await approval(ours).ainvoke({"n": 0, "log": []}, config())
    before = await tables()
    told = await asyncio.to_thread(refused, "export", tmp_path / "ours.sqlite", path)
    assert "it is a Stargraph store" in told
    assert await tables() == before
