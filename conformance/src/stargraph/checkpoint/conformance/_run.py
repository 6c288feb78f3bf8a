"""Choose checks, and run them against a driver."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._expect import HarnessError
from stargraph.checkpoint.conformance._jobs import Jobs
from stargraph.checkpoint.conformance._kit import PATIENCE
from stargraph.checkpoint.conformance._registry import Check
from stargraph.checkpoint.conformance._report import Report, Result
from stargraph.checkpoint.conformance._runner import Session
from stargraph.checkpoint.conformance._target import Target


def select(only: Sequence[str] = (), *, quick: bool = False) -> list[Check]:
    """Return the checks that are asked for, in the order of the catalogue.

    Args:
        only: ids, groups, or patterns of ids with `*`; all checks where empty.
        quick: leave out the checks that need child processes or much time.

    Raises:
        HarnessError: nothing in the catalogue fits one of them.
    """
    checks = catalogue()
    for pattern in only:
        if not any(_fits(check, pattern) for check in checks):
            raise HarnessError(f"no check fits {pattern!r}; --list shows them all")
    return [
        check
        for check in checks
        if (check.quick or not quick) and (not only or any(_fits(check, pattern) for pattern in only))
    ]


def _fits(check: Check, pattern: str) -> bool:
    return check.group == pattern or fnmatchcase(check.id, pattern)


def run(
    target: str | Target,
    *,
    only: Collection[str] = (),
    quick: bool = False,
    seed: int | None = None,
    deadline: float = 1.0,
    keep: Path | None = None,
    patience: float = PATIENCE,
    jobs: int = 1,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Run the kit against a driver.

    Args:
        target: the target as `package.module:name`, or a `Target`; child processes need the first.
        only: ids, groups, or patterns of ids with `*`; all checks where empty. Checks that these need run too.
        quick: leave out the checks that need child processes or much time.
        seed: what chance is seeded with; a random one where None. The report tells it.
        deadline: how much longer than by default a check may take; 2 doubles the time.
        keep: a folder for copies of the stores of checks that fail, if they are files; none are kept if None.
        patience: seconds that checks wait for what a driver may do a little later, such as tell a watch of a step. A
            lower number finds a driver that never does it sooner, and may fail one that does it on a busy machine.
        jobs: how many checks run side by side, each in a process of its own; with more than one, a check that mostly
            waits runs beside them. What a hook of the target does must then touch nothing but the store at the location
            that it is given.
        progress: called with each result as it comes.

    Returns:
        The report.

    Raises:
        HarnessError: the target cannot be imported, no check fits `only`, or the target is an object and there is more
            than one job.
    """
    chosen = select(tuple(only), quick=quick)
    with Session(target, drawn(seed), deadline, thorough=not quick, keep=keep, patience=patience) as session:
        run_checks(session, chosen, jobs=jobs, progress=progress)
        return session.report()


def drawn(seed: int | None) -> int:
    """Return a seed, a random one if None is given."""
    return random.SystemRandom().randrange(2**31) if seed is None else seed


def run_checks(
    session: Session, checks: Sequence[Check], *, jobs: int = 1, progress: Callable[[Result], None] | None = None
) -> None:
    """Run checks in a session, which holds the results, also if this is interrupted. The rest is as in `run`."""
    session.prepare()  # so that a target that cannot be imported is reported at once
    if jobs > 1:
        Jobs(session, checks, progress).run(jobs)
        return
    for check in checks:
        result = session.result(check)
        if progress is not None:
            progress(result)
