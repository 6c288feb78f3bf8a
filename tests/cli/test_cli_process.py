"""The command line as a process: signals, terminals, pipes that close, two of them on one run."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from support.cli import Folder, command

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.cli._execution import run_async
from stargraph.errors import StoreUnavailableError

GRAPH = """\
id: waits
state_schema: {log: {type: "list[str]", default: [], reduce: append}}
nodes:
  - {id: a, kind: "waits:quick"}
  - {id: b, kind: "waits:%s"}
  - {id: c, kind: "waits:quick"}
"""

# A node tells that it runs by a file, and ends when there is another one.
NODES = """\
import asyncio, os, pathlib, time
def mark(name):
    with open("marks", "a") as file:
        file.write(name + "\\n")
async def quick(state, ctx):
    mark(ctx.node)
    return {"log": [ctx.node]}
async def gate(state, ctx):
    mark("b")
    while not os.path.exists("open"):
        await asyncio.sleep(0.01)
    return {"log": ["b"]}
def thread(state, ctx):
    mark("b")
    while not os.path.exists("open"):
        time.sleep(0.01)
    return {"log": ["b"]}
async def blocks(state, ctx):
    mark("b")
    time.sleep(600)
"""

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals"), pytest.mark.thorough]


@pytest.fixture
def waits(folder: Folder) -> Folder:
    folder.write("waits.py", NODES)
    folder.write("graph.yaml", GRAPH % "gate")
    return folder


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def marks(folder: Folder) -> list[str]:
    file = folder.path / "marks"
    return file.read_text().splitlines() if file.exists() else []


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("kind", ["gate", "thread"])
def test_ctrl_c_says_what_is_stored_and_how_to_go_on(waits: Folder, kind: str) -> None:
    waits.write("graph.yaml", GRAPH % kind)
    process = waits.spawn("run", "graph.yaml", "--run-id", "r1")
    until(lambda: "b" in marks(waits), "node b")
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130
    assert out.splitlines()[-1].startswith("outcome      status=interrupted run=r1 step=1 ")
    assert err.endswith(
        "interrupted: run r1 is stored up to step 1 (completed a)\nhint: resume with: stargraph resume r1 graph.yaml\n"
    )
    (waits.path / "open").touch()
    code, out, _ = finish(waits.spawn("resume", "r1", "graph.yaml", "--json"))
    assert code == 0
    assert json.loads(out)["state"]["log"] == ["a", "b", "c"]
    assert marks(waits) == ["a", "b", "b", "c"]


def test_a_second_ctrl_c_ends_a_process_whose_loop_is_blocked(waits: Folder) -> None:
    waits.write("graph.yaml", GRAPH % "blocks")
    process = waits.spawn("run", "graph.yaml", "--run-id", "r1")
    until(lambda: "b" in marks(waits), "node b")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None

    def ended_by_another() -> bool:
        # On a busy machine two of them may have arrived as one.
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        return process.poll() is not None

    until(ended_by_another, "the end of the process")
    assert finish(process)[0] == 130
    log = json.loads(finish(waits.spawn("inspect", "r1", "--json"))[1])
    assert [step["event"] for step in log["timeline"]] == ["started", "completed"]


def test_sigterm_lets_the_running_node_end_and_records_paused(waits: Folder) -> None:
    # However late the node is let go, it ends within the grace.
    patient = "import stargraph.cli._execution as execution; execution._GRACE = 300"
    process = waits.spawn("run", "graph.yaml", "--run-id", "r1", "--json", first=patient)
    until(lambda: "b" in marks(waits), "node b")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "pausing; running nodes have" in next(line for line in process.stderr if "pausing" in line)
    (waits.path / "open").touch()
    code, out, err = finish(process)
    assert code == 4
    assert json.loads(out)["status"] == "paused"
    assert "stargraph resume r1 graph.yaml" in err
    assert finish(waits.spawn("resume", "r1", "graph.yaml", "-q"))[0] == 0
    assert marks(waits) == ["a", "b", "c"]


def test_a_killed_run_goes_on_where_it_was(waits: Folder) -> None:
    process = waits.spawn("run", "graph.yaml", "--run-id", "r1")
    until(lambda: "b" in marks(waits), "node b")
    process.kill()
    process.communicate()
    (waits.path / "open").touch()
    assert finish(waits.spawn("resume", "r1", "graph.yaml", "-q"))[0] == 0
    assert marks(waits) == ["a", "b", "b", "c"]
    log = json.loads(finish(waits.spawn("inspect", "r1", "--json"))[1])
    assert [step["event"] for step in log["timeline"]] == [
        "started",
        "completed",
        "resumed",
        "completed",
        "completed",
    ]


def test_the_executor_that_lost_its_run_ends_with_a_code_of_its_own(waits: Folder) -> None:
    first = waits.spawn("run", "graph.yaml", "--run-id", "r1")
    until(lambda: marks(waits).count("b") == 1, "the first executor")
    second = waits.spawn("resume", "r1", "graph.yaml")
    until(lambda: marks(waits).count("b") == 2, "the second executor")
    (waits.path / "open").touch()
    results = [finish(first), finish(second)]
    assert [code for code, _, _ in results] == [6, 0]
    assert "error: run 'r1'" in results[0][2]
    assert "Traceback" not in results[0][2]
    assert marks(waits) == ["a", "b", "b", "c"]


def test_a_reader_that_leaves_does_not_stop_a_run(waits: Folder) -> None:
    process = waits.spawn("run", "graph.yaml", "--run-id", "r1")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("run ")
    process.stdout.close()
    until(lambda: "b" in marks(waits), "node b")
    (waits.path / "open").touch()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    assert marks(waits) == ["a", "b", "c"]


def test_a_reader_that_leaves_ends_a_listing_in_silence(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q").code == 0
    read, write = os.pipe()
    os.close(read)
    process = folder.spawn("inspect", "r1", stdout=write)
    os.close(write)
    assert process.stderr is not None
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_stdout_that_speaks_ascii(folder: Folder) -> None:
    folder.write("graph.yaml", "id: g\nstate_schema: {word: str}\nnodes:\n  - {id: e, kind: echo}\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = ("run", "graph.yaml", "-i", "word=schön", "--run-id", "r1")
    code, out, _ = finish(folder.spawn(*words, "--json", "-q", env=environment))
    assert code == 0
    assert json.loads(out)["state"]["word"] == "schön"
    code, out, _ = finish(folder.spawn("inspect", "r1", "--step", "0", env=environment))
    assert code == 0
    assert "sch\\xf6n" in out


RUNNING = re.compile("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] b ")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_a_terminal(folder: Folder, *words: str, opens_at: re.Pattern[str], **environment: str) -> tuple[int, str]:
    """Run the command line on a terminal of 80 columns; return its exit code and what it wrote.

    Node b may end once the text on the terminal matches.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    process = subprocess.Popen(command(*words), cwd=folder.path, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other side was closed
                raise
            break
        if opens_at.search(ESCAPE.sub("", seen.decode(errors="replace"))):
            (folder.path / "open").touch()
    os.close(ours)
    return process.wait(60), seen.decode()


def test_a_terminal_shows_the_run_live(waits: Folder) -> None:
    code, seen = run_on_a_terminal(waits, "run", "graph.yaml", "--run-id", "r1", opens_at=RUNNING)
    assert code == 0
    text = ESCAPE.sub("", seen)
    assert "waits  run r1  ./.stargraph/run.sqlite" in text
    assert re.search(r"✓ a +step 1", text)
    assert re.search(r"✓ c +step 3", text)
    assert 'log ["a", "b", "c"]' in text
    assert re.search(r"done  step 3, \d", text)
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") > 0
    assert "\x1b[32m" in seen


def test_a_dumb_terminal_gets_plain_lines(waits: Folder) -> None:
    code, seen = run_on_a_terminal(waits, "run", "graph.yaml", opens_at=re.compile("node=b"), TERM="dumb")
    assert code == 0
    assert "\x1b" not in seen
    assert "completed    step=1 node=a" in seen


def test_a_terminal_without_colour(waits: Folder) -> None:
    code, seen = run_on_a_terminal(waits, "run", "graph.yaml", opens_at=RUNNING, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[3\dm", seen)


def test_the_howto_s_command_line(folder: Folder, tmp_path: Path) -> None:
    folder.write(
        "my-graph.yaml",
        (folder.path / "graph.yaml").read_text().replace("count: int", "count: {type: int, default: 0}"),
    )
    place = tmp_path / "var" / "stargraph" / "run.sqlite"
    code, _, err = finish(folder.spawn("run", "my-graph.yaml", "--checkpoint", str(place)))
    assert (code, err) == (0, "")
    assert place.exists()
    code, _, err = finish(folder.spawn("run", "my-graph.yaml"))
    assert (code, err) == (0, "")
    assert (folder.path / ".stargraph" / "run.sqlite").exists()


@pytest.mark.parametrize("moment", ["import", "make"])
def test_ctrl_c_while_the_command_line_loads_is_no_traceback(moment: str) -> None:
    """A person who has mistyped presses it at once."""
    hook = {
        "import": "import stargraph.cli as cli; sys.modules['stargraph.cli._app'] = Interrupting('_app')",
        "make": "import stargraph.cli as cli, stargraph.cli._app as _app; _app.app = interrupt",
    }[moment]
    code = (
        "import sys, types\n"
        "def interrupt(*_, **__): raise KeyboardInterrupt\n"
        "class Interrupting(types.ModuleType):\n"
        "    def __getattr__(self, name): raise KeyboardInterrupt\n"
        f"{hook}\ncli.main()"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (told.returncode, told.stdout, told.stderr) == (130, "", "interrupted\n")


def test_a_store_that_fails_in_a_run_leaves_the_command_that_resumes_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SQLiteCheckpointer.write

    async def fail(self: SQLiteCheckpointer, checkpoint: Checkpoint) -> None:
        if checkpoint.step == 2:
            raise StoreUnavailableError("no space is left for it", reason="disk-full", hint="Free space.")
        await write(self, checkpoint)

    monkeypatch.setattr(SQLiteCheckpointer, "write", fail)
    failed = folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r", "-q")
    assert failed.code == 7
    assert failed.err.splitlines()[-2:] == [
        "hint: Free space.",
        "      then resume with: stargraph resume r graph.yaml",
    ]
    monkeypatch.undo()
    assert folder.call("resume", "r", "graph.yaml", "-q").code == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("moment", ["before the loop", "in the loop's making", "when it is made"])
def test_a_ctrl_c_at_the_very_start_leaves_no_half_made_loop(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, begun = [], []
    new_loop, init = asyncio.new_event_loop, asyncio.SelectorEventLoop.__init__

    def interrupted_loop() -> asyncio.AbstractEventLoop:
        if moment == "before the loop":
            signal.raise_signal(signal.SIGINT)
        made.append(new_loop())
        if moment == "when it is made":
            signal.raise_signal(signal.SIGINT)
        return made[0]

    def interrupted_init(self: asyncio.SelectorEventLoop) -> None:
        if moment == "in the loop's making":
            signal.raise_signal(signal.SIGINT)
        init(self)

    async def work() -> None:
        begun.append(True)

    monkeypatch.setattr(asyncio.events, "new_event_loop", interrupted_loop)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "__init__", interrupted_init)
    with pytest.raises(KeyboardInterrupt):
        run_async(work())
    gc.collect()
    assert not begun
    assert made[0].is_closed()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
