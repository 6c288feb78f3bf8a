"""Child processes as the parent sees them: controlled by JSON lines; they can be killed, stopped and continued."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from stargraph.checkpoint.conformance._expect import HarnessError, Violation
from stargraph.checkpoint.conformance._forks import ForkedProcess, ForkServer
from stargraph.checkpoint.conformance._handle import DriverCalls
from stargraph.checkpoint.conformance._interpreters import python_path

_LINE_LIMIT = 1 << 20


class Child:
    """A running script.

    Attributes:
        name: the script and the process id, as violations name it.
    """

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess, script: str, log: DriverCalls) -> None:
        self.name = f"the process {script!r} (pid {process.pid})"
        self._process = process
        self._log = log
        self._reading = asyncio.Lock()

    async def next_event(self) -> dict[str, Any] | None:
        """Return the next thing that the process reports, or None once it has ended.

        Raises:
            Violation: the driver failed in it.
            HarnessError: the kit failed in it.
        """
        assert self._process.stdout is not None
        number = self._log.enter(f"waiting for {self.name}")
        try:
            async with self._reading:
                line = await self._process.stdout.readline()
        finally:
            self._log.leave(number)
        # A killed process may leave half a line.
        if not line.endswith(b"\n"):
            return None
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "harness-error":
            raise HarnessError(f"{self.name}: {event['message']}")
        if event["event"] == "driver-error":
            raise Violation(f"in {self.name}, {event['message']}")
        return event

    async def expect(self, kind: str) -> dict[str, Any]:
        """Return the next event, which must be of this kind."""
        event = await self.next_event()
        if event is None or event["event"] != kind:
            raise Violation(f"{self.name} ended before it reported {kind!r}; {await self._last_words()}")
        return event

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the process reports until it ends."""
        while (event := await self.next_event()) is not None:
            yield event

    async def tell(self, word: str) -> None:
        """Send the process one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        await self._process.stdin.drain()

    def kill(self) -> None:
        """Kill the process at once, as a power cut would end it (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Freeze the process (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    async def ended(self) -> tuple[int, str]:
        """Wait for the end of the process; return its exit code and what it printed on stderr."""
        assert self._process.stderr is not None
        number = self._log.enter(f"waiting for {self.name} to end")
        try:
            async with self._reading:
                stderr = await self._process.stderr.read()
                return await self._process.wait(), stderr.decode(errors="replace")
        finally:
            self._log.leave(number)

    async def end(self) -> None:
        """Kill the process if it still runs, with whatever it has started, and wait for it."""
        self.end_group()
        if self._process.stdin is not None:
            self._process.stdin.close()
        # Whoever still reads comes to the end of the stream first, since the process is gone.
        async with self._reading:
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    await stream.read()
            await self._process.wait()

    def end_group(self) -> None:
        """Kill whatever still runs of the process and of what it has started, without waiting for its end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            # With whatever it has started: a driver may be a process of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _last_words(self) -> str:
        code, stderr = await self.ended()
        lines = stderr.strip().splitlines()
        return f"exit code {code}, stderr: {lines[-1] if lines else 'empty'}"


async def spawn(
    spec: str, script: str, location: str, arguments: dict[str, Any], log: DriverCalls, server: ForkServer | None
) -> Child:
    """Start a script of `_child` in a process of its own.

    Args:
        spec: the target as `package.module:name`.
        script: the name of the script.
        location: the store.
        arguments: the arguments of the script, as JSON.
        log: where waiting for it is noted.
        server: forks the process; if None, it is a new interpreter.
    """
    order = {"target": spec, "script": script, "location": location, "arguments": arguments, "path": sys.path}
    environment = os.environ | {"PYTHONPATH": python_path()}
    try:
        if server is not None:
            starting = asyncio.create_task(server.fork(order, environment, limit=_LINE_LIMIT))
            try:
                return Child(await asyncio.shield(starting), script, log)
            except asyncio.CancelledError:
                # A fork cannot be taken back halfway, and nobody else knows of the process.
                with contextlib.suppress(OSError):
                    await Child(await starting, script, log).end()
                raise
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stargraph.checkpoint.conformance._child",
            json.dumps(order),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LINE_LIMIT,
            process_group=0,
        )
    except OSError as error:
        raise HarnessError(f"no child process could be started: {error}") from error
    return Child(process, script, log)
