"""Processes that a server forks, as the parent sees them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from stargraph.checkpoint.conformance._expect import HarnessError
from stargraph.checkpoint.conformance._interpreters import python_path

AVAILABLE: Final = hasattr(os, "fork") and sys.platform != "darwin"
"""Whether processes are forked here. System libraries of macOS start threads of their own, which a fork would lose."""

DESCRIPTORS: Final = 4
"""Stdin, stdout and stderr of a process, and the line on which it is asked for and its end is told."""

_PATIENCE: Final = 60.0
"""Seconds that the imports of the server may take."""

_GRACE: Final = 5.0
"""Seconds that the server has to end once its socket is closed."""


class ForkServer:
    """The server, started at the first fork. May be used from any thread.

    Args:
        preload: the modules that it imports beside the kit.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = preload
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.Lock()

    async def fork(self, order: dict[str, Any], environment: dict[str, str], *, limit: int) -> ForkedProcess:
        """Start a process that runs an order of `_child`.

        Args:
            order: what `_child.main` takes.
            environment: all its variables.
            limit: bytes that a line of its output may have.

        Raises:
            OSError: no process could be started.
            HarnessError: what the target preloads cannot be imported, or starts a thread.
        """
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        from_stderr, stderr = os.pipe()
        line, line_there = socket.socketpair()
        theirs = [stdin, stdout, stderr, line_there.fileno()]
        try:
            await asyncio.to_thread(self._request, theirs)
        except BaseException:
            for descriptor in (to_stdin, from_stdout, from_stderr):
                os.close(descriptor)
            line.close()
            raise
        finally:
            for descriptor in theirs[:-1]:
                os.close(descriptor)
            line_there.close()
        process = ForkedProcess(
            await _writer(to_stdin), await _reader(from_stdout, limit), await _reader(from_stderr, limit)
        )
        request = {"order": order, "environment": environment, "folder": str(Path.cwd())}
        await process.begin(line, request)
        return process

    def _request(self, descriptors: list[int]) -> None:
        with self._lock:
            if self._control is None:
                self._control = self._start()
            socket.send_fds(self._control, [b"."], descriptors)

    def _start(self) -> socket.socket:
        control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter
                [
                    sys.executable,
                    "-m",
                    "stargraph.checkpoint.conformance._child",
                    "--fork-server",
                    str(theirs.fileno()),
                    *self._preload,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": python_path()},
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        control.settimeout(_PATIENCE)
        with control.makefile(encoding="utf-8") as lines:
            try:
                said = lines.readline()
            except TimeoutError:
                said = f"preload: the imports took longer than {_PATIENCE:g} seconds\n"
        if said != "\n":
            control.close()
            self._process.kill()
            self._process.wait()
            raise HarnessError(said.strip() or "the fork server of the conformance kit has died")
        control.settimeout(None)
        return control

    def close(self) -> None:
        """End the server; processes that it has forked go on."""
        with self._lock:
            process, self._process = self._process, None
            if self._control is not None:
                self._control.close()
                self._control = None
        if process is not None:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class ForkedProcess:
    """A process that was forked: what `asyncio.subprocess.Process` says of one.

    Attributes:
        pid: its number, also that of its process group.
        returncode: its exit code; negative if a signal ended it, None until then.
        stdin: writes to it.
        stdout: reads what it prints.
        stderr: reads its errors.
    """

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._end: asyncio.Task[None] | None = None

    async def begin(self, line: socket.socket, request: dict[str, Any]) -> None:
        """Say what the process is to do, and learn its pid.

        Raises:
            OSError: it could not be forked.
        """
        answers, questions = await asyncio.open_connection(sock=line)
        try:
            questions.write(json.dumps(request).encode() + b"\n")
            await questions.drain()
            self.pid = await _number(answers)
        except BaseException:
            questions.close()
            self.stdin.close()
            raise
        self._end = asyncio.create_task(self._learn_end(answers, questions))

    async def _learn_end(self, answers: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        try:
            self.returncode = await _number(answers)
        finally:
            line.close()

    async def wait(self) -> int:
        """Wait for its end; return its exit code.

        Raises:
            OSError: whoever waits for it has died.
        """
        assert self._end is not None
        await asyncio.shield(self._end)
        assert self.returncode is not None
        return self.returncode


async def _number(answers: asyncio.StreamReader) -> int:
    said = await answers.readline()
    if not said.endswith(b"\n"):
        raise ConnectionResetError("the fork server of the conformance kit has died")
    return int(said)


async def _reader(descriptor: int, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=limit)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop, unread = asyncio.get_running_loop(), asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(unread), pipe)
    return asyncio.StreamWriter(transport, protocol, unread, loop)
