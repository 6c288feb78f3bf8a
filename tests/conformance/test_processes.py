"""Child processes, forked or as new interpreters: what they are given, how they end, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.processes import is_gone

from stargraph.checkpoint.conformance import Check, HarnessError, Result, Session, _forks, _staging, run
from stargraph.checkpoint.conformance._expect import Violation, together
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._staging import Stage

pytestmark = pytest.mark.thorough

SOUND = "support.broken_drivers.database:Database"


@pytest.fixture(params=["forked", "interpreter"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How child processes are made: as where processes can be forked, and as where they cannot."""
    made: str = request.param
    monkeypatch.setattr(_forks, "AVAILABLE", made == "forked")
    return made


def result_of(body: Any, spec: str = SOUND) -> Result:
    check = Check("test.body", "A reason.", "a contract", "A cause.", body)
    # However long the new interpreters that a check waits for take to start.
    with Session(spec, deadline=8) as session:
        return session._execute(check)


async def _fail(children: list[Any]) -> None:
    for child in children:
        await child.expect("acked")
    raise Violation("found")


async def _listen(child: Any) -> None:
    async for _ in child.events():
        pass


def living(group: int) -> list[int]:
    """The processes of a group that are not mere entries of the process table."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, of_group, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if state != "Z" and int(of_group) == group:
                found.append(int(folder.name))
    return found


def nobody_lives_in(group: int) -> bool:
    """Wait until the processes of a group have ended; return whether they have."""
    deadline = time.monotonic() + 60
    while living(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not living(group)


async def _two(kit: Kit) -> list[Any]:
    return [await kit.child("idle", run_id=f"run-{number}") for number in range(2)]


@pytest.mark.usefixtures("made")
def test_a_violation_while_a_sibling_reads_a_child_is_reported() -> None:
    pids: list[int] = []

    async def body(kit: Kit) -> None:
        first, second = await _two(kit)
        pids.extend(child._process.pid for child in (first, second))
        await together(_fail([first]), _listen(second))

    result = result_of(body)
    assert (result.verdict, result.message) == ("fail", "found")
    assert all(map(is_gone, pids))


@pytest.mark.usefixtures("made")
def test_a_check_may_leave_a_reader_behind() -> None:
    readers = []

    async def body(kit: Kit) -> None:
        first, second = await _two(kit)
        readers.append(asyncio.ensure_future(_listen(second)))
        await asyncio.sleep(0)
        await _fail([first])

    result = result_of(body)
    assert (result.verdict, result.message) == ("fail", "found")
    assert readers[0].done()


@pytest.mark.usefixtures("made")
def test_a_process_that_was_frozen_in_a_call_does_not_outlive_the_check() -> None:
    groups: list[int] = []

    async def body(kit: Kit) -> None:
        await kit.open()
        stage = await Stage.open(kit)
        groups.append(stage._child._process.pid)
        moments = await stage.moments("write", run_id="recorded")
        assert await stage.freeze_at(moments[0], "write", run_id="run") is None
        assert len(living(groups[0])) == 2
        raise Violation("found")

    result = result_of(body)
    assert (result.verdict, result.message) == ("fail", "found")
    assert nobody_lives_in(groups[0])


def sleeps(group: int) -> bool:
    """Whether a process of a group is stopped by a signal."""
    for pid in living(group):
        with contextlib.suppress(OSError):
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T":
                return True
    return False


async def _frozen(kit: Kit) -> tuple[Stage, int]:
    """Freeze a process inside a write; return the stage, and the group that the process is in."""
    await kit.open()
    stage = await Stage.open(kit)
    moments = await stage.moments("write", run_id="recorded")
    assert await stage.freeze_at(moments[0], "write", run_id="run") is None
    return stage, stage._child._process.pid


def test_a_frozen_process_sleeps_as_long_as_this_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_staging, "_EFFORT", 3600)
    monkeypatch.setattr(_staging, "_PATIENCE", 0.2)
    slept: list[bool] = []

    async def body(kit: Kit) -> None:
        stage, group = await _frozen(kit)
        until = time.process_time() + 3 * _staging._PATIENCE
        while time.process_time() < until:
            pass
        slept.append(sleeps(group))
        assert (await stage.wake()).acked

    result = result_of(body)
    assert result.verdict == "pass", result.message
    assert slept == [True]


def test_a_frozen_process_goes_on_where_this_one_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_staging, "_EFFORT", 3600)

    async def body(kit: Kit) -> None:
        stage, _ = await _frozen(kit)
        assert (await stage.rest()).acked

    result = result_of(body)
    assert result.verdict == "pass", result.message


def test_a_frozen_process_goes_on_where_this_one_waits_for_it_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_staging, "_PATIENCE", 3600)
    monkeypatch.setattr(_staging, "_EFFORT", 0.2)

    async def body(kit: Kit) -> None:
        stage, group = await _frozen(kit)
        deadline = time.monotonic() + 60
        while sleeps(group) and time.monotonic() < deadline:
            pass
        assert not sleeps(group)
        assert (await stage.rest()).acked

    result = result_of(body)
    assert result.verdict == "pass", result.message


def test_a_process_is_killed_where_the_store_has_changed_and_the_call_has_not_returned() -> None:
    left: list[str] = []

    async def body(kit: Kit) -> None:
        stage = await Stage.open(kit)
        moments = await stage.moments("bootstrap")
        for moment in moments:
            stage.elsewhere(location := await kit.fresh_location())
            played = await stage.kill_at(moment, "bootstrap")
            assert (played.killed, played.acked) == (True, False), (moment, played)
            left.append(Path(moment.file).name)
            left.append("made" if Path(location).exists() else "not made")

    result = result_of(body)
    assert result.verdict == "pass", result.message
    assert {"database.py", "made"} <= set(left)


TARGET = """
import atexit, json, os, sys, time, uuid

