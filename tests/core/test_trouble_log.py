"""The log of a driver whose store is away has a few lines, and says when the store is back."""

from __future__ import annotations

import logging

import pytest

from stargraph.checkpoint.driver import TroubleLog

LOGGER = logging.getLogger("stargraph.checkpoint.test_trouble_log")


class Trouble:
    """A log whose clock the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        caplog.set_level(logging.INFO, LOGGER.name)
        self._caplog = caplog
        self.log = TroubleLog(LOGGER)

    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.name == LOGGER.name]

    def fail(self, seconds: float, kind: str = "refused") -> None:
        """Let eight requests a second fail for some seconds: floats add up eighths exactly."""
        for _ in range(round(seconds * 8)):
            self.log.failed(kind, "trying again: %s", kind)
            self.now += 0.125


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Trouble:
    return Trouble(monkeypatch, caplog)


def test_half_a_minute_without_the_store_is_four_lines(trouble: Trouble) -> None:
    trouble.fail(32)
    trouble.log.succeeded("the store")
    assert trouble.lines() == [
        "trying again: refused",
        "trying again: refused (79 more since this was last logged)",
        "trying again: refused (159 more since this was last logged)",
        "the store answers again, after 32.0 s and failing 256 times",
    ]


def test_a_day_has_a_line_every_five_minutes(trouble: Trouble) -> None:
    for _ in range(24 * 3600):
        trouble.log.failed("refused", "trying again")
        trouble.now += 1
    assert 280 < len(trouble.lines()) < 300


def test_another_kind_of_failure_is_logged_at_once(trouble: Trouble) -> None:
    trouble.fail(5)
    trouble.fail(2, "starting")
    trouble.fail(1)
    assert trouble.lines() == ["trying again: refused", "trying again: starting"]


def test_what_passes_at_once_has_one_line_and_does_not_flood(trouble: Trouble) -> None:
    for _ in range(20):
        trouble.fail(0.2)
        trouble.log.succeeded("the store")
    assert trouble.lines() == ["trying again: refused"]


def test_the_next_trouble_is_logged_from_its_beginning(trouble: Trouble) -> None:
    trouble.fail(2)
    trouble.log.succeeded("the store")
    trouble.fail(2)
    trouble.log.succeeded("the store")
    assert trouble.lines() == ["trying again: refused", "the store answers again, after 2.0 s and failing 16 times"] * 2
    trouble.log.succeeded("the store")
    assert len(trouble.lines()) == 4


def test_every_failure_has_a_line_or_is_counted_by_one(trouble: Trouble) -> None:
    trouble.fail(5)
    trouble.fail(0.125, "starting")
    trouble.fail(5)
    assert trouble.lines() == [
        "trying again: refused",
        "trying again: starting",
        "trying again: refused (78 more since this was last logged)",
    ]
    trouble.log.succeeded("the store")
    assert trouble.lines()[-1] == "the store answers again, after 10.1 s and failing 81 times"
    trouble.fail(0.125)
    assert trouble.lines()[-1] == "trying again: refused"


def test_a_single_failure_is_one_time(trouble: Trouble) -> None:
    trouble.log.failed("refused", "trying again")
    trouble.now += 3
    trouble.log.succeeded("the store")
    assert trouble.lines()[-1] == "the store answers again, after 3.0 s and failing 1 time"


def test_a_hiccup_long_after_another_is_logged(trouble: Trouble) -> None:
    for _ in range(3):
        trouble.fail(0.2)
        trouble.log.succeeded("the store")
        trouble.now += 3600
    assert len(trouble.lines()) == 3


def test_two_threads_may_hear_at_once_that_the_store_is_back(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """One handle serves the event loops of several threads."""
    trouble.fail(2)

    def monotonic() -> float:
        monkeypatch.setattr("time.monotonic", lambda: trouble.now)
        trouble.log.succeeded("the store")  # the other thread, in the middle of this one
        return trouble.now

    monkeypatch.setattr("time.monotonic", monotonic)
    trouble.log.succeeded("the store")
    assert trouble.lines() == ["trying again: refused", "the store answers again, after 2.0 s and failing 16 times"]
