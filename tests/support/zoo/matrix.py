"""Print which broken driver fails which check: `python -m support.zoo.matrix`, in `tests`.

The sets are those that the tests of the kit hold every specimen to. With `--csv` one row for each specimen and one
column for each check; with `--run` the quick checks are run now, and what fails is printed instead.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator

from stargraph.checkpoint.conformance import catalogue, run
from support.zoo.every import ZOO, Specimen


def failures_of(specimen: Specimen, *, measured: bool) -> frozenset[str]:
    """Return the checks that a specimen fails.

    Args:
        specimen: the broken driver.
        measured: run the quick checks, instead of believing what is declared.
    """
    if not measured:
        return specimen.fails | specimen.slow
    report = run(specimen.target, quick=True, seed=1, deadline=specimen.deadline)
    return frozenset(result.check.id for result in report.results if result.verdict == "fail")


def matrix(*, measured: bool = False) -> Iterator[tuple[Specimen, frozenset[str]]]:
    """Yield every specimen with the checks that it fails."""
    for specimen in ZOO.values():
        yield specimen, failures_of(specimen, measured=measured)


def _print_lists(rows: Iterator[tuple[Specimen, frozenset[str]]]) -> None:
    killers: dict[str, list[str]] = {check.id: [] for check in catalogue() if not check.advisory}
    count = 0
    for specimen, failed in rows:
        count += 1
        print(f"{specimen.name}: {specimen.story}")
        for check_id, names in killers.items():
            if check_id in failed:
                names.append(specimen.name)
                print(f"    {check_id}")
    print(f"\n{count} broken drivers; the checks, and who fails them:\n")
    for check_id, names in killers.items():
        print(f"{check_id}: {len(names)}: {', '.join(names)}")
    alive = [check_id for check_id, names in killers.items() if not names]
    print(f"\n{len(killers) - len(alive)} of {len(killers)} checks fail on some broken driver")


def _print_table(rows: Iterator[tuple[Specimen, frozenset[str]]]) -> None:
    ids = [check.id for check in catalogue() if not check.advisory]
    table = csv.writer(sys.stdout)
    table.writerow(["specimen", *ids])
    for specimen, failed in rows:
        table.writerow([specimen.name, *("x" if check_id in failed else "" for check_id in ids)])


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
