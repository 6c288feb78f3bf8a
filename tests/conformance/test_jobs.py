"""Checks side by side, and what the kit leaves behind when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from support.workspace import ROOT

from stargraph.checkpoint.conformance import Check, HarnessError, Result, Session, catalogue, run
from stargraph.checkpoint.conformance._certificate import KEY_VARIABLE, make_key
from stargraph.checkpoint.conformance._jobs import Jobs, _with_needed
from stargraph.checkpoint.conformance.reference import ReferenceStores

pytestmark = pytest.mark.thorough

REFERENCE = "stargraph.checkpoint.conformance.reference:target"
ONLY = ("steps", "values.text", "list_runs.newest_first", "performance", "durability.reopen", "watch.idle")


def _outcome(results: tuple[Result, ...]) -> list[tuple[str, str, str]]:
    return [(result.check.id, result.verdict, result.message) for result in results]


@pytest.mark.parametrize("target", [REFERENCE, "support.broken_drivers.database:InsertOrReplaceInSql"])
def test_the_report_is_that_of_one_process(target: str) -> None:
    seen: list[Result] = []
    alone, beside = run(target, only=ONLY, seed=3), run(target, only=ONLY, seed=3, jobs=2, progress=seen.append)
    assert _outcome(beside.results) == _outcome(alone.results)
    assert (beside.driver, beside.level, beside.capabilities) == (alone.driver, alone.level, alone.capabilities)
    chosen = {check.id for check in catalogue() if check.group in ONLY or check.id in ONLY}
    assert sorted(result.check.id for result in seen) == sorted(chosen)
    measured = [result.check.advisory for result in seen]
    assert measured == sorted(measured), "what measures time has the machine for itself, after the others"
    for result in beside.results:
        if result.check.advisory and result.verdict == "pass":
            assert result.measurements


class _Together:
    """Stands in for a job: a check that waits ends after the others, and these only once one that waits has begun."""

    begun: ClassVar[list[Check]] = []
    ended: ClassVar[list[Check]] = []
    first: ClassVar[set[str]] = set()
    others: ClassVar[set[str]] = set()
    changed: ClassVar[threading.Condition] = threading.Condition()

    def __init__(self, session: Session) -> None:
        pass

    def run(self, check: Check, needed: dict[str, Result]) -> Result:
        with self.changed:
            assert not (check.advisory and len(self.begun) > len(self.ended))
            self.begun.append(check)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self._may_end(check), 60)
            self.ended.append(check)
            self.changed.notify_all()
        return Result(check, "pass")

    def _may_end(self, check: Check) -> bool:
        if check.waits:
            return self.others <= {each.id for each in self.ended}
        return check.id in self.first or any(each.waits for each in self.begun)

    def terminate(self) -> None:
        pass

    def end(self) -> None:
        pass


def test_a_check_that_waits_takes_no_job_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [check for check in catalogue() if check.group in ("watch", "access", "fencing", "performance")]
    waiting = [check for check in chosen if check.waits]
    wanted = _with_needed(chosen)
    assert len(waiting) > 3
    monkeypatch.setattr("stargraph.checkpoint.conformance._jobs._Job", _Together)
    monkeypatch.setattr(_Together, "begun", [])
    monkeypatch.setattr(_Together, "ended", [])
    monkeypatch.setattr(_Together, "first", {check.id for check in _with_needed(waiting)})
    monkeypatch.setattr(_Together, "others", {check.id for check in wanted if not check.waits and not check.advisory})
    with Session(REFERENCE) as session:
        Jobs(session, chosen).run(1)
        assert session.results.keys() == {check.id for check in wanted}
    measured = [check.advisory for check in _Together.ended]
    assert measured == sorted(measured), "what measures time has the machine for itself, after the others"


def test_what_measures_time_begins_after_the_last_check_that_waits() -> None:
    chosen = [check for check in catalogue() if check.id == "watch.idle" or check.advisory]
    with Session(REFERENCE) as session:
        jobs = Jobs(session, chosen)
        for check in _with_needed(chosen):
            if check not in chosen:
                assert jobs._next(False) == check
                jobs._note(Result(check, "pass"))
        order = [jobs._next(False)]
        assert order[0] is not None
        jobs._note(Result(order[0], "pass"))
        order.append(jobs._next(False))
    assert [check and check.id for check in order] == ["watch.idle", "performance.appends"]


DEADLY = """
import os
import time

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStores


