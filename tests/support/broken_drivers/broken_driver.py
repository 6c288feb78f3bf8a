"""A broken driver, with the checks that must fail on it and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
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
        named: the checks that must fail.
        named_slow: those that must fail where not only quick checks are run.
        deadline: the share of the usual time that its checks get: less for one that hangs.
    """

    name: str
    story: str
    target: str | Target
    named: frozenset[str]
    named_slow: frozenset[str]
    deadline: float

    # Asked for only when they are needed: the catalogue has all checks imported, in each child process too.
    @property
    def fails(self) -> frozenset[str]:
        """The quick checks that must fail; of the others, only those that look at everything may."""
        return self.named - _taking_long()

    @property
    def slow(self) -> frozenset[str]:
        """The checks that must fail and have child processes, or take long; a quick one if only that part fails."""
        return self.named_slow | (self.named & _taking_long())


@cache
def _taking_long() -> frozenset[str]:
    return frozenset(check.id for check in catalogue() if not check.quick)


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
        BROKEN_DRIVERS[kind.__name__] = BrokenDriver(
            kind.__name__,
            kind.__doc__.partition("\n")[0],
            target,
            frozenset(fails),
            frozenset(slow),
            deadline,
        )
        return kind

    return put
