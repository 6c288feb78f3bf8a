"""What is different between two reports: which checks changed their verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the checks whose verdicts differ: the id, what it was, what it is; `absent` for one that was not run.

    Args:
        old: a report as `Report.to_json` makes it.
        new: a later one.
    """
    before, after = _verdicts(old), _verdicts(new)
    for check_id in {**before, **after}:
        was, now = before.get(check_id, "absent"), after.get(check_id, "absent")
        if was != now:
            yield check_id, was, now


def _verdicts(report: Mapping[str, Any]) -> dict[str, str]:
    return {result["check"]["id"]: result["verdict"] for result in report["results"] if not result["check"]["advisory"]}
