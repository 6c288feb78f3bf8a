"""A TCP relay that can do to connections what networks do: cut, delay, swallow."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class TcpProxy:
    """Relays connections on a port of its own to a server.

    Attributes:
        port: where it listens.
        delay: seconds that each chunk waits, in both directions.
        swallowing: nothing gets through in either direction, and nobody is told.
        refusing: new connections are closed at once.
        cut_after_request: the next request of a client that is longer than so many bytes still reaches the server, and
            when that answers, the connection is cut: the answer is lost. 0 for none.
        cut_inside_request: the next large chunk of a client is cut in the middle, and the connection with it.
        connections: how many were accepted.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay = 0.0
        self.swallowing = False
        self.refusing = False
        self.cut_after_request = 0
        self.cut_inside_request = False
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection, those too that are only being made."""
        self._cuts += 1
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer)
        except asyncio.CancelledError:
            pass  # The test is over.
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            return
        cuts = self._cuts
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        if self._cuts != cuts:
            server_writer.transport.abort()
            return
        self._open |= {writer, server_writer}
        answer_is_lost = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, server_writer, writer, answer_is_lost, from_client=True))
                pumps.create_task(self._pump(server_reader, writer, server_writer, answer_is_lost, from_client=False))
        finally:
            self._open -= {writer, server_writer}
            server_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        answer_is_lost: asyncio.Event,
        *,
        from_client: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.swallowing:
                    continue
                if from_client and self.cut_inside_request and len(chunk) > 100:
                    self.cut_inside_request = False
                    writer.write(chunk[: len(chunk) // 2])
                    await writer.drain()
                    break
                if from_client and 0 < self.cut_after_request < len(chunk):
                    self.cut_after_request = 0
                    answer_is_lost.set()
                if not from_client and answer_is_lost.is_set():
                    writer.transport.abort()
                    break
                writer.write(chunk)
                await writer.drain()
        back.transport.abort()
        # A request that was sent whole is carried out, whoever is there to hear.
        writer.close()
