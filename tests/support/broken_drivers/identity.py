"""Drivers that take one run for another."""

from __future__ import annotations

import os
import re

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.errors import CheckpointConflictError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.database import Database
from support.broken_drivers.reading import Json


class Renaming(Json):
    """A base: keeps runs under another name than their own."""

    def _name(self, run_id: str) -> str:
        return run_id

    def _records(self, run_id: str) -> dict[int, bytes]:
        return super()._records(self._name(run_id))

    def _differs(self, checkpoint: Checkpoint, run_id: str, step: int) -> bool:
        return (self._name(checkpoint.run_id), checkpoint.step) != (self._name(run_id), step)

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        runs = self._store.runs
        super()._append(checkpoint, record)
        if checkpoint.run_id in runs and self._name(checkpoint.run_id) != checkpoint.run_id:
            runs.setdefault(self._name(checkpoint.run_id), {}).update(runs.pop(checkpoint.run_id))


@broken(
    "isolation.case",
    "stateful.agrees_with_model",
)
class FoldsCase(Renaming):
    """A collation, or a file system, that ignores case."""

    def _name(self, run_id: str) -> str:
        return run_id.lower()


@broken(
    "isolation.punctuation",
    "isolation.prefixes",
)
class SanitisesIds(Renaming):
    """Whatever is not a letter or digit becomes `_`, to make a file name."""

    def _name(self, run_id: str) -> str:
        return re.sub(r"[^A-Za-z0-9]", "_", run_id)


@broken(
    "isolation.long_ids",
)
class CutsIds(Renaming):
    """VARCHAR(100): longer ids are cut off."""

    def _name(self, run_id: str) -> str:
        return run_id[:100]


@broken(
    "isolation.outside_alphabet",
)
class StripsIds(Renaming):
    """Blanks around an id are stripped, as CHAR columns do."""

    def _name(self, run_id: str) -> str:
        return run_id.strip()


@broken(
    "isolation.outside_alphabet",
)
class WalksDirectories(Renaming):
    """The id is a path below the store's directory, and `..` leads out of it and in again."""

    def _name(self, run_id: str) -> str:
        return os.path.normpath(run_id) if run_id else ""


@broken(
    "isolation.prefixes",
    "isolation.outside_alphabet",
)
class LikeWildcards(ReferenceCheckpointer):
    """WHERE run_id LIKE ?: `%` and `_` match other runs."""

    def _like(self, run_id: str) -> str:
        pattern = re.escape(run_id).replace("%", ".*").replace("_", ".")
        matching = [known for known in self._store.runs if re.fullmatch(pattern, known, re.DOTALL)]
        return run_id if run_id in matching or not matching else matching[0]

    def _records(self, run_id: str) -> dict[int, bytes]:
        return super()._records(self._like(run_id))

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        return super()._at(self._like(run_id), step)


@broken(
    "queues.counts",
    "deletion.pruned_run_goes_on",
    "isolation.prefixes",
    "list_runs.ties_by_run_id",
    "list_runs.default_limit",
    "cancel.many",
    "history.in_order",
    "history.unknown_is_empty",
    "deletion.keep_last_zero_removes",
    "closing.with_calls_in_flight",
)
class JoinedKeys(ReferenceCheckpointer):
    """The key is the id followed by the step, without a separator: run r1 step 1 is run r step 11."""

    def _places(self, run_id: str) -> dict[int, tuple[str, int]]:
        found = {}
        for known, steps in self._store.runs.items():
            for step in steps:
                rest = f"{known}{step}".removeprefix(run_id)
                if f"{known}{step}".startswith(run_id) and rest.isdigit() and rest == str(int(rest)):
                    found[int(rest)] = (known, step)
        return found

    def _records(self, run_id: str) -> dict[int, bytes]:
        return {step: self._store.runs[known][own] for step, (known, own) in self._places(run_id).items()}

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        place = self._places(run_id).get(step)
        if place is None:
            return None
        return decode(self._store.runs[place[0]][place[1]], run_id=place[0], step=place[1])

    def _drop(self, run_id: str, steps: set[int]) -> None:
        for step in steps:
            known, own = self._places(run_id)[step]
            del self._store.runs[known][own]


@broken(
    "queues.counts",
    "steps.rewrite_after_end",
    "steps.ended_refused",
    "isolation.own_rules",
    "search.by_status",
    "search.filters_combine",
    "deletion.prune_matches",
    "deletion.keep_last_zero_removes",
    "queues.kinds",
    "isolation.numbers",
)
class StepsAreGlobal(ReferenceCheckpointer):
    """A step at which one run ended cannot be written by another one: the index lacks the run."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        for run_id in self._store.runs:
            other = self._at(run_id, checkpoint.step)
            if run_id != checkpoint.run_id and other is not None and other.status in ENDED:
                raise CheckpointConflictError("UNIQUE constraint failed", reason="step-taken")
        super()._append(checkpoint, record)


@broken("isolation.numbers", "isolation.prefixes", "list_runs.ties_by_run_id", importable=True)
class StringColumns(Database):
    """STRING is no type that SQLite knows: it takes what looks like a number for one, and 007 is 7."""

    CREATE = Database.CREATE.replace("run_id, step INTEGER", "run_id STRING, step INTEGER")
