"""Drivers that keep one JSON document for each run, and take an old one for the one that is there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.driver import (
    PruneRule,
    Tail,
    check_listing,
    check_prune,
    check_step,
    in_order,
    judge_append,
    not_bootstrapped_error,
    run_deleted_error,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    PruneReport,
    RunSummary,
    Status,
    is_run_id,
)
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.broken_driver import broken


@dataclass
class Document:
    """What a store holds of a run.

    Attributes:
        records: by step.
        floor: the lowest step of the unbroken tail.
        deleted: the run was deleted.
    """

    records: dict[int, bytes] = field(default_factory=dict)
    floor: int = 0
    deleted: bool = False

    def text(self) -> bytes:
        records = {step: base64.b64encode(record).decode() for step, record in self.records.items()}
        return json.dumps({"records": records, "floor": self.floor, "deleted": self.deleted}).encode()


def _of(text: bytes | None) -> Document:
    if text is None:
        return Document()
    stored = json.loads(text)
    records = {int(step): base64.b64decode(record) for step, record in stored["records"].items()}
    return Document(records, stored["floor"], stored["deleted"])


class Documents:
    """Sound: a write judges by the document that is there, and replaces that one or none, under a short lock."""

    def __init__(self, location: str) -> None:
        self._folder = Path(location)
        self._ready = False

    async def bootstrap(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ready = True

    async def close(self) -> None:
        self._ready = False

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        run_id = checkpoint.run_id
        try:
            while True:
                seen = self._mark(run_id)
                document = _of(self._text(run_id))
                if document.deleted:
                    raise run_deleted_error(run_id, checkpoint.step)
                if self._judge(document, checkpoint) == "stored":
                    return
                document.records[checkpoint.step] = record
                if self._replace(run_id, document, self._mark, seen):
                    return
        except OSError as error:
            raise StoreUnavailableError(f"{self._folder}: {error.strerror}") from error

    def _judge(self, document: Document, checkpoint: Checkpoint) -> str:
        latest = self._latest(document, checkpoint.run_id)
        stored = self._at(document, checkpoint.run_id, checkpoint.step)
        tail = Tail(latest.step, latest.digest, latest.status, document.floor) if latest else None
        return judge_append(checkpoint, tail=tail, stored_digest=stored.digest if stored else None)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._ensure_ready()
        return self._latest(_of(self._text(run_id)), run_id) if is_run_id(run_id) else None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._ensure_ready()
        return self._at(_of(self._text(run_id)), run_id, step) if is_run_id(run_id) and check_step(step) else None

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._ensure_ready()
        since = check_listing(since, limit)
        latest = [self._latest(_of(self._text(run_id)), run_id) for run_id in self._run_ids()]
        found = [RunSummary.from_checkpoint(checkpoint) for checkpoint in latest if checkpoint]
        return in_order(run for run in found if since is None or run.started_at >= since)[:limit]

    async def delete_run(self, run_id: str) -> bool:
        self._ensure_ready()
        while _of(text := self._text(run_id)).records:
            if self._replace(run_id, Document(deleted=True), self._text, text):
                return True
        return False

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        self._ensure_ready()
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )
        gone = [number for run_id in self._run_ids() if (number := self._prune(rule, run_id))]
        return PruneReport(runs=len(gone), checkpoints=sum(gone), dry_run=dry_run)

    def _prune(self, rule: PruneRule, run_id: str) -> int:
        while True:
            text = self._text(run_id)
            document = _of(text)
            latest = self._latest(document, run_id)
            if latest is None or not rule.selects(latest) or (rule.keep_last == 0 and self._is_awaited(latest)):
                return 0
            plan = rule.plan(latest, set(document.records))
            kept = {step: record for step, record in document.records.items() if step not in plan.removed}
            pruned = Document(kept, max(document.floor, plan.floor)) if rule.keep_last else Document(deleted=True)
            if not plan.removed or rule.dry_run or self._replace(run_id, pruned, self._text, text):
                return len(plan.removed)

    def _is_awaited(self, latest: Checkpoint) -> bool:
        if latest.origin != "subgraph" or latest.parent_run_id is None:
            return False
        parent = self._latest(_of(self._text(latest.parent_run_id)), latest.parent_run_id)
        return parent is not None and parent.status not in ENDED

    def _latest(self, document: Document, run_id: str) -> Checkpoint | None:
        return self._at(document, run_id, max(document.records)) if document.records else None

    def _at(self, document: Document, run_id: str, step: int) -> Checkpoint | None:
        record = document.records.get(step)
        return None if record is None else decode(record, run_id=run_id, step=step)

    def _ensure_ready(self) -> None:
        if not self._ready:
            raise not_bootstrapped_error()

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

    def _run_ids(self) -> list[str]:
        return [file.stem for file in self._folder.glob("*.json")]

    def _text(self, run_id: str) -> bytes | None:
        try:
            return self._file(run_id).read_bytes()
        except FileNotFoundError:
            return None

    def _mark(self, run_id: str) -> Any:
        """What a write knows the document of a run by."""
        return self._text(run_id)

    def _replace(self, run_id: str, document: Document, mark: Callable[[str], Any], seen: Any) -> bool:
        """Put a document into the place of the one that was seen; False if another one is there by now."""
        unfinished = self._folder / f"{secrets.token_hex(8)}.tmp"
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if mark(run_id) != seen:
                return False
            try:
                unfinished.write_bytes(document.text())
                unfinished.rename(self._file(run_id))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    unfinished.unlink()
            return True


@broken("interleaving.frozen_in_pruned_write", importable=True)
class ComparesLengths(Documents):
    """A document that is as long as the one that was seen counts as the same."""

    def _mark(self, run_id: str) -> Any:
        return len(self._text(run_id) or b"")


@broken("interleaving.frozen_in_pruned_write", importable=True)
class CountsSteps(Documents):
    """A document that holds as many steps as the one that was seen counts as the same."""

    def _mark(self, run_id: str) -> Any:
        return len(_of(self._text(run_id)).records)


@broken("fencing.frozen_in_write", importable=True)
class ComparesTimes(Documents):
    """A document whose file is as old as the one that was seen counts as the same."""

    def _mark(self, run_id: str) -> Any:
        try:
            return self._file(run_id).stat().st_mtime_ns
        except FileNotFoundError:
            return None


@broken("concurrency.one_winner_at_each_step", importable=True)
class LocksOfTheProcess(Documents):
    """From step 5 on, a run is locked by fcntl.lockf, which keeps other processes out, and no thread of this one."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        await asyncio.to_thread(self._write, checkpoint, encode(checkpoint))

    def _write(self, checkpoint: Checkpoint, record: bytes) -> None:
        run_id = checkpoint.run_id
        with (self._folder / "writers").open("ab") as lock:
            shared = checkpoint.step >= 5
            (fcntl.lockf if shared else fcntl.flock)(lock, fcntl.LOCK_EX)
            document = _of(self._text(run_id))
            if document.deleted:
                raise run_deleted_error(run_id, checkpoint.step)
            if self._judge(document, checkpoint) == "append":
                time.sleep(0.01 if shared else 0)  # what a slow disk takes: threads meet here, whatever their luck
                document.records[checkpoint.step] = record
                unfinished = self._folder / f"{secrets.token_hex(8)}.tmp"
                unfinished.write_bytes(document.text())
                unfinished.rename(self._file(run_id))


