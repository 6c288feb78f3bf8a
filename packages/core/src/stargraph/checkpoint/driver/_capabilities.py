"""What a driver may add beside the capabilities of the contract: for the command line, and for an audit."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from stargraph.checkpoint.driver._summary_rows import DamagedRun


@runtime_checkable
class Encrypting(Protocol):
    """Capability: say whether records are encrypted. A driver that does not is not opened if keys are set."""

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""


@runtime_checkable
class ReadOnly(Protocol):
    """Capability: open a store without ever writing a byte."""

    @property
    def read_only(self) -> bool:
        """Whether this handle refuses to write."""


@runtime_checkable
class QueueDamage(Protocol):
    """Capability: name the runs that `claimable` leaves out since their entries are damaged. Workers log them."""

    async def damaged_runs(self) -> list[DamagedRun]:
        """Return those that the latest claims of this handle met, and that still cannot be read.

        Raises:
            CheckpointError: as the store raises.
        """


@runtime_checkable
class QueueRepair(Protocol):
    """Capability: repair the index in which workers find the runs of queues. `stargraph doctor` does."""

    async def repair_queues(self) -> list[str]:
        """Compare the index with the runs themselves, correct it, and return what was wrong, one sentence for each run.

        Workers may use the store meanwhile.

        Raises:
            CheckpointError: as the store raises.
        """


@runtime_checkable
class RecordBases(Protocol):
    """Capability: say which records a record is decoded from. `stargraph verify` asks: a prune leaves those."""

    async def decoded_from(self, run_id: str, step: int) -> tuple[int, ...]:
        """Return the steps that the record of a step is decoded from, the keyframe first; none if it stands alone."""


@runtime_checkable
class SelfTest(Protocol):
    """Capability: try what the promises of a driver stand on. `stargraph doctor` does."""

    async def examine(self) -> list[str]:
        """Return what was found to be right, one sentence each.

        Raises:
            StoreUnavailableError: something is wrong, and `reason` says what.
        """


@runtime_checkable
class Diagnosing(Protocol):
    """Capability of a driver's class: know problems of the libraries that it uses. `stargraph doctor` prints them."""

    def diagnose(self) -> list[str]:
        """Return the known problems, one sentence each; without I/O. A static method of the class."""


class InPlaceWrites:
    """Direct base of a driver whose `write` and `write_many` may run within the task of the caller.

    It spares a task and two turns of the loop with each step. Such a method awaits futures, and nothing that cancels
    the task that it runs in: no `asyncio.timeout`, no `asyncio.wait_for`, no task group.
    """
