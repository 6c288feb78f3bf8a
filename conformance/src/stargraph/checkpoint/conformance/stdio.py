"""Drivers in other processes and other languages: the client of the driver protocol (docs/driver-protocol.md)."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from stargraph.checkpoint.conformance._capabilities import HOOKS, Capability, hook_name
from stargraph.checkpoint.conformance._target import Target, fresh_directory
from stargraph.checkpoint.conformance._wire import (
    PROTOCOL,
    WATCH_SECONDS,
    arguments_to_wire,
    checkpoint_from_wire,
    error_from_wire,
)
from stargraph.checkpoint.driver import forked_error
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    Checkpoint,
    GraphVersion,
    ProcessInfo,
    ProcessPresence,
    PruneReport,
    QueueCounts,
    QueueLimits,
    RunPage,
    RunSummary,
    Schedule,
    Status,
    StepKey,
    StepSummary,
)
from stargraph.errors import StoreUnavailableError

__all__ = ["stdio_target"]


class DriverProcess:
    """A process that speaks the driver protocol; started at its first call, and again after it died.

    May be used from any thread and any event loop.

    Args:
        command: the program and its arguments.
        environment: what is set beside the environment of this process.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._owner = os.getpid()
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        atexit.register(self.end)

    async def call(self, name: str, handle: int, /, **arguments: Any) -> Any:
        """Call a method of a handle in the process, and return the result as JSON.

        Raises:
            CheckpointError, ValueError: as the driver raised it.
            StoreUnavailableError: the process died, so the outcome is unknown; or this one is a fork of the one that
                started it.
        """
        # Before any lock, which a thread that is not here may hold.
        if self._process is not None and self._owner != os.getpid():
            raise forked_error()
        request = {"call": name, "handle": handle, "arguments": arguments_to_wire(arguments)}
        future = self._send_at_once(request)
        if future is None:
            future = await asyncio.to_thread(self._send, request)
        return await asyncio.wrap_future(future)

    def hello(self) -> dict[str, Any]:
        """Return what the process says of its driver: name, version, server."""
        answer: dict[str, Any] = self._send({"call": "hello", "protocol": PROTOCOL}).result(timeout=60)
        if answer.get("protocol") != PROTOCOL:
            raise ValueError(
                f"{self._command[0]} speaks version {answer.get('protocol')} of the protocol, not {PROTOCOL}"
            )
        return answer

    @property
    def running(self) -> int | None:
        """Which of its processes runs, from 1; None if none does, and the next call starts one."""
        process = self._process
        return None if process is None or process.poll() is not None else self._starts

    @property
    def process_id(self) -> int | None:
        """The id of the process that runs; None if none does."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def next_handle(self) -> int:
        """Return a number that no handle of this process has had."""
        return next(self._numbers)

    def _send(self, request: dict[str, Any]) -> Future[Any]:
        with self._lock:
            number = next(self._numbers)
            return self._write(self._running(), number, _line(number, request))

    def _send_at_once(self, request: dict[str, Any]) -> Future[Any] | None:
        """Send a request if that cannot block: most are short and need no other thread. None if it might."""
        if sys.platform == "win32" or not self._lock.acquire(blocking=False):
            return None
        try:
            process = self._process
            if process is None or process.poll() is not None:
                return None
            number = next(self._numbers)
            line = _line(number, request)
            if len(line) > select.PIPE_BUF or not _has_room(process):
                return None
            return self._write(process, number, line)
        finally:
            self._lock.release()

    def _write(self, process: subprocess.Popen[bytes], number: int, line: bytes) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting[number] = future
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            self._waiting.pop(number, None)
            future.set_exception(_died(self._command))
        return future

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                _close(self._process)
            self._starts, self._owner = self._starts + 1, os.getpid()
            self._process = subprocess.Popen(  # noqa: S603  # the command is the target's own
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | self._environment,
                # Out of reach of ctrl-C: `end` ends it, once whoever talks to it has closed its handles.
                process_group=0,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:  # what is no answer ends the process: nothing it says can be trusted any more
                process.kill()
                break
            future = self._waiting.pop(answer["id"], None)
            if future is None or not future.set_running_or_notify_cancel():
                continue
            if "error" in answer:
                future.set_exception(error_from_wire(answer["error"]))
            else:
                future.set_result(answer.get("result"))
        process.stdout.close()
        with self._lock:
            if self._process is process:
                waiting, self._waiting = self._waiting, {}
                for future in waiting.values():
                    if future.set_running_or_notify_cancel():
                        future.set_exception(_died(self._command))

    def end(self) -> None:
        """End the process, if it runs; a fork leaves it to the one that talks to it."""
        if self._owner != os.getpid():
            return
        # First of all, and without the lock, which a thread holds that writes to a process that does not read.
        running = self._process
        if running is not None:
            running.kill()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()  # it may have been started meanwhile
            _close(process)
            process.wait()


def _line(number: int, request: dict[str, Any]) -> bytes:
    return json.dumps({"id": number, **request}).encode() + b"\n"


def _has_room(process: subprocess.Popen[bytes]) -> bool:
    """Whether `select.PIPE_BUF` bytes can be written to a process without waiting for it to read."""
    assert process.stdin is not None
    looking = select.poll()
    looking.register(process.stdin, select.POLLOUT)
    return bool(looking.poll(0))


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()


def _died(command: Sequence[str]) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the process {command[0]!r} died during a call", reason="unavailable", hint="Its stderr says why."
    )


class StdioCheckpointer:
    """A handle on a driver in another process; the required methods.

    Args:
        process: runs the driver.
        location: the store.
    """

    def __init__(self, process: DriverProcess, location: str) -> None:
        self.process = process
        self._location = location
        self._handle = process.next_handle()
        self._opening: asyncio.Lock | None = None
        self._opened_in: int | None = None
        self._is_ready = False

    async def _call(self, name: str, /, **arguments: Any) -> Any:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            # Once, and again in the process that takes the place of one that died.
            if self._opened_in is None or self._opened_in != self.process.running:
                await self.process.call("open", self._handle, location=self._location)
                if self._is_ready:
                    await self.process.call("bootstrap", self._handle)
                self._opened_in = self.process.running
        return await self.process.call(name, self._handle, **arguments)

    async def bootstrap(self) -> None:
        """Make the store ready."""
        await self._call("bootstrap")
        self._is_ready = True

    async def write(self, checkpoint: Checkpoint) -> None:
        """Append one checkpoint."""
        await self._call("write", checkpoint=checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint with the highest step of a run, or None."""
        return checkpoint_from_wire(await self._call("read_latest", run_id=run_id), run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None."""
        return checkpoint_from_wire(await self._call("read_at_step", run_id=run_id, step=step), run_id, step)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        """Return runs, the newest first."""
        found = await self._call("list_runs", since=since, limit=limit)
        return [RunSummary.model_validate_json(json.dumps(item)) for item in found]

    async def close(self) -> None:
        """Let go of the store."""
        if self._opened_in is not None and self._opened_in == self.process.running:
            await self._call("close")


class _History(StdioCheckpointer):
    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        bounds = {"from_step": from_step, "to_step": to_step, "newest_first": newest_first}
        for text in await self._call("history", run_id=run_id, **bounds):
            found = checkpoint_from_wire(text, run_id)
            assert found is not None
            yield found


class _Timeline(StdioCheckpointer):
    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        arguments = {"from_step": from_step, "to_step": to_step, "limit": limit}
        found = await self._call("timeline", run_id=run_id, **arguments)
        return [StepSummary.model_validate_json(json.dumps(item)) for item in found]


class _Watch(StdioCheckpointer):
    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        while True:
            found = await self._call("watch", run_id=run_id, after_step=after_step, seconds=WATCH_SECONDS)
            if found is not None:
                after_step = found
                yield found


class _Search(StdioCheckpointer):
    async def search(self, **arguments: Any) -> RunPage:
        return RunPage.model_validate_json(json.dumps(await self._call("search", **arguments)))

    async def count_runs(self, **filters: Any) -> dict[Status, int]:
        found: dict[Status, int] = await self._call("count_runs", **filters)
        return found


class _Tree(StdioCheckpointer):
    async def children(self, run_id: str) -> list[RunSummary]:
        return [
            RunSummary.model_validate_json(json.dumps(item)) for item in await self._call("children", run_id=run_id)
        ]


class _Keys(StdioCheckpointer):
    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        return checkpoint_from_wire(await self._call("read_at_key", run_id=run_id, key=key), run_id)

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        return [StepKey(*item) for item in await self._call("step_keys", run_id=run_id, below=below, limit=limit)]


class _Queues(StdioCheckpointer):
    async def claimable(
        self,
        process_id: str,
        queues: Sequence[str],
        *,
        limit: int = 1,
        fits: Sequence[GraphVersion] | None = None,
        silent_after: float = 30.0,
        reserve: float = 30.0,
    ) -> list[RunSummary]:
        found = await self._call(
            "claimable",
            process_id=process_id,
            queues=queues,
            limit=limit,
            fits=fits,
            silent_after=silent_after,
            reserve=reserve,
        )
        return [RunSummary.model_validate_json(json.dumps(item)) for item in found]

    async def queue_counts(self) -> list[QueueCounts]:
        return [QueueCounts.model_validate(item) for item in await self._call("queue_counts")]

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        await self._call("set_limits", queue=queue, limits=limits)


class _Presence(StdioCheckpointer):
    async def beat(self, process: ProcessInfo) -> None:
        await self._call("beat", process=process)

    async def processes(self) -> list[ProcessPresence]:
        return [ProcessPresence.model_validate_json(json.dumps(item)) for item in await self._call("processes")]

    async def leave(self, process_id: str) -> None:
        await self._call("leave", process_id=process_id)


class _Schedules(StdioCheckpointer):
    async def put_schedule(self, schedule: Schedule) -> None:
        await self._call("put_schedule", schedule=schedule)

    async def schedules(self) -> list[Schedule]:
        return [Schedule.model_validate_json(text) for text in await self._call("schedules")]

    async def remove_schedule(self, schedule_id: str) -> bool:
        return bool(await self._call("remove_schedule", schedule_id=schedule_id))


class _Deletion(StdioCheckpointer):
    async def delete_run(self, run_id: str) -> bool:
        return bool(await self._call("delete_run", run_id=run_id))

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        found = await self._call(
            "prune",
            older_than=older_than,
            statuses=list(statuses),
            keep_last=keep_last,
            run_id=run_id,
            dry_run=dry_run,
        )
        return PruneReport.model_validate(found)


class _Batch(StdioCheckpointer):
    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await self._call("write_many", checkpoints=list(checkpoints))


class _PrunedStart(StdioCheckpointer):
    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await self._call("start_pruned", checkpoints=list(checkpoints))


class _Closing(StdioCheckpointer):
    async def __aenter__(self) -> Self:
        await self.bootstrap()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class _Everything(
    _History,
    _Timeline,
    _Watch,
    _Search,
    _Tree,
    _Keys,
    _Queues,
    _Presence,
    _Schedules,
    _Deletion,
    _Batch,
    _PrunedStart,
    _Closing,
):
    """A handle with every capability: for a process whose driver is known to have those that are called."""


def everything(process: DriverProcess, location: str) -> StdioCheckpointer:
    """Return a handle with the methods of every capability; what the driver lacks fails when it is called."""
    return _Everything(process, location)


_PARTS: dict[str, type[StdioCheckpointer]] = {
    "history": _History,
    "timeline": _Timeline,
    "watch": _Watch,
    "search": _Search,
    "trees": _Tree,
    "keys": _Keys,
    "queues": _Queues,
    "presence": _Presence,
    "schedules": _Schedules,
    "deletion": _Deletion,
    "batch": _Batch,
    "pruned-start": _PrunedStart,
    "closing": _Closing,
}


def stdio_target(
    command: Sequence[str],
    *,
    capabilities: Iterable[Capability] = (),
    location: Callable[[], AbstractAsyncContextManager[str]] = fresh_directory,
    processes: bool = True,
    **options: Any,
) -> Target:
    """Return the target of a driver that speaks the driver protocol.

    Args:
        command: the program and its arguments.
        capabilities: what it has beside the required methods.
        location: makes a fresh place for a store.
        processes: whether two processes can open one location.
        options: further fields of `Target`; a hook declares its capability.
    """
    declared = frozenset(capabilities)
    parts = tuple(_PARTS[name] for name in sorted(declared) if name in _PARTS) or (StdioCheckpointer,)
    kind: type[StdioCheckpointer] = type("StdioCheckpointer", parts, {"__doc__": "A driver in another process."})
    process = DriverProcess(command)
    hooks = {hook for hook in HOOKS if options.get(hook_name(hook)) is not None}

    def versions() -> dict[str, str]:
        hello = process.hello()
        return {str(name): str(value) for name, value in hello.items() if name != "protocol"}

    return Target(
        open=lambda where: kind(process, where),
        location=location,
        capabilities=declared | hooks,
        processes=processes,
        versions=options.pop("versions", versions),
        **options,
    )
