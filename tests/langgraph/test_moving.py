"""Threads move from LangGraph's own savers and back, and can be read on both sides."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from typer.testing import CliRunner

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CheckpointError
from stargraph.langgraph import StargraphSaver
from stargraph.langgraph._cli import app, main
from stargraph.langgraph._move import copy_threads

from .test_graphs import Story, approval, comparable, config, each_story, history


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


async def test_a_checkpoint_that_reads_back_otherwise_is_reported() -> None:
    class Forgetful(InMemorySaver):
        def get_tuple(self, config: Any) -> Any:
            found = super().get_tuple(config)
            return found and found._replace(metadata={**found.metadata, "step": 99})

    source = InMemorySaver()
    await approval(source).ainvoke({"n": 0, "log": []}, config())
    with pytest.raises(CheckpointError, match="reads back as another one") as raised:
        await copy_threads(source, Forgetful())
    assert raised.value.reason == "not-equal"


@pytest.mark.thorough
async def test_threads_move_from_their_database_and_back(postgres: str, tmp_path: Path) -> None:
    schema = f"theirs_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE SCHEMA {schema}")
    theirs = f"{postgres}{'&' if '?' in postgres else '?'}options=-csearch_path%3D{schema}"
    async with AsyncPostgresSaver.from_conn_string(theirs) as saver:
        await saver.setup()
        await approval(saver).ainvoke({"n": 0, "log": []}, config())
        expected = comparable(await history(approval(saver), config()))
    done = await call("import", theirs, tmp_path / "ours.sqlite")
    assert done.exit_code == 0, done.output
    assert "1 thread, 3 checkpoints copied and verified" in done.output
    async with StargraphSaver.from_url(str(tmp_path / "ours.sqlite")) as ours:
        assert comparable(await history(approval(ours), config())) == expected
        await ours.adelete_thread("none")
    async with AsyncPostgresSaver.from_conn_string(theirs) as saver:
        await saver.adelete_thread(config()["configurable"]["thread_id"])
    done = await call("export", tmp_path / "ours.sqlite", theirs)
    assert done.exit_code == 0, done.output
    async with AsyncPostgresSaver.from_conn_string(theirs) as saver:
        assert comparable(await history(approval(saver), config())) == expected
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()
