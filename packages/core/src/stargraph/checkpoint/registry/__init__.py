"""Open a store by its URL, through the drivers that are installed."""

from stargraph.checkpoint.registry._registry import (
    ENTRY_POINT_GROUP,
    CheckpointerClass,
    DriverInfo,
    installed_drivers,
    open_checkpointer,
    redact,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "CheckpointerClass",
    "DriverInfo",
    "installed_drivers",
    "open_checkpointer",
    "redact",
]
