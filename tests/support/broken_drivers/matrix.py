"""Print which broken driver fails which check: `python -m support.broken_drivers.matrix`, in `tests`.

The sets are those that the tests of the kit hold every broken driver to. `--csv` prints a row for each broken driver
and a column for each check; `--run` runs the quick checks now and prints what fails instead.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator

from stargraph.checkpoint.conformance import catalogue, run
from support.broken_drivers.every import BROKEN_DRIVERS, BrokenDriver


def failures_of(driver: BrokenDriver, *, measured: bool) -> frozenset[str]:
    """Return the checks that a broken driver fails.

    Args:
        driver: the broken driver.
        measured: run the quick checks, instead of believing what is declared.
    """
    if not measured:
        return driver.fails | driver.slow
    report = run(driver.target, quick=True, seed=1, deadline=driver.deadline)
    return frozenset(result.check.id for result in report.results if result.verdict == "fail")


def matrix(*, measured: bool = False) -> Iterator[tuple[BrokenDriver, frozenset[str]]]:
    """Yield every broken driver with the checks that it fails."""
    for driver in BROKEN_DRIVERS.values():
        yield driver, failures_of(driver, measured=measured)


def _print_lists(rows: Iterator[tuple[BrokenDriver, frozenset[str]]]) -> None:
    killers: dict[str, list[str]] = {check.id: [] for check in catalogue() if not check.advisory}
    count = 0
    for driver, failed in rows:
        count += 1
        print(f"{driver.name}: {driver.story}")
        for check_id, names in killers.items():
            if check_id in failed:
                names.append(driver.name)
                print(f"    {check_id}")
    print(f"\n{count} broken drivers; the checks, and who fails them:\n")
    for check_id, names in killers.items():
        print(f"{check_id}: {len(names)}: {', '.join(names)}")
    alive = [check_id for check_id, names in killers.items() if not names]
    print(f"\n{len(killers) - len(alive)} of {len(killers)} checks fail on some broken driver")


def _print_table(rows: Iterator[tuple[BrokenDriver, frozenset[str]]]) -> None:
    ids = [check.id for check in catalogue() if not check.advisory]
    table = csv.writer(sys.stdout)
    table.writerow(["driver", *ids])
    for driver, failed in rows:
        table.writerow([driver.name, *("x" if check_id in failed else "" for check_id in ids)])


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description="Which broken driver fails which check of the conformance kit.")
    parser.add_argument("--csv", action="store_true", help="one row for each driver, one column for each check")
    parser.add_argument("--run", action="store_true", help="run the quick checks, which takes minutes")
    arguments = parser.parse_args()
    rows = matrix(measured=arguments.run)
    (_print_table if arguments.csv else _print_lists)(rows)


if __name__ == "__main__":
    main()
