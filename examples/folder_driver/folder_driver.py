"""Checkpoints in plain files."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.driver import (
    Lifecycle,
    Tail,
    check_listing,
    check_step,
    in_order,
    judge_append,
    missing_step_error,
)
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunSummary, is_run_id
from stargraph.errors import StoreUnavailableError, StoreVersionError

FORMAT = "folder 1"

T = TypeVar("T")


class FolderCheckpointer:
    """Keeps each run in a directory of its own, and each step in a file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._marker = self._path / "FORMAT"
        self._lifecycle = Lifecycle()

    async def bootstrap(self) -> None:
        self._lifecycle.ensure_own_process()
        await self._in_thread(self._open_store)
        self._lifecycle.opened()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._lifecycle.ensure_writable("write")
        record = self._pack(checkpoint)  # refuses what is not valid, before anything is touched
        await self._in_thread(self._append, checkpoint, record)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        return await self._in_thread(self._latest, run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        return await self._in_thread(self._at, run_id, step) if check_step(step) else None

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._lifecycle.ensure_open()
        since = check_listing(since, limit)
        runs = await self._in_thread(self._summaries)
        return in_order(run for run in runs if since is None or run.started_at >= since)[:limit]

    # What the store does, in threads.

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return await asyncio.to_thread(work, *arguments)
        except OSError as error:
            raise StoreUnavailableError(
                f"{self._path}: {error.strerror}",
                reason="unavailable",
                hint="Fix what is named there, then write the same checkpoint again; that is always safe.",
            ) from error

    def _open_store(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        self._sync(self._path.parent)
        self._create(self._marker, FORMAT.encode())
        self._check_format()

    def _check_format(self) -> None:
        found = self._marker.read_text(errors="replace")
        if found != FORMAT:
            raise StoreVersionError(
                f"{self._path} holds {found!r}, and this software reads {FORMAT!r}",
                reason="older-format" if found < FORMAT else "newer-format",
            )

    def _pack(self, checkpoint: Checkpoint) -> bytes:
        return encode(checkpoint)

    def _unpack(self, record: bytes, run_id: str, step: int) -> Checkpoint:
        return decode(record, run_id=run_id, step=step)

    def _folder(self, run_id: str) -> Path:
        # Ids may differ by case alone, and some file systems do not tell such names apart: hence the digest.
        return self._path / f"{hashlib.sha256(run_id.encode()).hexdigest()[:16]}-{run_id}"

    def _file(self, run_id: str, step: int) -> Path:
        return self._folder(run_id) / f"{step:012d}"

    def _steps(self, run_id: str) -> set[int]:
        try:
            names = [file.name for file in self._folder(run_id).iterdir()] if is_run_id(run_id) else []
        except FileNotFoundError:
            self._marker.stat()  # the run is unknown only if the store is there: a lost disk is no empty store
            names = []
        return {int(name) for name in names if name.isdigit()}

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        found = self._record(run_id, step)
        return None if found is None else self._unpack(found[0], run_id, step)

    def _record(self, run_id: str, step: int, most: int = -1) -> tuple[bytes, int] | None:
        """Return the first bytes of a record, all of them by default, and the length of the whole."""
        try:
            if is_run_id(run_id):
                with self._file(run_id, step).open("rb") as stream:
                    return stream.read(most), os.fstat(stream.fileno()).st_size
        except FileNotFoundError:
            # It was not there, and may be by now, with others after it: look again. The floor is read last, since a
            # prune raises it before it removes a step.
            was_written = step < max(self._steps(run_id), default=0)
            if was_written and not self._file(run_id, step).exists() and self._floor(run_id) <= step:
                raise missing_step_error(run_id, step) from None  # lost: no prune removed it
        return None

    def _floor(self, run_id: str) -> int:
        return 0  # nothing is pruned here

    def _latest(self, run_id: str) -> Checkpoint | None:
        steps = self._steps(run_id)
        return self._at(run_id, max(steps)) if steps else None

    def _tail(self, run_id: str) -> Tail | None:
        latest = self._latest(run_id)
        return None if latest is None else Tail(latest.step, latest.digest, latest.status)

    def _summaries(self) -> list[RunSummary]:
        found = [self._latest(folder.name.partition("-")[2]) for folder in self._path.iterdir()]
        return [RunSummary.from_checkpoint(latest) for latest in found if latest is not None]

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        run_id, step = checkpoint.run_id, checkpoint.step
        while True:
            tail, stored = self._tail(run_id), self._at(run_id, step)
            stored_digest = None if stored is None else stored.digest
            if judge_append(checkpoint, tail=tail, stored_digest=stored_digest) == "stored":
                # A retry of what is there already; whoever wrote it may have died before it was durable.
                self._sync(self._folder(run_id))
                self._sync(self._path)
                return
            if step == 0:
                self._folder(run_id).mkdir(exist_ok=True)
                self._sync(self._path)
            if self._create(self._file(run_id, step), record):
                return
            # Somebody else was faster: judge again by what is there now.

    def _create(self, file: Path, content: bytes) -> bool:
        """Put a whole, durable file under a name; False, and nothing changed, if the name is taken."""
        unfinished = file.with_name(f"{secrets.token_hex(8)}.tmp")
        try:
            with unfinished.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(unfinished, file)
        except FileExistsError:
            return False
        finally:
            unfinished.unlink(missing_ok=True)
        self._sync(file.parent)
        return True

    def _sync(self, folder: Path) -> None:
        # A new name is durable only once its directory is.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_: type[Checkpointer] = FolderCheckpointer
