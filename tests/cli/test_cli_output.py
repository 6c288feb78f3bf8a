"""Printing never ends a run: full disks, closed streams and terminals, odd prints of nodes, texts of many megabytes."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from support.cli import Folder, command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX descriptors and terminals")

NODES = """\
import logging, subprocess, sys, threading, time
def odd(state):
    print("no end of the line", end="")
    sys.stdout.write("\\x1b[31mred\\x07")
    sys.stdout.buffer.write(b"\\xff\\x00\\xfe")
    print("x" * 100_000)
    logging.getLogger("mine").warning("a warning of mine")
    print("no end", end="", file=sys.stderr)
    subprocess.run(["echo", "of a child process"], check=False)
    threads = [threading.Thread(target=chatter) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return {}
def chatter():
    for number in range(50): print("thread", number, end=" ")
def closes(state):
    sys.stdout.close(); sys.stderr.close(); sys.stdout.buffer.close()
    print("still here", end="")
    return {}
def huge(state):
    raise ValueError("y" * 70_000_000)
def bar(state):
    for number in range(20):
        print(f"\\r{number}%", end="", file=sys.stderr)
    while not __import__("os").path.exists("open"): time.sleep(0.01)
    print("\\rall of it", file=sys.stderr)
    print("\\x1b[2Ja \\x1b[32mgreen\\x1b[0m line\\x07")
    return {}
def slow(state):
    open("began", "w").close()
    while not __import__("os").path.exists("open"): time.sleep(0.01)
    print("printed after the terminal has gone")
    return {}
"""
OURS = re.compile(r"(?:run|started|node_started|completed|outcome) +(?:run|step|status)=")


@pytest.fixture
def noisy(folder: Folder) -> Folder:
    folder.write("noise.py", NODES)
    folder.write(
        "graph.yaml", "id: g\nnodes:\n  - {id: odd, kind: 'noise:odd'}\n  - {id: closes, kind: 'noise:closes'}\n"
    )
    for name in ("huge", "bar", "slow"):
        folder.write(f"{name}.yaml", f"id: {name}\nnodes: [{{id: {name}, kind: 'noise:{name}'}}]\n")
    return folder


def shell(folder: Folder, words: str, redirections: str) -> subprocess.CompletedProcess[bytes]:
    line = f"exec {sys.executable} -m stargraph {words} {redirections}"
    return subprocess.run(["bash", "-c", line], cwd=folder.path, capture_output=True, timeout=60, check=False)


def status(folder: Folder, run_id: str) -> str:
    return str(folder.call("inspect", run_id, "--json").json["status"])


THOROUGH = pytest.mark.thorough
needs_full_disk = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
FULL = pytest.param(">/dev/full", marks=needs_full_disk)
FULL_BOTH = pytest.param(">/dev/full 2>/dev/full", marks=needs_full_disk)


@pytest.mark.parametrize("flags", ["--events", *(pytest.param(each, marks=THOROUGH) for each in ("", "--json", "-q"))])
@pytest.mark.parametrize("redirections", [FULL, FULL_BOTH, ">&-", "2>&-", ">&- 2>&- <&-", "<&-"])
def test_a_run_ends_done_wherever_its_output_goes(noisy: Folder, redirections: str, flags: str) -> None:
    done = shell(noisy, f"run graph.yaml --run-id r {flags}", redirections)
    assert done.returncode == 0, done.stderr
    assert status(noisy, "r") == "done"
    warned = done.stderr.count(b"warning: cannot write to stdout: No space left on device")
    assert warned == (1 if redirections == ">/dev/full" else 0)
    assert b"Traceback" not in done.stderr


@needs_full_disk
@pytest.mark.parametrize(
    "words",
    [
        "runs",
        "export - --all",
        *(
            pytest.param(each, marks=THOROUGH)
            for each in ("runs --json", "inspect r", "anchor", "schema", "graph graph.yaml", "drivers")
        ),
    ],
)
def test_a_listing_that_cannot_be_written_says_so(noisy: Folder, words: str) -> None:
    assert noisy.call("run", "graph.yaml", "--run-id", "r", "-q").code == 0
    done = shell(noisy, words, ">/dev/full")
    assert (done.returncode, done.stderr.count(b"No space left on device")) == (74, 1)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("redirections", ["", "2>&1"])
def test_what_a_node_prints_is_never_glued_to_a_line_of_ours(noisy: Folder, redirections: str) -> None:
    done = shell(noisy, "run graph.yaml", redirections)
    assert done.returncode == 0
    lines = done.stdout.decode(errors="replace").splitlines()
    ours = [line for line in lines if OURS.search(line)]
    assert len(ours) == 7
    assert all(OURS.match(line) for line in ours)
    assert not [line for line in ours if "thread" in line or "still here" in line]
    assert any("thread 49" in line for line in lines)
    assert "x" * 100_000 in "".join(lines)


@pytest.mark.parametrize("flags", ["--json", "--json -q", "--events"])
def test_stdout_is_json_alone_whatever_nodes_and_their_children_print(noisy: Folder, flags: str) -> None:
    done = shell(noisy, f"run graph.yaml {flags}", "")
    assert done.returncode == 0
    text = done.stdout.decode()
    last = json.loads(text.splitlines()[-1] if flags == "--events" else text)
    assert last["status"] == "done"
    assert b"of a child process" in done.stderr
    assert b"thread 49" in done.stderr


@THOROUGH
def test_a_message_of_70_megabytes_is_cut_where_it_is_shown(noisy: Folder) -> None:
    done = shell(noisy, "run huge.yaml --run-id r", "")
    assert done.returncode == 1
    assert len(done.stdout) + len(done.stderr) < 10_000
    assert b"ValueError: yyy" in done.stderr
    for words in ("runs", "inspect r"):
        assert len(shell(noisy, words, "").stdout) < 2_000
    assert len(shell(noisy, "inspect r --step 1", "").stdout) < 100_000


def on_a_terminal(
    folder: Folder, *words: str, until: str | None = None, opens_at: re.Pattern[str] | None = None
) -> tuple[int, str]:
    """Run the command line on a terminal of its own, which is closed once the file `until` is there.

    Nodes that wait for it may end once the text on the terminal matches `opens_at`.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*words, first=f"import fcntl; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0)"),
        cwd=folder.path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )
    os.close(theirs)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (until and (folder.path / until).exists()):
        try:
            seen += os.read(ours, 65536)
            if opens_at is not None and opens_at.search(seen.decode(errors="replace")):
                (folder.path / "open").touch()
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # the other side was closed
            break
    os.close(ours)
    (folder.path / "open").touch()
    return process.wait(60), seen.decode(errors="replace")


