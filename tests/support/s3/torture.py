"""Plays many random schedules of the S3 protocol, then each mutation of it until it is found out.

    PYTHONPATH=tests python -m support.s3.torture --schedules 200000 --seed 1

Exits with 1 where a schedule breaks a promise, or a mutation is not noticed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from support.s3.model import Violation, World
from support.s3.mutations import MUTATIONS

_BLOCK = 500


def first_violation(seeds: range) -> tuple[int, str] | None:
    """Play one schedule for each seed until one breaks a promise.

    Args:
        seeds: the seeds.

    Returns:
        The seed and what it broke, or None.
    """
    for seed in seeds:
        try:
            World(seed).play()
        except Violation as violation:
            return seed, str(violation)
    return None


def first_violation_of(mutation: str, seeds: range) -> tuple[int, str] | None:
    """Do the same with one rule of the protocol removed.

    Args:
        mutation: a key of `MUTATIONS`.
        seeds: the seeds.
    """
    with MUTATIONS[mutation]():
        return first_violation(seeds)


def _blocks(start: int, count: int) -> Iterator[range]:
    for first in range(start, start + count, _BLOCK):
        yield range(first, min(first + _BLOCK, start + count))


def _be_quiet() -> None:
    """Log no warnings: schedules are full of requests without an answer."""
    logging.getLogger("stargraph.checkpoint.s3").setLevel(logging.ERROR)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=200_000)
    parser.add_argument("--mutated", type=int, default=20_000, help="schedules for each mutation, at most")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=None, help="processes; default one for each processor")
    options = parser.parse_args()
    begun = time.monotonic()
    with ProcessPoolExecutor(options.jobs, initializer=_be_quiet) as pool:
        for found in pool.map(first_violation, _blocks(options.seed, options.schedules)):
            if found is not None:
                print(f"seed {found[0]}: {found[1]}")
                pool.shutdown(cancel_futures=True)
                return 1
        print(f"{options.schedules} schedules kept every promise, {time.monotonic() - begun:.0f} s")
        missed = 0
        for mutation in MUTATIONS:
            blocks = pool.map(first_violation_of, repeat(mutation), _blocks(options.seed, options.mutated))
            found = next((found for found in blocks if found is not None), None)
            blocks.close()  # type: ignore[attr-defined]  # an iterator that cancels what has not begun
            missed += found is None
            print(f"{mutation}: " + ("NOT NOTICED" if found is None else f"seed {found[0]}: {found[1]}"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
