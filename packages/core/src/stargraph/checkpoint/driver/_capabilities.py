"""What a driver may say of a handle, beside the capabilities of the contract."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


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
