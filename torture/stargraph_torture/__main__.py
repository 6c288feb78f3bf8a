"""Plays rounds on a driver until enough was acknowledged under enough faults, and prints what came of it.

    PYTHONPATH=torture:tests python -m stargraph_torture sqlite postgres s3 --checkpoints 100000 --faults 1000 --seed 1

Exits with 1 where a promise was broken, and says which, and by which seed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stargraph_torture.arenas import ARENAS
from stargraph_torture.rounds import RoundPlan, RoundResult, play
from stargraph_torture.seeds import SEED_VARIABLE, first_seed

_RUNS = {"sqlite": 300, "postgres": 200, "s3": 100}
_PAUSE = {"sqlite": 0.15, "postgres": 0.3, "s3": 2.5}


@dataclass
class Total:
    """The figures of all rounds on one driver."""

    rounds: int = 0
    seconds: float = 0.0
    runs: int = 0
    acknowledged: int = 0
    lost: int = 0
    violations: int = 0
    effects: int = 0
    repeated: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    impossible: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: RoundResult) -> None:
        """Take a round in."""
        verdict = outcome.verdict
        self.rounds += 1
        self.seconds += outcome.seconds
        self.runs += verdict.runs
        self.acknowledged += verdict.acknowledged
        self.lost += verdict.lost
        self.violations += len(verdict.violations)
        self.effects += verdict.effects
        self.repeated += verdict.repeated
        self.faults += outcome.faults
        self.refused += verdict.refused
        self.impossible |= outcome.impossible


def table(totals: dict[str, Total]) -> str:
    """Return the figures as Markdown.

    Args:
        totals: by the driver.
    """
    kinds = sorted(set().union(*(total.faults for total in totals.values())))
    rows: list[tuple[str, Sequence[object]]] = [
        ("rounds", [total.rounds for total in totals.values()]),
        ("minutes", [f"{total.seconds / 60:.1f}" for total in totals.values()]),
        ("runs, with child runs", [total.runs for total in totals.values()]),
        ("**acknowledged checkpoints checked**", [total.acknowledged for total in totals.values()]),
        ("**of these lost or changed**", [total.lost for total in totals.values()]),
        ("other promises broken", [total.violations - min(total.lost, total.violations) for total in totals.values()]),
        ("effects of nodes", [total.effects for total in totals.values()]),
        ("of these repeated, in flight at a fault", [total.repeated for total in totals.values()]),
        ("errors that the drivers raised", [total.refused.total() for total in totals.values()]),
        ("**faults**", [total.faults.total() for total in totals.values()]),
        *((kind, [total.faults[kind] or "–" for total in totals.values()]) for kind in kinds),
    ]
    lines = [f"| | {' | '.join(totals)} |", f"|---|{'---:|' * len(totals)}"]
    lines += [f"| {name} | {' | '.join(map(str, figures))} |" for name, figures in rows]
    for driver, total in totals.items():
        lines += [f"\nNot done to {driver}: {what} ({why})." for what, why in total.impossible.items()]
    return "\n".join(lines)


async def _play_on(driver: str, options: argparse.Namespace) -> Total:
    total, playing = Total(), asyncio.current_task()
    assert playing is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)  # so that nothing is left behind
    while not total.violations and (total.acknowledged < options.checkpoints or total.faults.total() < options.faults):
        plan = RoundPlan(
            driver,
            options.seed + total.rounds,
            runs=options.runs or _RUNS[driver],
            pause=options.pause or _PAUSE[driver],
        )
        try:
            outcome = await play(plan)
        except asyncio.CancelledError:
            break  # told to end: the rounds that were whole count
        total.add(outcome)
        shown = f"{driver}, seed {plan.seed}: {total.acknowledged} checkpoints, {total.faults.total()} faults"
        print(f"{shown}, {total.seconds:.0f} s", file=sys.stderr, flush=True)
        if outcome.verdict.violations:
            print(outcome.report(), file=sys.stderr)
    return total


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("drivers", nargs="+", choices=[*ARENAS])
    parser.add_argument("--checkpoints", type=int, default=100_000, help="acknowledged on each driver, at least")
    parser.add_argument("--faults", type=int, default=1_000, help="injected on each driver, at least")
    parser.add_argument("--runs", type=int, help="runs in each round")
    parser.add_argument("--pause", type=float, help="seconds between two faults; more of them on a slow machine")
    parser.add_argument("--seed", type=int, default=first_seed(), help=f"of the first round; else {SEED_VARIABLE}")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    totals = {driver: asyncio.run(_play_on(driver, options)) for driver in options.drivers}
    print(table(totals))
    return 1 if any(total.violations for total in totals.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