class Deadly(ReferenceCheckpointer):
    async def write(self, checkpoint):
        if checkpoint.run_id == "{run}":
            {deed}
        await super().write(checkpoint)


target = ReferenceStores(Deadly).target()
"""


def test_a_driver_that_ends_its_process_takes_no_other_check_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_target.py").write_text(DEADLY.format(run="run", deed="os._exit(7)"))
    monkeypatch.syspath_prepend(tmp_path)
    report = run("deadly_target:target", only=["steps.append_and_read", "bootstrap.methods"], jobs=2)
    found = {result.check.id: (result.verdict, result.message) for result in report.results}
    assert found["steps.append_and_read"] == ("error", "the process that ran it died with exit code 7")
    assert found["bootstrap.methods"][0] == "pass"
    assert found.keys() > {"steps.append_and_read", "bootstrap.methods"}


HOLDS_THE_GIL = DEADLY.format(run="run", deed="__import__('ctypes').PyDLL(None).sleep(600)")


def test_a_call_that_waits_and_holds_the_gil_fails_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holding_target.py").write_text(HOLDS_THE_GIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("stargraph.checkpoint.conformance._jobs.STANDSTILL", 15)
    report = run("holding_target:target", only=["steps.append_and_read", "bootstrap.methods"], jobs=2)
    found = {result.check.id: result for result in report.results}
    assert found["steps.append_and_read"].verdict == "fail"
    assert "holds the GIL" in found["steps.append_and_read"].message
    assert found["bootstrap.methods"].verdict == "pass"
    assert "holding_target.py" in capfd.readouterr().err


def test_one_process_tells_where_it_stands_still(tmp_path: Path) -> None:
    (tmp_path / "holding_target.py").write_text(HOLDS_THE_GIL)
    program = "from stargraph.checkpoint.conformance import _cli; _cli.STANDSTILL = 2; _cli.main()"
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "run", "holding_target:target", "--only", "steps.append_and_read"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    deadline = time.monotonic() + 60
    while "holding_target.py" not in errors.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert "holding_target.py" in errors.read_text()


def test_a_check_that_cannot_be_ended_leaves_its_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stuck_target.py").write_text(DEADLY.format(run="run", deed="time.sleep(600)"))
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()
    report = run("stuck_target:target", only=["steps.append_and_read", "values.text"], jobs=2, deadline=0.5)
    found = {result.check.id: result for result in report.results}
    assert found["steps.append_and_read"].verdict == "fail"
    assert "cannot be cancelled" in found["steps.append_and_read"].message
    assert found["values.text"].verdict == "blocked"
    assert time.monotonic() - began < 300


def test_an_object_cannot_be_opened_elsewhere() -> None:
    with pytest.raises(HarnessError, match=r"needs? package\.module:name"):
        run(ReferenceStores().target(), only=["steps"], jobs=2)


STANDSTILL_OF_A_CHILD = """
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from support.conformance_targets import sqlite

from stargraph.checkpoint.sqlite import SQLiteCheckpointer


class Standstill(SQLiteCheckpointer):
    async def write(self, checkpoint):
        if sys.modules["__main__"].__spec__.name.endswith("._child"):
            Path({flag!r}).touch()
            await asyncio.sleep(600)
        await super().write(checkpoint)


