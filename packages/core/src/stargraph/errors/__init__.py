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

# Their public name is what a traceback, a record and `inspect` show, and what a user imports.
for _name in __all__:
    globals()[_name].__module__ = __name__
