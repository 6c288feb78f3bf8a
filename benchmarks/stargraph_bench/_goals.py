"""The goals: ratios that `goals.toml` asks for."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files

from stargraph_bench._figures import Address, Figures, Spread, shown, times


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        goal: what it is, in words.
        measure: the address of what is measured.
        against: the address that it is divided by; empty if the measure itself is the goal.
        at_least: the least that meets it.
        at_most: the most that meets it.
    """

    goal: str
    measure: Address
    against: Address = ""
    at_least: float | None = None
    at_most: float | None = None

    def measured(self, figures: Figures) -> Spread | None:
        """Return the value of the goal, or None if it was not measured."""
        return figures.ratio(self.measure, self.against) if self.against else figures.spread(self.measure)

    def met(self, value: float) -> bool:
        """Return whether a value meets it."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def show(self, value: float) -> str:
        """Write a value of it with its unit."""
        return times(value) if self.against else shown(self.measure.rpartition("/")[2], value)

    @property
    def wanted(self) -> str:
        """What it asks for."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return ", ".join(f"{sign} {self.show(bound)}" for sign, bound in bounds if bound is not None)


def load_goals() -> list[Goal]:
    """Return the goals in the order of the file."""
    text = files(__package__).joinpath("goals.toml").read_text(encoding="utf-8")
    return [Goal(**entry) for entry in tomllib.loads(text)["goals"]]