def test_a_terminal_that_is_closed_does_not_end_a_run(noisy: Folder) -> None:
    code, _ = on_a_terminal(noisy, "run", "slow.yaml", "--run-id", "r", until="began")
    assert code == 0
    assert status(noisy, "r") == "done"


def screen(text: str) -> list[str]:
    """The lines that a terminal shows at the end, for the sequences that the display uses."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif match := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(match.group(1))
        elif part == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_a_terminal_shows_the_progress_bar_of_a_node_and_none_of_its_sequences(noisy: Folder) -> None:
    drawn = re.compile(r"\r\x1b\[1A\x1b\[J\x1b\[\?7l1?\d%")
    code, seen = on_a_terminal(noisy, "run", "bar.yaml", "--run-id", "r", opens_at=drawn)
    assert code == 0
    assert "\x1b[2J" not in seen
    assert "\x07" not in seen
    assert drawn.search(seen), "the bar is drawn while it has no end"
    shown = screen(seen)
    assert shown[0] == "bar  run r  ./.stargraph/run.sqlite"
    assert shown[1:3] == ["all of it", "\\x1b[2Ja green line\\x07"]
    assert re.fullmatch(r"  ✓ bar +step 1 +\d+\.\d+ s", shown[3])
    assert re.fullmatch(r"done  step 1, \d+\.\d+ s", shown[4])


def test_odd_prints_on_a_terminal(noisy: Folder) -> None:
    code, seen = on_a_terminal(noisy, "run", "graph.yaml", "--run-id", "r")
    assert code == 0
    shown = [line for line in screen(seen) if line]
    assert shown[-3] == "still here"
    assert "✓ closes" in shown[-2]
    assert shown[-1].startswith("done  step 2")
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == 1


def test_a_warning_of_a_driver_is_a_line_on_stderr_without_secrets(folder: Folder) -> None:
    folder.write("g.yaml", "id: g\nnodes: [{id: a, kind: 'warns:warns'}]\n")
    folder.write(
        "warns.py",
        "import logging\ndef warns(state):\n"
        "    log = logging.getLogger('stargraph.checkpoint.postgres')\n"
        "    log.warning('postgresql://u:geheim@h/db does not answer; trying again in %s s', 0.5)\n"
        "    log.info('nobody asked')\n    log.warning('%d is no number', 'x')\n    return {}\n",
    )
    done = shell(folder, "run g.yaml -q", "")
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        "warning: postgresql://u:***@h/db does not answer; trying again in 0.5 s",
        "warning: %d is no number",
    ]


def test_python_m_is_the_same_command(folder: Folder) -> None:
    for module in ("stargraph", "stargraph.cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, check=True, timeout=60)
        assert done.stdout.startswith(b"stargraph ")
    assert Path.cwd() == folder.path


def test_the_log_is_printed_if_it_is_wanted(folder: Folder) -> None:
    assert "stargraph.run" not in folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "quiet").err
    run = ("run", "graph.yaml", "-i", "count=1", "--run-id")
    try:
        shown = folder.call(*run, "told", "--log-level", "info")
        lines = folder.call(*run, "json", "--log-json").err.splitlines()
        errors = folder.call(*run, "errors", "--log-level", "error").err
    finally:
        _forget_the_log()
    assert re.search(r"^\S+ INFO stargraph\.node: run told: node second completed in ", shown.err, re.MULTILINE), shown
    assert errors == ""
    log = [json.loads(line) for line in lines]
    assert [entry.get("node") for entry in log] == [None, "first", "second", "third", None]
    assert {(entry["run_id"], entry["level"]) for entry in log} == {("json", "info")}


def _forget_the_log() -> None:
    logger = logging.getLogger("stargraph")
    logger.setLevel(logging.NOTSET)
    for handler in [each for each in logger.handlers if not isinstance(each, logging.NullHandler)]:
        logger.removeHandler(handler)


def test_the_log_holds_no_secret(folder: Folder) -> None:
    folder.write("fails.py", "def fail(state):\n    raise ValueError('hunter22')\n")
    folder.write("fails.yaml", 'id: fails\nnodes: [{id: only, kind: "fails:fail"}]\n')
    try:
        lines = folder.call("run", "fails.yaml", "--run-id", "r", "--log-json").err.splitlines()
    finally:
        _forget_the_log()
    log = [line for line in lines if line.startswith("{")]
    assert [json.loads(line)["level"] for line in log] == ["info", "error", "error"]
    assert not any("hunter22" in line for line in log)


@THOROUGH
@pytest.mark.parametrize("streams", ["sys.stdout", "sys.stderr", "sys.stdout = sys.stderr"])
@pytest.mark.parametrize("option", [(), ("--json",), ("--events",), ("-q",)], ids=str)
def test_a_node_that_takes_the_streams_away_ends_no_run(folder: Folder, streams: str, option: tuple[str, ...]) -> None:
    folder.write("taking.py", f"import sys\ndef takes(state):\n    {streams} = None\n    return {{}}\n")
    folder.write("taking.yaml", "id: g\nnodes: [{id: a, kind: 'taking:takes'}, {id: b, kind: echo}]\n")
    answer = folder.call("run", "taking.yaml", *option)
    assert answer.code == 0, answer.err
    assert "done" in answer.out
    assert "Traceback" not in answer.err
