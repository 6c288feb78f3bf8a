"""What is different between two reports: which checks changed their verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the checks whose verdicts differ: the id, what it was, what it is; `absent` for one that was not run.

    Args:
        before: the verdicts of a report.
        after: those of a later one.
    """
    for check_id in {**before, **after}:
        was, now = before.get(check_id, "absent"), after.get(check_id, "absent")
        if was != now:
            yield check_id, was, now


def verdicts(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdicts of the checks that count, by their ids.

    Args:
        report: as `Report.to_json` makes it.
    """
    return {result["check"]["id"]: result["verdict"] for result in report["results"] if not result["check"]["advisory"]}
