"""Drivers over one file to which records are appended, and what is left of them when a process dies in the middle."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import PruneRule, check_batch
from stargraph.checkpoint.protocol import Checkpoint, PruneReport
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken


class AppendLog(ReferenceCheckpointer):
    """A sound driver: the file is read before each call, and one line with a checksum is appended for each change."""

    # What workers share, and a pruned start, have no lines of their own.
    claimable: Any = None
    queue_counts: Any = None
    set_limits: Any = None
    beat: Any = None
    processes: Any = None
    leave: Any = None
    put_schedule: Any = None
    schedules: Any = None
    remove_schedule: Any = None
    start_pruned: Any = None

    def __init__(self, location: str) -> None:
        super().__init__()
        self._path = Path(location)
        self._held = 0
        self._end = 0

    async def bootstrap(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
        with self._locked():
            self._make()
        await super().bootstrap()

    def _make(self) -> None:
        self._path.touch()

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        check_batch(list(checkpoints))
        records = [encode(checkpoint) for checkpoint in checkpoints]
        for checkpoint, record in zip(checkpoints, records, strict=True):
            self._append(checkpoint, record)
        await self._turn()

    async def _turn(self) -> None:
        await super()._turn()
        if self._path.exists():
            self._load()

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        with self._locked():
            end = self._load()
            known = checkpoint.step in self._records(checkpoint.run_id)
            super()._append(checkpoint, record)
            if not known:
                text = base64.b64encode(record).decode()
                self._add(end, {"run": checkpoint.run_id, "step": checkpoint.step, "record": text})

    def _prune(self, rule: PruneRule) -> PruneReport:
        with self._locked():
            self._load()
            return super()._prune(rule)

    def _delete(self, run_id: str) -> bool:
        with self._locked():
            end = self._load()
            there = super()._delete(run_id)
            if there:
                self._add(end, {"run": run_id, "deleted": True})
            return there

    def _drop(self, run_id: str, steps: set[int]) -> None:
        with self._locked():
            end = self._load()
            if steps >= set(self._records(run_id)):
                self._delete(run_id)
            elif steps:
                self._add(end, {"run": run_id, "dropped": sorted(steps)})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A nested call has the lock already.
        if self._held:
            yield
            return
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def _load(self) -> int:
        """Read what the file has more than last time; return where its whole lines end."""
        if self._end == 0:
            self._store.runs, self._store.deleted, self._store.floors = {}, set(), {}
        with self._path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                entry = self._parsed(line)
                if entry is None:
                    self._ensure_torn(file.read(1))
                    break
                self._end += len(line)
                self._take(entry)
        return self._end

    def _ensure_torn(self, rest: bytes) -> None:
        """Only the last line can be one whose writer died in it."""
        if rest:
            raise CheckpointCorruptedError(f"{self._path} is damaged: a line is not as it was written")

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        checksum, _, body = line.partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
            return None
        entry: dict[str, Any] = json.loads(body)
        return entry

    def _take(self, entry: dict[str, Any]) -> None:
        steps = self._store.runs.setdefault(entry["run"], {})
        if "record" in entry:
            steps[entry["step"]] = base64.b64decode(entry["record"])
        elif "dropped" in entry:
            for step in entry["dropped"]:
                steps.pop(step, None)
                self._store.floors[entry["run"]] = max(self._floor(entry["run"]), step + 1)
        else:
            self._store.runs.pop(entry["run"])
            self._store.deleted.add(entry["run"])

    def _add(self, end: int, entry: dict[str, Any]) -> None:
        body = json.dumps(entry).encode() + b"\n"
        line = b"%08x " % zlib.crc32(body) + body
        with self._path.open("r+b", buffering=0) as file:
            try:
                self._put(file.fileno(), end, line)
            except OSError as error:
                self._end = 0
                self._give_up(file.fileno(), end, error)

    def _put(self, file: int, end: int, line: bytes) -> None:
        os.ftruncate(file, end)
        while line:
            written = os.pwrite(file, line, end)
            line, end = line[written:], end + written

    def _give_up(self, file: int, end: int, error: OSError) -> None:
        os.ftruncate(file, end)
        raise StoreUnavailableError(f"{self._path}: {error.strerror}", reason="unavailable") from error


class GivesUpShortWrites(AppendLog):
    """A sound driver that takes a write that the system cut short for a failure of the store, as LMDB does."""

    def _put(self, file: int, end: int, line: bytes) -> None:
        os.ftruncate(file, end)
        if os.pwrite(file, line, end) < len(line):
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@broken(slow=("crash.torn_write",), importable=True)
class WritesBehindTornTail(AppendLog):
    """Readers pass over a torn line at the end; the next one is appended behind it, and passed over as well."""

    def _put(self, file: int, end: int, line: bytes) -> None:
        super()._put(file, os.lseek(file, 0, os.SEEK_END), line)


@broken(slow=("crash.torn_write",), importable=True)
class ChokesOnTornTail(AppendLog):
    """Whoever finds a torn line at the end of the file asks for a repair."""

    def _load(self) -> int:
        end = super()._load()
        if self._path.stat().st_size > end:
            raise StoreUnavailableError("unexpected end of file: run repair", reason="unclean")
        return end


@broken(
    slow=("batch.killed", "crash.killed_in_write", "crash.no_room", "crash.torn_write", "deletion.killed"),
    importable=True,
)
class TwoWrites(ChokesOnTornTail):
    """The checksum and the body are two writes, a microsecond apart, and a checksum without a body is no record."""

    def _put(self, file: int, end: int, line: bytes) -> None:
        os.pwrite(file, line[:9], end)
        os.pwrite(file, line[9:], end + 9)


@broken(slow=("crash.no_room",), importable=True)
class SystemErrorComesOut(AppendLog):
    """A full disk is an OSError, which no engine takes for an unknown outcome."""

    def _give_up(self, file: int, end: int, error: OSError) -> None:
        os.ftruncate(file, end)
        raise error


@broken(slow=("crash.no_room",), importable=True)
class FullDiskIsSuccess(AppendLog):
    """A full disk is logged and forgotten."""

    def _give_up(self, file: int, end: int, error: OSError) -> None:
        os.ftruncate(file, end)


@broken(slow=("batch.killed", "crash.killed_in_write"), importable=True)
class PointerAfterRecord(AppendLog):
    """A second file names the latest step; it is written after the record, and readers believe it."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        with self._locked():
            super()._append(checkpoint, record)
            latest = max(self._records(checkpoint.run_id))
            self._pointer(checkpoint.run_id).write_text(str(latest))

    def _latest(self, run_id: str) -> Checkpoint | None:
        self._load()
        with contextlib.suppress(FileNotFoundError, ValueError):
            return self._at(run_id, int(self._pointer(run_id).read_text()))
        return None

    def _pointer(self, run_id: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{sha256(run_id.encode()).hexdigest()}.latest")


@broken(slow=("crash.killed_in_bootstrap",), importable=True)
class HalfMadeFile(AppendLog):
    """The file is made first and marked as a store afterwards; a file without the mark is somebody else's."""

    def _make(self) -> None:
        mark = self._path.with_name(f"{self._path.name}.format")
        if self._path.exists() and not mark.exists():
            raise StoreUnavailableError("this is not a store of ours", reason="not-a-store")
        self._path.touch()
        mark.write_text("1")


@broken(slow=("fencing.frozen_for_long",), importable=True)
class BreaksOldLocks(AppendLog):
    """A lock that is older than a moment is taken for that of a dead process, whose owner may only sleep."""

    AGE = 0.2
    """Seconds after which the owner of a lock counts as dead."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._held:
            yield
            return
        lock = self._path.with_name(f"{self._path.name}.lock")
        while True:
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - lock.stat().st_mtime > self.AGE:
                        lock.unlink()
                time.sleep(0.002)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            lock.unlink(missing_ok=True)


@broken(slow=("fencing.frozen_for_long",), importable=True)
class BreaksVeryOldLocks(BreaksOldLocks):
    """A lock is broken after an hour, which nobody waits for in a test."""

    AGE = 3600.0


@broken(slow=("batch.killed",), importable=True)
class LastStepOfABatchFirst(AppendLog):
    """A batch is checked and then stored from its end: a process that dies in it leaves a run with a gap."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        latest = await self.read_latest(checkpoints[0].run_id) if checkpoints else None
        follows = (latest.step + 1, latest.digest) if latest else (0, None)
        if len(checkpoints) < 2 or (checkpoints[0].step, checkpoints[0].previous_digest) != follows:
            await super().write_many(checkpoints)
            return
        check_batch(list(checkpoints))
        with self._locked():
            for checkpoint in reversed(checkpoints):
                text = base64.b64encode(encode(checkpoint)).decode()
                self._add(self._load(), {"run": checkpoint.run_id, "step": checkpoint.step, "record": text})
        await self._turn()


@broken(slow=("deletion.killed",), importable=True)
class RowsBeforeTombstone(AppendLog):
    """delete_run removes one step after the other, and then remembers that the run is gone."""

    def _delete(self, run_id: str) -> bool:
        with self._locked():
            self._load()
            for step in sorted(self._records(run_id))[:-1]:
                self._add(self._load(), {"run": run_id, "dropped": [step]})
            return super()._delete(run_id)


@broken("fencing.frozen_in_write", importable=True)
class ReadersCutOff(AppendLog):
    """A line comes in two parts, and whoever finds the first one alone cuts it off: a reader too, without the lock."""

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        found = await super().read_latest(run_id)
        if self._path.stat().st_size > self._end:
            os.truncate(self._path, self._end)
        return found

    def _put(self, file: int, end: int, line: bytes) -> None:
        os.ftruncate(file, end)
        half = len(line) // 2
        os.pwrite(file, line[:half], end)
        os.pwrite(file, line[half:], end + half)
