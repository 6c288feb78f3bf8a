"""Every command that takes `--checkpoint postgresql://…`, as a user types it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from support.cli import Answer, Folder
from support.ports import free_port

pytestmark = pytest.mark.thorough

GRAPH = """
id: approval
state_schema:
  amount: {type: float, default: 12.5}
  approved: {type: "bool | None", default: null}
nodes:
  - {id: begin, kind: echo}
  - {id: approve, kind: interrupt, prompt: "Approve {amount}?", into: approved}
  - {id: end, kind: echo}
"""

SECRET = "hush-hush"


class Shell(Folder):
    """A folder with a graph, and a store whose URL has a password."""

    def __init__(self, path: Path, checkpoint: str) -> None:
        super().__init__(path)
        self.write("graph.yaml", GRAPH)
        self.checkpoint = checkpoint

    def stargraph(self, *words: str, code: int = 0, env: dict[str, str] | None = None) -> Answer:
        answer = self.call(*words, env=env)
        assert SECRET not in answer.out + answer.err
        assert answer.code == code, (words, answer)
        return answer

    def at_store(self, *words: str, code: int = 0, env: dict[str, str] | None = None) -> Answer:
        return self.stargraph(*words, "--checkpoint", self.checkpoint, code=code, env=env)


@pytest.fixture
async def shell(
    dsn: str, sql: asyncpg.Connection, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shell]:
    role = f"cli_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'; CREATE SCHEMA {schema} AUTHORIZATION {role}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STARGRAPH_CHECKPOINT", raising=False)
    yield Shell(tmp_path, f"{dsn.replace('//postgres@', f'//{role}:{SECRET}@', 1)}?schema={schema}&timeout=300")
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def statuses(shell: Shell, *words: str) -> dict[str, str]:
    return {found["run_id"]: found["status"] for found in shell.at_store("runs", *words, "--json").json}


def test_a_run_from_its_start_to_its_end(shell: Shell, schema: str) -> None:
    assert "Approve 12.5?" in shell.at_store("run", "graph.yaml", "--run-id", "r1", "--tag", "team=a", code=3).err
    assert statuses(shell) == {"r1": "awaiting_input"}
    shell.at_store("resume", "r1", "graph.yaml", "--check")
    shell.at_store("respond", "r1", "--value", "true")
    ended = shell.at_store("resume", "r1", "graph.yaml", "--json").json
    assert (ended["status"], ended["state"]) == ("done", {"amount": 12.5, "approved": True})
    assert statuses(shell, "--status", "done", "--tag", "team=a") == {"r1": "done"}
    assert statuses(shell, "--tag", "team=b") == {}
    output = shell.at_store("inspect", "r1", "--json").json
    assert [step["event"] for step in output["timeline"]][:2] == ["started", "completed"]
    assert shell.at_store("inspect", "r1", "--step", "0", "--json").json["state"]["approved"] is None
    store = shell.stargraph("doctor", shell.checkpoint, "--json").json["store"]
    assert (store["state"], store["newest_run"]) == ("works", "r1")
    assert ":***@" in store["url"]
    assert f"schema={schema}" in store["url"]


def test_a_run_that_is_cancelled_takes_nothing_more(shell: Shell) -> None:
    shell.at_store("run", "graph.yaml", "--run-id", "r2", code=3)
    shell.at_store("cancel", "r2")
    assert statuses(shell) == {"r2": "cancelled"}
    assert shell.at_store("respond", "r2", "--value", "true", code=2).err.startswith("error: ")
    assert shell.at_store("inspect", "unknown", code=2).err.startswith("error: ")


def test_the_environment_names_the_store(shell: Shell) -> None:
    env = {"STARGRAPH_CHECKPOINT": shell.checkpoint}
    shell.stargraph("run", "graph.yaml", "--run-id", "r3", code=3, env=env)
    assert "r3" in shell.stargraph("runs", env=env).out
    assert "works" in shell.stargraph("doctor", env=env).out


def test_keys_of_the_environment_encrypt_the_store(shell: Shell) -> None:
    keys = {"STARGRAPH_ENCRYPTION_KEY": f"k1:{SECRET * 4}"}
    shell.at_store("run", "graph.yaml", "--run-id", "r4", code=3, env=keys)
    shell.at_store("respond", "r4", "--value", "true", env=keys)
    assert shell.at_store("inspect", "r4", "--step", "0", "--json", env=keys).json["state"]["amount"] == 12.5
    assert "r4" in shell.at_store("runs").out
    output = shell.at_store("inspect", "r4", code=7).err
    assert "STARGRAPH_ENCRYPTION_KEY" in output


COMMANDS = {
    "run": ("run", "graph.yaml"),
    "resume": ("resume", "r1", "graph.yaml"),
    "respond": ("respond", "r1", "--value", "1"),
    "pause": ("pause", "r1"),
    "cancel": ("cancel", "r1"),
    "runs": ("runs",),
    "inspect": ("inspect", "r1"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_server_that_refuses_is_one_error(shell: Shell, words: tuple[str, ...]) -> None:
    shell.checkpoint = shell.checkpoint.replace("/postgres?", "/nowhere?")
    output = shell.at_store(*words, code=7).err
    assert output.startswith("error: ")
    assert "Traceback" not in output
    assert "nowhere" in output


def test_the_doctor_tells_that_nobody_answers(shell: Shell) -> None:
    nobody = f"postgresql://user:{SECRET}@127.0.0.1:{free_port()}/db?timeout=300"
    answer = shell.stargraph("doctor", nobody, code=7)
    assert "does not work" in answer.out
    assert "Check that the server runs" in answer.err
