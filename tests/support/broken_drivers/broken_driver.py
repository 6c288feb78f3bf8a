"""A broken driver, with the checks that must fail on it and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stargraph.checkpoint.conformance import Target, catalogue
from stargraph.checkpoint.conformance.reference import ReferenceStores


@dataclass(frozen=True)
class BrokenDriver:
    """One broken driver.

    Attributes:
        name: the name of its class.
        story: what is wrong with it.
        target: how the kit opens it.
        fails: the quick checks that must fail; of the others, only those that look at everything may.
        slow: the checks with child processes, or that take long, that must fail; a quick one if only its part with
            other processes fails.
        deadline: the share of the usual time that its checks get: less for one that hangs.
    """

    name: str
    story: str
    target: str | Target
    fails: frozenset[str]
    slow: frozenset[str]
    deadline: float


BROKEN_DRIVERS: dict[str, BrokenDriver] = {}


def broken(
    *fails: str, slow: tuple[str, ...] = (), deadline: float = 1.0, importable: bool = False
) -> Callable[[type], type]:
    """Register a broken driver.

    Args:
        fails: the checks that must fail; of the other quick ones, only those that look at everything may.
        slow: more checks that must fail, none of them if only quick checks are run.
        deadline: the share of the usual time that its checks get.
        importable: child processes can open it by its location; otherwise it is one over the store in memory, or has
            a method `target`.
    """

    def put(kind: type) -> type:
        target: Any = f"{kind.__module__}:{kind.__qualname__}"
        if (make := getattr(kind, "target", None)) is not None:
            target = make()
        elif not importable:
            target = ReferenceStores(kind).target()
        assert kind.__doc__
        assert kind.__name__ not in BROKEN_DRIVERS
        takes_long = {check.id for check in catalogue() if not check.quick}
        BROKEN_DRIVERS[kind.__name__] = BrokenDriver(
            kind.__name__,
            kind.__doc__.partition("\n")[0],
            target,
            frozenset(fails) - takes_long,
            frozenset(slow) | takes_long.intersection(fails),
            deadline,
        )
        return kind

    return put
