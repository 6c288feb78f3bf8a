"""What a driver, or its target, may add to the required methods."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from stargraph.checkpoint.protocol import (
    BatchAppend,
    Closing,
    KeyedSteps,
    Presence,
    PrunedStart,
    RunDeletion,
    RunHistory,
    RunQueue,
    RunSearch,
    RunTimeline,
    RunTree,
    RunWatch,
    Schedules,
)

Capability: TypeAlias = Literal[
    "history",
    "timeline",
    "watch",
    "search",
    "trees",
    "keys",
    "queues",
    "presence",
    "schedules",
    "deletion",
    "batch",
    "pruned-start",
    "closing",
    "encryption",
    "stored-bytes",
    "lost-step",
    "newer-format",
    "older-format",
    "outage",
    "read-only",
    "url",
]
"""A part of the contract that is optional, or a hook that lets the kit look at one that is not."""

PROTOCOLS: Final[dict[Capability, type]] = {
    "history": RunHistory,
    "timeline": RunTimeline,
    "watch": RunWatch,
    "search": RunSearch,
    "trees": RunTree,
    "keys": KeyedSteps,
    "queues": RunQueue,
    "presence": Presence,
    "schedules": Schedules,
    "deletion": RunDeletion,
    "batch": BatchAppend,
    "pruned-start": PrunedStart,
    "closing": Closing,
}
"""The capabilities that a driver declares by its methods."""

FLEET: Final[frozenset[Capability]] = frozenset({"queues", "presence", "schedules"})
"""What only workers need: a driver without them can have the level full."""

HOOKS: Final[tuple[Capability, ...]] = (
    "encryption",
    "stored-bytes",
    "lost-step",
    "newer-format",
    "older-format",
    "outage",
    "read-only",
    "url",
)
"""The capabilities that a target declares by its hooks."""


def hook_name(capability: Capability) -> str:
    """The field of `Target` that declares a capability."""
    return capability.replace("-", "_")


def methods_of(protocol: type) -> frozenset[str]:
    """The methods that make a capability."""
    return frozenset(name for name in vars(protocol) if not name.startswith("_") and callable(getattr(protocol, name)))
