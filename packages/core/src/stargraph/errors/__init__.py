"""Every exception that Stargraph raises, as one tree."""

from stargraph.errors._exceptions import (
    CallError,
    CheckpointConflictError,
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointNotFoundError,
    DriverNotFoundError,
    GraphError,
    HashMismatchError,
    NodeError,
    StargraphError,
    StateError,
    StoreUnavailableError,
    StoreVersionError,
)

__all__ = [
    "CallError",
    "CheckpointConflictError",
    "CheckpointCorruptedError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "DriverNotFoundError",
    "GraphError",
    "HashMismatchError",
    "NodeError",
    "StargraphError",
    "StateError",
    "StoreUnavailableError",
    "StoreVersionError",
]
