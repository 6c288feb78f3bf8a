"""Where things are in the bucket. docs/s3.md draws the layout; nothing else builds or reads a key.

    <prefix>/stargraph.json                            the format of the store
    <prefix>/log/<run_id>/<inverted step>              one step of a run: its slot
    <prefix>/runs/<inverted start>-<run_id>            the index entry of a run
    <prefix>/runs/<inverted start>-<run_id>,<step>.sqlite    the file of a run that ended at that step

A run id holds no `/` and no `,`, so the keys of two runs never mix, also where one id begins with the
other. Numbers are inverted and padded: the newest comes first in a listing, which is in key order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from stargraph.checkpoint.protocol import is_run_id

MAX_PREFIX_BYTES: Final = 700
"""How long a prefix may be: a key holds 1,024 bytes, and a run id takes up to 200 of them."""

_TOP_STEP: Final = 10**16 - 1
_TOP_INSTANT: Final = 10**18 - 1
_EPOCH: Final = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SLOT: Final = re.compile(r"[0-9]{16}")
_ENTRY: Final = re.compile(r"([0-9]{18})-([^,/]+)(?:,([0-9]{1,16})\.sqlite)?")


@dataclass(frozen=True, slots=True)
class RunKey:
    """What the name of an index entry or of a run's file says.

    Attributes:
        started_at: when the run started.
        run_id: the run.
        ended_at_step: the step that ended the run, in the name of its file; None in an index entry.
    """

    started_at: datetime
    run_id: str
    ended_at_step: int | None = None


class KeyLayout:
    """The keys of one store.

    Args:
        prefix: what every key of the store begins with, without slashes at its ends; may be empty.
    """

    def __init__(self, prefix: str) -> None:
        self._root = f"{prefix}/" if prefix else ""
        self.marker: Final = f"{self._root}stargraph.json"
        self.runs: Final = f"{self._root}runs/"
        self.probes: Final = f"{self._root}probe/"

    def log(self, run_id: str) -> str:
        """Return what the keys of a run's slots begin with.

        Args:
            run_id: the run.
        """
        return f"{self._root}log/{run_id}/"

    def slot(self, run_id: str, step: int) -> str:
        """Return the key of one step.

        Args:
            run_id: the run.
            step: the step.
        """
        return f"{self._root}log/{run_id}/{_TOP_STEP - step:016d}"

    def step_of(self, key: str) -> int | None:
        """Return the step that the key of a slot names, or None for any other object.

        Args:
            key: a key that begins as `log` says.
        """
        name = key.rpartition("/")[2]
        return _TOP_STEP - int(name) if _SLOT.fullmatch(name) else None

    def entry(self, run_id: str, started_at: datetime) -> str:
        """Return the key of a run's index entry.

        Args:
            run_id: the run.
            started_at: the time of its step 0.
        """
        return f"{self.runs}{_inverted(started_at):018d}-{run_id}"

    def file(self, run_id: str, started_at: datetime, step: int) -> str:
        """Return the key of the file of a run that ended; it follows the index entry in a listing.

        Args:
            run_id: the run.
            started_at: the time of its step 0.
            step: the step that ended it.
        """
        return f"{self.entry(run_id, started_at)},{step}.sqlite"

    def run_of(self, key: str) -> RunKey | None:
        """Return what the key of an index entry or of a file says, or None for any other object.

        Args:
            key: a key that begins as `runs` says.
        """
        match = _ENTRY.fullmatch(key[len(self.runs) :])
        if match is None or not is_run_id(match[2]):
            return None
        micros = _TOP_INSTANT - int(match[1])
        try:
            started_at = _EPOCH + micros * _MICROSECOND
        except OverflowError:
            return None
        return RunKey(started_at, match[2], int(match[3]) if match[3] else None)


def _inverted(moment: datetime) -> int:
    return _TOP_INSTANT - (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND
