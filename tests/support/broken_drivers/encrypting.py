"""Drivers that encrypt, and not everything, or not for everybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

from stargraph.checkpoint.codec import ENCRYPTION_VARIABLE, Cipher, Codec
from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError
from support.broken_drivers.broken_driver import broken
from support.conformance_targets import _Memory


class _Stores(_Memory):
    """Stores in memory that handles of one kind open."""

    def __init__(self, kind: type[MemoryCheckpointer]) -> None:
        super().__init__()
        self._kind = kind

    def open(self, location: str) -> MemoryCheckpointer:
        return self._kind(self._stores[location])

    def encrypting(self, location: str) -> MemoryCheckpointer:
        return self._kind(self._stores[location], encryption=self._kind.cipher())  # type: ignore[attr-defined]


class Encrypting(MemoryCheckpointer):
    """Sound."""

    @staticmethod
    def cipher() -> Cipher | None:
        """Return the keys that a handle is given."""
        return Cipher.from_environment()

    @classmethod
    def target(cls) -> Target:
        """Return the target."""
        stores = _Stores(cls)
        return Target(
            open=stores.open,
            location=stores.location,
            stored_bytes=stores,
            encryption=stores.encrypting,
            processes=False,
        )

    def _plainly(self) -> Self:
        """A handle on the same store that does not encrypt."""
        handle = type(self)(self._store)
        handle._lifecycle = self._lifecycle
        return handle


@broken("access.encrypted")
class BatchesStayPlain(Encrypting):
    """write_many was added after encryption, and makes its records without the keys."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await Encrypting.write_many(self._plainly(), checkpoints)


@broken("access.encrypted")
class PrunedStartsStayPlain(Encrypting):
    """start_pruned was added after encryption, and makes its records without the keys."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await Encrypting.start_pruned(self._plainly(), checkpoints)


@broken("access.encryption_keys")
class OneKeyIsEnough(Encrypting):
    """Of several keys the first is kept: it is the one that encrypts."""

    @staticmethod
    def cipher() -> Cipher | None:
        keys = os.environ.get(ENCRYPTION_VARIABLE)
        return None if keys is None else Cipher.parse(keys.partition(",")[0])


@broken("access.encryption_keys")
class PlainIfAllElseFails(Encrypting):
    """What cannot be decrypted is read as plain, for stores that were there before the keys."""

    def _decode(self, record: bytes, run_id: str, step: int) -> Checkpoint:
        try:
            return super()._decode(record, run_id, step)
        except CheckpointCorruptedError:
            plain: Any = Codec(memory=0)
            return plain.decode({step: record}, run_id=run_id, step=step)  # type: ignore[no-any-return]
