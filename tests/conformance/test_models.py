"""What the model of random calls says about a driver that disagrees with it."""

from __future__ import annotations

import pytest
from support.broken_drivers.every import BROKEN_DRIVERS

from stargraph.checkpoint.conformance import _model, run

pytestmark = pytest.mark.thorough


def _message(name: str) -> str:
    report = run(BROKEN_DRIVERS[name].target, only=["stateful"], seed=1)
    (found,) = [result for result in report.results if result.check.id == "stateful.agrees_with_model"]
    assert found.verdict == "fail"
    return found.message


@pytest.mark.parametrize("seconds", [_model.SHRINK_SECONDS, 0.0], ids=["shrunk", "as-found"])
def test_the_calls_are_listed(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_model, "SHRINK_SECONDS", seconds)
    violation, *calls = _message("SchedulesComeBack").splitlines()
    assert violation.startswith("schedules() gave ")
    assert calls[0] == "state.open_store()"
    assert calls[-1] == "state.teardown()"
    assert any(call.startswith("state.remove_schedule(") for call in calls)
