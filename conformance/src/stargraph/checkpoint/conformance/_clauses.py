"""Sentences of docs/contract.md that no check of the kit proves, each with the reason.

The ids are those of the anchors in that page. A check names the ids that it proves in `Check.contract`.
"""

from __future__ import annotations

from typing import Final

UNPROVED: Final = {
    "capability.2": "it is about this repository: the tests of its drivers ask for level full",
    "log.7": "it names functions of the core, which its tests prove",
    "value.6": "a value that is refused never reaches a driver: the tests of the core prove it",
    "value.9": "a value that is refused never reaches a driver: the tests of the core prove it",
    "value.12": "it is advice to callers",
    "write.3": "it introduces the rules",
    "write.6": "it introduces the list",
    "write.11": "only a loss of power shows it: `make torture` cuts it for the drivers of this repository",
    "write.13": "it names functions of the core, which its tests prove",
    "write.14": "it is advice to authors: nothing that a caller sees depends on it",
}
"""The id of each such sentence, and why no check can prove it."""