AT_IMPORT = uuid.uuid4().hex

def told(location):
    return {
        "token": AT_IMPORT,
        "hash": hash("a"),
        "open": sorted(int(number) for number in os.listdir("/proc/self/fd")),
        "group": os.getpgid(0) == os.getpid(),
        "folder": os.getcwd(),
        "variable": os.environ.get("STARGRAPH_TEST_WORD"),
        "only_once": os.environ.get("STARGRAPH_TEST_GONE"),
        "offset": time.strftime("%z", time.localtime(0)),
    }

class Driver:
    async def bootstrap(self): ...
    async def write(self, checkpoint): ...
    async def read_latest(self, run_id): ...
    async def read_at_step(self, run_id, step): ...
    async def list_runs(self, since=None, limit=100):
        return []

class Telling(Driver):
    async def bootstrap(self):
        atexit.register(print, "at exit", file=sys.stderr)
        print(json.dumps(told(None)), file=sys.stderr, flush=True)

def target(location):
    return Telling()
"""


def _target(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"told_{folder.name}"
    (folder / f"{name}.py").write_text(TARGET)
    monkeypatch.syspath_prepend(str(folder))
    return f"{name}:target"


def test_a_process_is_given_what_a_new_interpreter_would_have(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    spec = _target(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)

    async def tell(kit: Kit) -> None:
        child = await kit.child("unclosed", run_id="run")
        await child.expect("acked")
        code, said = await child.ended()
        first, *others = said.splitlines()
        found.append(json.loads(first) | {"code": code, "others": others})

    async def body(kit: Kit) -> None:
        with monkeypatch.context() as context:
            context.setenv("STARGRAPH_TEST_GONE", "here")
            await tell(kit)
        monkeypatch.setenv("STARGRAPH_TEST_WORD", "größe")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        await tell(kit)

    with open(tmp_path / "held", "wb"):
        result = result_of(body, spec)
    assert result.verdict == "pass", result.explained()
    first, second = found
    assert first["token"] != second["token"]
    assert {first["hash"], second["hash"]}.isdisjoint({hash("a")})
    assert (first["only_once"], second["only_once"]) == ("here", None)
    assert (first["variable"], second["variable"], second["offset"]) == (None, "größe", "+0900")
    for each in found:
        assert (each["code"], each["others"]) == (0, ["at exit"])
        assert (each["group"], each["folder"]) == (True, str(tmp_path))
        # Stdin, stdout, stderr, the line to the kit, and what the listing itself opens; an event loop adds three.
        assert len(each["open"]) <= 8, made


@pytest.mark.usefixtures("made")
def test_the_end_of_a_process_is_told_as_it_was() -> None:
    codes: list[int] = []

    async def body(kit: Kit) -> None:
        for number in (signal.SIGKILL, signal.SIGTERM):
            child = await kit.child("idle", run_id=f"run-{number}")
            await child.expect("acked")
            os.kill(child._process.pid, number)
            code, _ = await child.ended()
            codes.append(code)
            child.kill()  # a process that has ended is left alone
        child = await kit.child("idle", run_id="frozen")
        await child.expect("acked")
        child.stop()
        child.resume()
        await child.tell("go")
        codes.append((await child.ended())[0])

    result = result_of(body)
    assert result.verdict == "pass", result.explained()
    assert codes == [-signal.SIGKILL, -signal.SIGTERM, 0]


@pytest.mark.parametrize(
    "module",
    [
        "support.broken_drivers.database",
        "support.conformance_targets",
        "support.postgres_target",
        "support.s3.conformance_target",
    ],
)
def test_a_target_brings_no_check_into_the_processes_that_open_it(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in sys.modules if '.conformance._checks.' in name])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_a_fork_server_that_died_is_no_fault_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forks, "AVAILABLE", True)

    async def body(kit: Kit) -> None:
        server = kit.surroundings.fork_server
        assert server is not None
        await (await kit.child("idle", run_id="run")).expect("acked")
        assert server._process is not None
        server._process.kill()
        server._process.wait()
        await kit.child("idle", run_id="other")

    result = result_of(body)
    assert (result.verdict, "no child process could be started" in result.message) == ("error", True), result


def test_a_session_leaves_no_server_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forks, "AVAILABLE", True)
    pids: list[int] = []

    async def body(kit: Kit) -> None:
        await _two(kit)
        assert kit.surroundings.fork_server is not None
        assert kit.surroundings.fork_server._process is not None
        pids.append(kit.surroundings.fork_server._process.pid)

    assert result_of(body).verdict == "pass"
    assert nobody_lives_in(pids[0])


def test_a_fork_that_is_cancelled_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_forks, "AVAILABLE", True)
    groups: list[int] = []
    held: list[set[str]] = []

    async def body(kit: Kit) -> None:
        server = kit.surroundings.fork_server
        assert server is not None
        fork = server.fork

        async def noted(*arguments: Any, **options: Any) -> Any:
            process = await fork(*arguments, **options)
            groups.append(process.pid)
            return process

        monkeypatch.setattr(server, "fork", noted)
        await (await kit.child("idle", run_id="run")).end()
        held.append(set(os.listdir("/proc/self/fd")))
        for turns in range(12):
            starting = asyncio.create_task(kit.child("idle", run_id="run"))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await starting).end()
        deadline = time.monotonic() + 60
        while not (now := set(os.listdir("/proc/self/fd"))) <= held[0] and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        held.append(now)

    result = result_of(body)
    assert result.verdict == "pass", result.explained()
    assert len(groups) > 6
    assert all(map(nobody_lives_in, groups))
    assert held[1] <= held[0]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_together_leaves_nothing_behind(how: str) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("waited")

    async def fail() -> None:
        await asyncio.sleep(0)
        if how == "fails":
            raise Violation("found")
        await asyncio.Event().wait()

    task = asyncio.ensure_future(together(wait(), fail(), wait()))
    await asyncio.sleep(0.01)
    if how == "is cancelled":
        task.cancel()
    with pytest.raises(Violation if how == "fails" else asyncio.CancelledError):
        await task
    assert ended == ["waited", "waited"]


async def test_together_returns_results_in_order() -> None:
    async def give(number: int) -> int:
        await asyncio.sleep(0.001 * (3 - number))
        return number

    assert await together(*map(give, range(3))) == [0, 1, 2]


PRELOADED = """
import os
from pathlib import Path

