"""What a check is, and how the modules of checks register theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._kit import Kit

Body: TypeAlias = Callable[[Kit], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a driver must get right.

    Attributes:
        id: `group.name`; stable.
        reason: what the contract says, in one line.
        contract: the ids of the sentences of docs/contract.md that it proves, with commas between them.
        usual_cause: what is usually wrong if it fails.
        body: what is run.
        version: goes up when the check becomes stricter.
        needs: the ids of the checks without which this one says nothing.
        capability: the capability that it belongs to; None if every driver must pass.
        quick: it needs no child process and little time.
        processes: it opens the store from child processes.
        advisory: it measures, and never counts.
        deadline: the seconds after which it has failed.
        waits: it waits for most of its time, and leaves the processors to others meanwhile.
    """

    id: str
    reason: str
    contract: str
    usual_cause: str
    body: Body
    version: int = 1
    needs: tuple[str, ...] = ()
    capability: Capability | None = None
    quick: bool = True
    processes: bool = False
    advisory: bool = False
    deadline: float = 30.0
    waits: bool = False

    @property
    def group(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The ids of the sentences of docs/contract.md that it proves; none if it only measures."""
        return () if self.advisory else tuple(self.contract.split(", "))

    @property
    def required(self) -> bool:
        """Whether every driver must pass it."""
        return self.capability is None and not self.advisory


@dataclass(slots=True)
class Group:
    """The checks of one module.

    Attributes:
        name: the first part of their ids.
        needs: the checks that all of them need.
        capability: the capability that all of them belong to.
        checks: in the order of their registration.
    """

    name: str
    needs: tuple[str, ...] = ()
    capability: Capability | None = None
    checks: list[Check] = field(default_factory=list)

    def check(
        self,
        name: str,
        reason: str,
        *,
        contract: str,
        usual_cause: str,
        version: int = 1,
        needs: tuple[str, ...] = (),
        capability: Capability | None = None,
        quick: bool = True,
        processes: bool = False,
        advisory: bool = False,
        deadline: float = 30.0,
        waits: bool = False,
    ) -> Callable[[Body], Body]:
        """Register the decorated function; the arguments are the attributes of `Check`."""

        def register(body: Body) -> Body:
            self.checks.append(
                Check(
                    id=f"{self.name}.{name}",
                    reason=reason,
                    contract=contract,
                    usual_cause=usual_cause,
                    body=body,
                    version=version,
                    needs=(*self.needs, *needs),
                    capability=capability or self.capability,
                    quick=quick and not processes,
                    processes=processes,
                    advisory=advisory,
                    deadline=deadline,
                    waits=waits,
                )
            )
            return body

        return register
