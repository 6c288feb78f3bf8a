"""The trend: one JSON line for each measurement, and the comparison of two of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stargraph_bench._figures import Address, Figures, Spread, times
from stargraph_bench._machine import Machine


class TrendError(Exception):
    """The trend file cannot be used as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a trend file.

    Attributes:
        machine: the facts of the machine.
        scale: how much was measured.
        measures: each measure's median, least, most and number of repeats.
    """

    machine: dict[str, Any]
    scale: str
    measures: dict[Address, Spread]

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line.

        Raises:
            ValueError: it is not one.
        """
        try:
            fields = json.loads(line)
            measures = {address: Spread(*values) for address, values in fields["measures"].items()}
            return cls(fields["machine"], fields["scale"], measures)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it has no {error}") from error

    @property
    def name(self) -> str:
        """Its commit and its time."""
        return f"{self.machine['commit']} ({self.machine['at']})"


def append(path: Path, figures: Figures, machine: Machine, scale: str) -> None:
    """Add a measurement to a trend file."""
    measures = {address: _rounded(Spread.of(values)) for address, values in figures.values.items()}
    line = {"machine": machine.facts(), "scale": scale, "measures": measures}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def load(path: Path) -> list[Entry]:
    """Return what a trend file holds, the oldest first.

    Raises:
        TrendError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TrendError(f"{path.name}: {error.strerror}; measure first, or name another file with --trend") from None
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Entry.parse(line))
        except ValueError as error:
            raise TrendError(f"{path.name}:{number}: this is not a measurement: {error}") from None
    return entries


def pick(entries: list[Entry], which: str) -> Entry:
    """Return the latest measurement of a commit, or the one at a position: 0 is the oldest, -1 the latest.

    Raises:
        TrendError: there is none.
    """
    if which.lstrip("-").isdigit() and len(which) < 7:
        try:
            return entries[int(which)]
        except IndexError:
            raise TrendError(f"there is no measurement {which}: the file has {len(entries)}") from None
    found = [entry for entry in entries if str(entry.machine["commit"]).startswith(which)]
    if not found:
        known = ", ".join(str(entry.machine["commit"]) for entry in entries)
        raise TrendError(f"no measurement of commit {which}: there are {known}")
    return found[-1]


def compare(before: Entry, after: Entry) -> str:
    """Return what changed of our own measures between two measurements, in Markdown.

    A machine is not equally fast on two days, so each measure is also given relative to the raw medium in its own
    run, if that was measured at the same. A change counts if the spreads of repeats do not overlap.

    Raises:
        TrendError: they are of different sizes.
    """
    if before.scale != after.scale:
        raise TrendError(f"{before.name} has {before.scale} sizes and {after.name} {after.scale} ones")
    lines = [
        f"{before.name} → {after.name}",
        "",
        "| measure | before | after | after / before | beside raw | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for address in sorted(before.measures.keys() & after.measures.keys()):
        store, workload, contender, name = address.split("/")
        old, new = before.measures[address], after.measures[address]
        if not contender.startswith("stargraph") or not old.median:
            continue
        change = new.median / old.median
        raw = f"{store}/{workload}/raw/{name}"
        beside = "–"
        if raw in before.measures and raw in after.measures and before.measures[raw].median:
            drift = after.measures[raw].median / before.measures[raw].median
            beside = times(change / drift) if drift else "–"
        apart = min(old.repeats, new.repeats) > 1 and (new.low > old.high or new.high < old.low)
        better = (change > 1) == (name in _MORE_IS_BETTER)
        verdict = ("better" if better else "**worse**") if apart and abs(change - 1) > 0.02 else ""
        lines.append(f"| {address} | {old.median:,.4g} | {new.median:,.4g} | {times(change)} | {beside} | {verdict} |")
    return "\n".join(lines) + "\n"


def _rounded(spread: Spread) -> tuple[float, float, float, int]:
    median, low, high = (float(f"{value:.5g}") for value in spread[:3])
    return median, low, high, spread.repeats


_MORE_IS_BETTER = ("rate", "rows_a_commit")
