"""Verdicts, levels and exit codes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from stargraph.checkpoint.conformance import (
    HarnessError,
    Report,
    Result,
    Target,
    Verdict,
    _handle,
    _runner,
    catalogue,
    run,
    select,
)
from stargraph.checkpoint.conformance._capabilities import HOOKS, PROTOCOLS, Capability
from stargraph.checkpoint.conformance._render import to_junit, to_markdown
from stargraph.checkpoint.conformance._runner import Session
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStores
from stargraph.checkpoint.driver import check_beat
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, ProcessPresence, RunSummary

pytestmark = pytest.mark.thorough


def report_of(**verdicts: Verdict) -> Report:
    """A report in which every check passed, but for these; the underscore is the dot."""
    named = {name.replace("__", "."): verdict for name, verdict in verdicts.items()}
    results = [Result(check, named.get(check.id, "pass")) for check in catalogue()]
    return Report("t", "d", 0, catalogue(), tuple(results))


def without(report: Report, *ids: str) -> Report:
    return dataclasses.replace(report, results=tuple(r for r in report.results if r.check.id not in ids))


def verdict_of(report: Report, check_id: str) -> Result:
    (result,) = (result for result in report.results if result.check.id == check_id)
    return result


@pytest.mark.parametrize(
    ("report", "level", "code"),
    [
        (report_of(), "full", 0),
        (report_of(performance__appends="fail"), "full", 0),
        (report_of(history__range="skip"), "core", 0),
        (report_of(history__range="expected-failure"), "core", 0),
        (report_of(history__range="blocked"), "partial", 2),
        (report_of(steps__gap_refused="skip"), "partial", 2),
        (without(report_of(), "steps.gap_refused"), "partial", 2),
        (without(report_of(), "history.range"), "partial", 2),
        (report_of(steps__gap_refused="fail"), "none", 1),
        (report_of(history__range="fail"), "none", 1),
        (report_of(steps__gap_refused="error"), "none", 3),
        (report_of(steps__gap_refused="error", history__range="fail"), "none", 1),
        (Report("t", "d", 0, catalogue(), ()), "none", 2),
    ],
)
def test_the_level_is_measured_against_the_catalogue(report: Report, level: str, code: int) -> None:
    assert (report.level, report.exit_code) == (level, code)


def memory(kind: type = ReferenceCheckpointer, **changes: Any) -> Target:
    return dataclasses.replace(ReferenceStores(kind).target(), **changes)


@pytest.mark.parametrize("kind", ["third", "read-only"])
def test_a_handle_on_a_newer_store_is_called_what_it_is(kind: str) -> None:
    refused = 0

    class LooksTwice(ReferenceCheckpointer):
        """The format is looked at by the first two handles alone."""

        async def bootstrap(self) -> None:
            nonlocal refused
            if self._store.format == 2:
                refused += 1
                if refused > 2:
                    return
            await super().bootstrap()

    target = memory(LooksTwice)
    if kind == "third":
        target = dataclasses.replace(target, read_only=None)
    message = verdict_of(run(target, only=["bootstrap.newer_format_refused"]), "bootstrap.newer_format_refused").message
    assert message.startswith(f"bootstrap() of a {kind} handle on a newer store succeeded")


class Lacking:
    """The five methods and nothing else."""

    def __init__(self, store: Any) -> None:
        self._inner = ReferenceCheckpointer(store)

    async def bootstrap(self) -> None:
        await self._inner.bootstrap()

    async def write(self, checkpoint: Checkpoint) -> None:
        await self._inner.write(checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return await self._inner.read_latest(run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await self._inner.read_at_step(run_id, step)

    async def list_runs(self, *, since: Any = None, limit: int = 100) -> list[RunSummary]:
        return await self._inner.list_runs(since=since, limit=limit)


def test_a_capability_is_declared_by_the_methods() -> None:
    report = run(memory(Lacking), only=["history.range"])
    result = verdict_of(report, "history.range")
    assert (result.verdict, result.message) == ("skip", "history: not declared")


def test_a_declared_capability_that_is_absent_fails() -> None:
    declared = memory(Lacking, capabilities=frozenset({"history"}))
    result = verdict_of(run(declared, only=["history.range"]), "history.range")
    assert (result.verdict, result.message) == ("fail", "history: declared, but the driver lacks methods of RunHistory")
    hook = memory(capabilities=frozenset({"stored-bytes"}), stored_bytes=None)
    result = verdict_of(run(hook, only=["corruption.swapped"]), "corruption.swapped")
    assert (result.verdict, result.message) == ("fail", "stored-bytes: declared, but the target has no hook for it")


def test_a_capability_that_is_not_declared_is_not_looked_at() -> None:
    report = run(memory(capabilities=frozenset()), only=["history.range"])
    assert verdict_of(report, "history.range").verdict == "skip"


class NoHistory(ReferenceCheckpointer):
    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        if run_id:
            raise NotImplementedError("later")
        yield await self._nothing()

    async def _nothing(self) -> Checkpoint:
        raise AssertionError


class NoMethods:
    """What another kit calls full."""


def test_a_driver_without_methods_is_not_conformant() -> None:
    report = run(Target(open=lambda location: NoMethods()))  # type: ignore[arg-type,return-value]
    assert (report.level, report.exit_code, report.count("pass")) == ("none", 1, 0)
    assert "has none of the methods of a driver" in verdict_of(report, "bootstrap.methods").message


async def _coroutine(location: str) -> ReferenceCheckpointer:
    return ReferenceCheckpointer()


@pytest.mark.parametrize(
    ("opener", "expected"), [(_coroutine, "make it a plain function"), (lambda location: None, "returned None")]
)
def test_a_target_that_is_no_target_says_nothing_about_a_driver(opener: Any, expected: str) -> None:
    report = run(Target(open=opener))
    assert (report.level, report.exit_code, report.count("pass")) == ("none", 3, 0)
    assert expected in verdict_of(report, "bootstrap.methods").message


class Unimplemented:
    """All five methods, and nothing in them."""

    async def bootstrap(self) -> None:
        raise NotImplementedError

    async def write(self, checkpoint: Checkpoint) -> None:
        raise NotImplementedError

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        raise NotImplementedError

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        raise NotImplementedError

    async def list_runs(self, *, since: Any = None, limit: int = 100) -> list[RunSummary]:
        raise NotImplementedError


class Agreeable(Unimplemented):
    """All five methods, each of which does nothing without complaint."""

    async def bootstrap(self) -> None:
        return

    async def write(self, checkpoint: Checkpoint) -> None:
        return

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return None

    async def list_runs(self, *, since: Any = None, limit: int = 100) -> list[RunSummary]:
        return []


@pytest.mark.parametrize("kind", [Unimplemented, Agreeable])
def test_methods_that_do_nothing_are_not_conformant(kind: Any) -> None:
    report = run(Target(open=lambda location: kind()))
    assert (report.level, report.exit_code) == ("none", 1)
    assert report.count("pass") <= 3
    assert report.count("blocked") > 100


def test_a_method_that_is_not_implemented_fails() -> None:
    result = verdict_of(run(memory(NoHistory), only=["history.range"]), "history.range")
    assert result.verdict == "fail"
    assert "NotImplementedError: later" in result.message


def test_an_expected_failure_is_strict() -> None:
    link = "https://example.org/1"
    failing = memory(NoHistory, expected_failures={"history.range": link})
    result = verdict_of(run(failing, only=["history.range"]), "history.range")
    assert result.verdict == "expected-failure"
    assert link in result.message
    passing = memory(expected_failures={"history.range": link})
    result = verdict_of(run(passing, only=["history.range"]), "history.range")
    assert result.verdict == "fail"
    assert "take it off" in result.message


class Gaps(ReferenceCheckpointer):
    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        self._store.runs.setdefault(checkpoint.run_id, {})[checkpoint.step] = record


def test_a_required_check_cannot_be_waived() -> None:
    waived = memory(Gaps, expected_failures={"steps.gap_refused": "https://example.org/2"})
    report = run(waived, only=["steps.gap_refused"])
    assert verdict_of(report, "steps.gap_refused").verdict == "fail"
    assert report.exit_code == 1


def test_expected_failures_must_exist() -> None:
    with pytest.raises(HarnessError, match=r"history\.nonsense: there is no such check"):
        run(memory(expected_failures={"history.nonsense": "link"}))


def test_what_a_failed_check_was_needed_for_is_blocked_by_its_name() -> None:
    report = run(memory(Gaps), only=["steps.gap_after_end"])
    result = verdict_of(report, "steps.gap_after_end")
    assert (result.verdict, result.message) == ("blocked", "steps.gap_refused did not pass (fail)")
    assert verdict_of(report, "steps.append_and_read").verdict == "pass"


class Hangs(ReferenceCheckpointer):
    async def read_latest(self, run_id: str) -> Checkpoint | None:
        await asyncio.Event().wait()
        return None


class Blocks(ReferenceCheckpointer):
    async def read_latest(self, run_id: str) -> Checkpoint | None:
        time.sleep(60)
        return None


@pytest.mark.parametrize(("kind", "expected"), [(Hangs, "seconds; unfinished"), (Blocks, "cannot be cancelled either")])
def test_a_driver_that_does_not_come_back_fails(kind: type, expected: str) -> None:
    report = run(memory(kind), only=["bootstrap.creates"], deadline=0.02)
    result = verdict_of(report, "bootstrap.creates")
    assert result.verdict == "fail"
    assert "read_latest('nobody')" in result.message
    assert expected in result.message
    assert ("time.sleep(60)" in result.details) == (kind is Blocks)


class Far(ReferenceCheckpointer):
    """Each call takes as long as a network that is far away."""

    async def _turn(self) -> None:
        await asyncio.sleep(0.06)
        await super()._turn()


class GrowsSlower(ReferenceCheckpointer):
    """Each call walks the whole log: quick in an empty store, slower with each step."""

    async def _turn(self) -> None:
        await asyncio.sleep(0.02 * sum(map(len, self._store.runs.values())))
        await super()._turn()


class SlowDisk(ReferenceCheckpointer):
    """A read takes no time, and a write a third of a second."""

    async def write(self, checkpoint: Checkpoint) -> None:
        await asyncio.sleep(0.3)
        await super().write(checkpoint)


@pytest.mark.parametrize(("kind", "verdict"), [(Far, "pass"), (GrowsSlower, "too-slow"), (SlowDisk, "too-slow")])
def test_a_slow_driver_is_told_from_a_slow_network(
    kind: type, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of its 30 seconds the check gets 1.5, and then four round trips for each call.
    monkeypatch.setattr(_runner, "_STRETCH", 1)
    report = run(memory(kind), only=["steps.latest_is_numeric"], deadline=0.05)
    assert {result.verdict for result in report.results} <= {"pass", "too-slow", "blocked"}, report.to_json()
    slow = [result for result in report.results if result.verdict == "too-slow"]
    assert bool(slow) == (verdict == "too-slow"), report.to_json()
    for result in slow:
        assert "of which none hung" in result.message
        assert "a read takes " in result.message
        assert "--deadline gives it more time" in result.message


def test_too_slow_is_neither_conformant_nor_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "_STRETCH", 1)
    report = run(memory(SlowDisk), only=["steps.latest_is_numeric"], deadline=0.05)
    assert (report.level, report.exit_code) == ("partial", 2)


def test_a_check_whose_calls_come_back_gets_more_time() -> None:
    # Its 12 writes take 3.6 of 2.4 seconds, as on a machine that is busy with something else.
    report = run(memory(SlowDisk), only=["steps.latest_is_numeric"], deadline=0.08)
    assert verdict_of(report, "steps.latest_is_numeric").verdict == "pass"


def test_a_time_in_which_the_machine_stands_still_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    stood_still = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + stood_still, perf_counter=time.perf_counter)

    class StandsStill(ReferenceCheckpointer):
        async def read_latest(self, run_id: str) -> Checkpoint | None:
            nonlocal stood_still
            stood_still += 3600
            await asyncio.sleep(3 * _runner._LOOK)
            return await super().read_latest(run_id)

    for module in (_runner, _handle):
        monkeypatch.setattr(module, "time", clock)
    report = run(memory(StandsStill), only=["bootstrap.creates"])
    found = verdict_of(report, "bootstrap.creates")
    assert found.verdict == "pass", found.explained()


class PresenceElsewhere(ReferenceCheckpointer):
    """Processes are kept in another store, which an outage of this one leaves alone."""

    async def beat(self, process: ProcessInfo) -> None:
        await self._store.queues.beat(check_beat(process), process)

    async def leave(self, process_id: str) -> None:
        await self._store.queues.leave(process_id)

    async def processes(self) -> list[ProcessPresence]:
        return await self._store.queues.processes()


def test_what_is_changed_in_an_outage_may_show_in_it() -> None:
    report = run(memory(PresenceElsewhere), only=["outages.every_call"])
    found = verdict_of(report, "outages.every_call")
    assert found.verdict == "pass", found.explained()


def test_a_store_that_cannot_be_kept_hides_no_violation(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = "support.broken_drivers.database:InsertOrReplaceInSql"
    found = verdict_of(run(target, only=["steps.gap_refused"], keep=tmp_path / "file"), "steps.gap_refused")
    assert found.verdict == "fail"
    assert f"its store could not be kept in {tmp_path / 'file'}: NotADirectoryError" in found.details


@pytest.mark.parametrize("keep", [True, False])
def test_the_store_of_a_failing_check_is_kept_if_asked_for(keep: bool, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    target = "support.broken_drivers.database:InsertOrReplaceInSql"
    report = run(target, only=["steps.gap_refused"], keep=folder if keep else None)
    assert verdict_of(report, "steps.gap_refused").verdict == "fail"
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if keep else []
    assert kept == (["steps.gap-refused", "steps.gap-refused/store"] if keep else [])
    if keep:
        with closing(sqlite3.connect(folder / "steps.gap-refused/store")) as database:
            assert database.execute("SELECT count(*) FROM checkpoints").fetchone() > (0,)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("round_trip", [0.02, 0.1])
def test_a_sound_driver_may_be_far_away(round_trip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def turn(self: ReferenceCheckpointer) -> None:
        await asyncio.sleep(round_trip / 2)

    monkeypatch.setattr(ReferenceCheckpointer, "_turn", turn)
    report = run(memory(outage=None), quick=True)
    assert not report.count("fail", "error", "blocked", "too-slow"), report.to_json()


class Raises(ReferenceCheckpointer):
    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return self._missing  # type: ignore[attr-defined,no-any-return]


def test_an_exception_of_the_driver_is_a_violation_with_its_place() -> None:
    result = verdict_of(run(memory(Raises), only=["bootstrap.creates"]), "bootstrap.creates")
    assert result.verdict == "fail"
    assert result.message.startswith("read_latest('nobody') raised AttributeError: ")
    assert "return self._missing" in result.details
    assert "contract (bootstrap.1" in result.explained()
    assert "usual cause: " in result.explained()


@asynccontextmanager
async def _nowhere() -> AsyncIterator[str]:
    await asyncio.sleep(0)
    if catalogue():
        raise OSError("no space left on device")
    yield ""


def test_a_failure_of_the_surroundings_says_nothing_about_the_driver() -> None:
    report = run(memory(location=_nowhere), only=["bootstrap.creates"])
    assert report.exit_code == 3
    assert "no space left on device" in verdict_of(report, "bootstrap.methods").message


@asynccontextmanager
async def _entered(location: str) -> AsyncIterator[ReferenceCheckpointer]:
    yield ReferenceCheckpointer()


def test_a_target_may_be_a_context_manager() -> None:
    report = run(Target(open=_entered, processes=False), only=["steps.gap_refused", "steps.others_go_on"])
    assert report.count("pass") == len(report.results) == 5


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nonsense", "give it as package.module:name"),
        ("no_such_module:target", "cannot be imported: ModuleNotFoundError"),
        ("json:target", "json has no target"),
        ("string:digits", "must be a function or a Target"),
    ],
)
def test_a_target_that_cannot_be_used_is_reported_at_once(spec: str, expected: str) -> None:
    with pytest.raises(HarnessError, match=expected):
        run(spec)


def test_checks_are_picked_by_id_group_and_pattern() -> None:
    assert [check.id for check in select(["steps.gap_refused"])] == ["steps.gap_refused"]
    assert {check.group for check in select(["steps", "list_*"])} == {"steps", "list_runs"}
    assert all(check.quick for check in select(quick=True))
    with pytest.raises(HarnessError, match="no check fits 'nonsense'"):
        select(["nonsense"])


def test_a_report_for_machines() -> None:
    report = run(memory(Gaps), only=["steps"], seed=7)
    data = json.loads(json.dumps(report.to_json()))
    assert (data["format"], data["seed"], data["level"], data["exit_code"]) == (2, 7, "none", 1)
    assert data["kit"] not in ("", "not installed")
    assert {"python", "platform", "stargraph-core"} <= data["environment"].keys()
    by_id = {result["check"]["id"]: result for result in data["results"]}
    assert by_id["steps.gap_refused"]["verdict"] == "fail"
    assert by_id["steps.gap_refused"]["check"]["version"] == 1
    suite = ET.fromstring(to_junit(report))
    assert int(suite.attrib["failures"]) == report.count("fail") > 0
    assert int(suite.attrib["tests"]) == len(list(suite.iter("testcase"))) == len(report.results)
    page = to_markdown(report)
    assert "Level **none**" in page
    assert "## fail: `steps.gap_refused`" in page


def test_junit_takes_any_text() -> None:
    check = catalogue()[0]
    report = Report("t", "d", 0, catalogue(), (Result(check, "fail", "read '\x00\ud800'"),))
    assert "\\u0000" in ET.fromstring(to_junit(report))[1][0].attrib["message"]


def test_ids_are_stable_words() -> None:
    for check in catalogue():
        assert check.id.replace("_", "").replace(".", "").isalnum(), check.id
        assert check.id.islower()
        for text in (check.reason, check.usual_cause):
            assert text.endswith("."), check.id
            assert "\n" not in text
        assert check.contract


def test_the_kit_leaves_no_directories_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("support.conformance_targets:sqlite", only=["steps.append_and_read"])
    assert not list(tmp_path.iterdir())


def test_what_only_workers_need_may_be_left_out_of_level_full_but_not_fail() -> None:
    def level(verdict: Verdict) -> str:
        fleet = {"queues", "presence", "schedules"}
        results = [Result(check, verdict if check.capability in fleet else "pass") for check in catalogue()]
        return Report("t", "d", 0, catalogue(), tuple(results)).level

    assert (level("pass"), level("skip"), level("fail")) == ("full", "full", "none")


@pytest.mark.parametrize(
    "left_out", [{"queues", "presence", "schedules"}, {"queues"}, {"schedules"}, {"queues", "schedules"}]
)
def test_no_check_of_what_is_left_out_counts_against_level_full(
    left_out: set[Capability], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "_execute", lambda _, check: Result(check, "pass"))
    session = Session(dataclasses.replace(memory(), processes=True))
    session._declared = session._provided = frozenset({*HOOKS, *PROTOCOLS}) - left_out
    verdicts = {check.id: session.result(check).verdict for check in catalogue()}
    assert {verdicts[check.id] for check in catalogue() if check.group in left_out} == {"skip"}
    assert session.report().level == "full"