class _Remembers(Documents):
    """A base: a document that was read is taken from memory as long as its file looks the same."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._remembered: dict[str, tuple[object, bytes]] = {}

    def _look(self, facts: os.stat_result) -> object:
        raise NotImplementedError

    def _text(self, run_id: str) -> bytes | None:
        try:
            look = self._look(self._file(run_id).stat())
        except FileNotFoundError:
            return None
        if self._remembered.get(run_id, (None,))[0] != look:
            text = super()._text(run_id)
            if text is None:
                return None
            self._remembered[run_id] = (look, text)
        return self._remembered[run_id][1]


@broken("durability.within_one_tick", importable=True)
class RemembersByTime(_Remembers):
    """A document that was read is taken from memory as long as its file is as old."""

    def _look(self, facts: os.stat_result) -> int:
        return facts.st_mtime_ns


@broken("deletion.pruned_as_it_goes", importable=True)
class RemembersByLength(_Remembers):
    """A document that was read is taken from memory as long as its file has as many bytes."""

    def _look(self, facts: os.stat_result) -> int:
        return facts.st_size


class RemembersByInode(_Remembers):
    """A document that was read is taken from memory as long as its file has the same inode, size and time.

    It is not in the tables of broken drivers: some file systems never use an inode twice, and there it is sound.
    """

    def _look(self, facts: os.stat_result) -> object:
        return facts.st_ino, facts.st_size, facts.st_mtime_ns


@broken(slow=("crash.killed_in_upkeep",), importable=True)
class MovesOldSteps(Documents):
    """From the ninth step on, old ones lie in another file: out of the one first, and then into the other."""

    def _text(self, run_id: str) -> bytes | None:
        text = super()._text(run_id)
        if text is None:
            return None
        document = _of(text)
        try:
            old = _of(self._old(run_id).read_bytes()).records
        except FileNotFoundError:
            old = {}
        if not document.deleted:
            document.records = old | document.records
        return document.text()

    def _replace(self, run_id: str, document: Document, mark: Callable[[str], Any], seen: Any) -> bool:
        if not super()._replace(run_id, document, mark, seen):
            return False
        steps = sorted(document.records)
        if len(steps) > 8:
            new = {step: document.records[step] for step in steps[-4:]}
            self._put(self._file(run_id), Document(new, document.floor))
            self._put(self._old(run_id), Document({step: document.records[step] for step in steps[:-4]}))
        else:
            self._old(run_id).unlink(missing_ok=True)
        return True

    def _old(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.old"

    def _put(self, file: Path, document: Document) -> None:
        unfinished = file.with_suffix(".new")
        unfinished.write_bytes(document.text())
        unfinished.rename(file)