target = replace(sqlite, open=Standstill)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_kit_leaves_nothing_behind(number: int, code: int, jobs: str, tmp_path: Path) -> None:
    flag, stores = tmp_path / "flag", tmp_path / "stores"
    stores.mkdir()
    (tmp_path / "standstill_target.py").write_text(STANDSTILL_OF_A_CHILD.format(flag=str(flag)))
    command = [sys.executable, "-m", "stargraph.checkpoint.conformance", "run", "standstill_target:target"]
    process = subprocess.Popen(
        [*command, "--deadline=100", "--only", "crash", "--only", "views.after_kill", "--jobs", jobs],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", "TMPDIR": str(stores)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    # Until a process of a check is in a write, which does not end.
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert any(stores.glob("*/store"))
    os.killpg(process.pid, number)  # as a terminal sends ctrl-C
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors, errors
    assert list(stores.iterdir()) == []


STANDSTILL = """
import asyncio
from dataclasses import replace
from pathlib import Path

from support.conformance_targets import sqlite

from stargraph.checkpoint.sqlite import SQLiteCheckpointer


class Standstill(SQLiteCheckpointer):
    async def write(self, checkpoint):
        Path({flag!r}).touch()
        await asyncio.sleep(600)


target = replace(sqlite, open=Standstill)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_kit_reports_the_verdicts_until_then(number: int, code: int, jobs: str, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    (tmp_path / "standstill_target.py").write_text(STANDSTILL.format(flag=str(flag)))
    report, certificate, badge = (tmp_path / name for name in ("report.json", "certificate.json", "badge.svg"))
    command = [
        sys.executable,
        "-m",
        "stargraph.checkpoint.conformance",
        "run",
        "standstill_target:target",
        "--jobs",
        jobs,
    ]
    options = ["--json", str(report), "--certificate", str(certificate), "--badge", str(badge), "--deadline", "100"]
    process = subprocess.Popen(
        [*command, *options, "--deadline=100", "--only", "bootstrap.methods", "--only", "steps.append_and_read"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", KEY_VARIABLE: make_key()[0]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "interrupted, no level: " in output
    told = json.loads(report.read_text())
    assert (told["interrupted"], told["level"], told["exit_code"]) == (True, "partial", code)
    assert told["driver"] == "standstill_target.Standstill"
    assert told["versions"]["sqlite"]
    verdicts = {result["check"]["id"]: result["verdict"] for result in told["results"]}
    assert verdicts["bootstrap.methods"] == "pass"
    assert set(verdicts.values()) == {"pass"}
    assert "steps.append_and_read" not in verdicts
    assert not certificate.exists()
    assert not badge.exists()


KIT = (sys.executable, "-m", "stargraph.checkpoint.conformance", "run")

STANDSTILL_ELSEWHERE = """
from stargraph.checkpoint.conformance._neighbours import Neighbours
from stargraph.checkpoint.conformance.stdio import stdio_target

target = stdio_target(Neighbours("standstill_target:target")._command())
"""


def test_ctrl_c_does_not_reach_a_driver_in_another_process(tmp_path: Path) -> None:
    flag, stores = tmp_path / "flag", tmp_path / "stores"
    stores.mkdir()
    (tmp_path / "standstill_target.py").write_text(STANDSTILL.format(flag=str(flag)))
    (tmp_path / "elsewhere_target.py").write_text(STANDSTILL_ELSEWHERE)
    process = subprocess.Popen(
        [*KIT, "elsewhere_target:target", "--deadline=100", "--only", "steps.append_and_read"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", "TMPDIR": str(stores)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert list(stores.iterdir()) == []


HUNG = """
import asyncio
import time
from dataclasses import replace
from pathlib import Path

from support.conformance_targets import sqlite

from stargraph.checkpoint.sqlite import SQLiteCheckpointer


class Hung(SQLiteCheckpointer):
    async def write(self, checkpoint):
        Path({flag!r}).touch()
        await asyncio.to_thread(time.sleep, 600)


target = replace(sqlite, open=Hung)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_kit_leaves_nothing_behind_although_the_driver_hangs_in_a_thread(
    jobs: str, tmp_path: Path
) -> None:
    flag, report, stores = tmp_path / "flag", tmp_path / "report.json", tmp_path / "stores"
    stores.mkdir()
    (tmp_path / "hung_target.py").write_text(HUNG.format(flag=str(flag)))
    options = ["--deadline=100", "--jobs", jobs]
    process = subprocess.Popen(
        [*KIT, "hung_target:target", *options, "--only", "steps.append_and_read", "--json", str(report)],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", "TMPDIR": str(stores)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert json.loads(report.read_text())["interrupted"] is True
    assert list(stores.iterdir()) == []


TERMINATED_TWICE = """
import os
import signal
import time

from stargraph.checkpoint.conformance._jobs import exit_when_terminated

exit_when_terminated()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
finally:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    print("cleaned up")
"""


def test_a_second_signal_does_not_interrupt_the_cleaning_up() -> None:
    done = subprocess.run([sys.executable, "-c", TERMINATED_TWICE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "cleaned up\n"), done.stderr