with Path({log!r}).open("a") as log:
    log.write(f"{{os.getpid()}}\\n")
"""

PRELOADING = """
from dataclasses import replace

from support.conformance_targets import sqlite


def opened(location):
    import large_sdk

    return sqlite.open(location)


target = replace(sqlite, open=opened, preload=("large_sdk",))
mistaken = replace(target, preload=("large_sdk", "small_sdk"))
"""

REFUSED = """
from dataclasses import replace

from support.conformance_targets import sqlite

target = replace(sqlite, preload=({preload!r},))
"""


@pytest.mark.skipif(not _forks.AVAILABLE, reason="processes are not forked here")
def test_child_processes_are_forked_with_what_the_target_preloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    (tmp_path / "large_sdk.py").write_text(PRELOADED.format(log=str(log)))
    (tmp_path / "preloading_target.py").write_text(PRELOADING)
    monkeypatch.syspath_prepend(tmp_path)
    pids: list[int] = []

    async def body(kit: Kit) -> None:
        for child in await _two(kit):
            await child.expect("acked")
            pids.append(child._process.pid)

    assert result_of(body, "preloading_target:target").verdict == "pass"
    importers = set(map(int, log.read_text().split()))
    assert len(importers - {os.getpid()}) == 1
    assert not importers.intersection(pids)
    with pytest.raises(HarnessError, match="preload names small_sdk: there is no such module"):
        result_of(body, "preloading_target:mistaken")


THREADED = """
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.mark.skipif(not _forks.AVAILABLE, reason="processes are not forked here")
@pytest.mark.parametrize(
    ("preload", "message"),
    [
        ("no_package.sdk", "preload names no_package.sdk: there is no such module"),
        ("stargraph.checkpoint.sqlite", "preload names stargraph.checkpoint.sqlite, which is the driver's own"),
        ("unset_sdk", "preload: unset_sdk cannot be imported: KeyError: 'REGION_OF_SDK'"),
        ("threaded_sdk", "preload: threaded_sdk starts a thread, which a fork would lose: take it off"),
    ],
)
def test_a_preload_that_forks_cannot_share_is_refused(
    preload: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unset_sdk.py").write_text("import os\n\nos.environ['REGION_OF_SDK']\n")
    (tmp_path / "threaded_sdk.py").write_text(THREADED)
    name = f"refused_{preload.replace('.', '_')}"
    (tmp_path / f"{name}.py").write_text(REFUSED.format(preload=preload))
    monkeypatch.syspath_prepend(tmp_path)

    try:
        results = run(f"{name}:target", only=["durability.other_process"]).results
        found = "".join(result.message for result in results if result.check.id == "durability.other_process")
    except HarnessError as error:
        found = str(error)
    assert message in found
