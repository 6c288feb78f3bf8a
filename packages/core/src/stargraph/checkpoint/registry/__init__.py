"""Open a store by its URL, through the drivers that are installed."""

from stargraph.checkpoint.registry._address import ENTRY_POINT_GROUP, Address, parse_address
from stargraph.checkpoint.registry._redaction import find_secrets, redact, redact_text
from stargraph.checkpoint.registry._registry import (
    CheckpointerClass,
    DriverInfo,
    find_driver,
    installed_drivers,
    open_checkpointer,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "Address",
    "CheckpointerClass",
    "DriverInfo",
    "find_driver",
    "find_secrets",
    "installed_drivers",
    "open_checkpointer",
    "parse_address",
    "redact",
    "redact_text",
]
