"""How a store is opened again: for the thread that says that a worker lives, and for processes of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from stargraph.checkpoint.protocol import ClosingCheckpointer
from stargraph.checkpoint.registry import open_checkpointer, redact


@dataclass(frozen=True, slots=True)
class StoreSource:
    """A store by its address.

    Attributes:
        url: a path or URL, as `open_checkpointer` takes it.
        encryption_keys: as for `open_checkpointer`.
        encryption_keys_from: likewise.
    """

    url: str
    encryption_keys: str | None = field(default=None, repr=False)
    encryption_keys_from: str = "encryption_keys"

    def __str__(self) -> str:
        return redact(self.url)

    def open(self) -> ClosingCheckpointer:
        """Return a new handle; no I/O happens before its `bootstrap`.

        Raises:
            CheckpointError: as `open_checkpointer` raises.
        """
        return open_checkpointer(
            self.url, encryption_keys=self.encryption_keys, encryption_keys_from=self.encryption_keys_from
        )
