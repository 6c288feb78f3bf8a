"""Measures by address, and ratios of them.

An address names one measure of one contender: `sqlite/chat/stargraph/rate`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Address: TypeAlias = str


class Spread(NamedTuple):
    """The median of repeats, how far they lie apart, and how many there were."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of values that were measured."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass
class Figures:
    """What was measured: for each address the value of each repeat."""

    values: dict[Address, list[float]] = field(default_factory=dict)
    failures: dict[Address, str] = field(default_factory=dict)

    def add(self, prefix: str, measures: dict[str, float]) -> None:
        """Take the measures of one repeat of one contender."""
        for name, value in measures.items():
            self.values.setdefault(f"{prefix}/{name}", []).append(value)

    def spread(self, address: Address) -> Spread | None:
        """Return what was measured, or None if nothing was."""
        values = self.values.get(address)
        return Spread.of(values) if values else None

    def ratio(self, address: Address, base: Address) -> Spread | None:
        """Return the ratio of two measures, taken repeat by repeat, as they took turns."""
        values, bases = self.values.get(address), self.values.get(base)
        if not values or not bases or not all(bases):
            return None
        return Spread.of([value / other for value, other in zip(values, bases, strict=False)])

    def contenders(self, store: str, workload: str) -> list[str]:
        """Return who was measured at a workload, in the order that they took part."""
        found = (address.split("/") for address in self.values)
        return list(dict.fromkeys(parts[2] for parts in found if parts[:2] == [store, workload]))

    def names(self, store: str, workload: str) -> list[str]:
        """Return what was measured at a workload."""
        found = (address.split("/") for address in self.values)
        return list(dict.fromkeys(parts[3] for parts in found if parts[:2] == [store, workload]))

    def workloads(self) -> Iterator[tuple[str, str]]:
        """Yield the store and the workload of everything that was measured."""
        yield from dict.fromkeys((store, workload) for store, workload, *_ in (a.split("/") for a in self.values))


def shown(name: str, value: float) -> str:
    """Write a value of a measure with its unit."""
    if "bytes" in name:
        for unit, size in (("MB", 1e6), ("KB", 1e3)):
            if value >= size:
                return f"{_digits(value / size)} {unit}"
        return f"{value:,.0f} B"
    if name == "rate":
        return f"{value:,.0f}/s"
    if name.partition("@")[0].endswith(("_ms", "ms_a_step")):
        return f"{_digits(value)} ms"
    if name == "seconds":
        return f"{value:.3f} s"
    return _digits(value)


def times(value: float) -> str:
    """Write a ratio: 2.1×, 0.66×, 1/140."""
    return f"1/{1 / value:,.0f}" if 0 < value < 0.095 else f"{_digits(value)}×"


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"
