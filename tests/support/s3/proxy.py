"""A proxy in front of an S3 server that counts requests and breaks the ones that a test names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from yarl import URL

Fault = Literal[
    "answer lost",  # carried out, and the connection breaks instead of an answer
    "dropped",  # never carried out
    "reset in the body",  # the connection breaks in the middle of what is sent
    "500",
    "500 after it was carried out",
    "503",
    "409",
    "slow",  # carried out, answered after the client gave up
    "delayed",  # carried out and answered after a while
    "twice",  # carried out two times; the client sees the second answer
    "late",  # the connection breaks; carried out when `arrive` is called
    "truncated",  # half of the answer's body, and the length of the half
    "stale listing",  # an earlier answer to the same listing, or an empty one
]

_ERRORS = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}
_EMPTY_LISTING = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came through.

    Attributes:
        method: the HTTP method.
        path: the bucket and the key, decoded.
        query: the query, decoded.
        conditional: it had `If-None-Match`.
        ranged: it had `Range`.
        access_key: whose signature it had.
        expecting: it had `Expect: 100-continue`, and would have waited a round trip before its body.
    """

    method: str
    path: str
    query: str
    conditional: bool
    ranged: bool
    access_key: str
    expecting: bool

    @property
    def kind(self) -> str:
        """LIST, GET, PUT, or DELETE."""
        return "LIST" if "list-type=2" in self.query else self.method


class FaultProxy:
    """Forwards requests to an S3 server.

    Args:
        upstream: the URL of the server.

    Attributes:
        requests: what came through since the last reset.
        most_at_once: how many of them were under way at once.
        slow_seconds: how long those wait that are slow or delayed.
        gate: what they wait for instead, if it is set.
        gets_at_once: the first GETs wait for so many, for a while: those that are sent at once are then seen at once.
        uploaded: how many bytes of content came.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.requests: list[Seen] = []
        self.fault_of: Callable[[int, Seen], Fault | None] = lambda index, request: None
        self.slow_seconds = 1.0
        self.gate: asyncio.Event | None = None
        self.gets_at_once = 0
        self._have_met = asyncio.Event()
        self.refusal: tuple[int, str] | None = None
        self.refuse_writes = False
        self.refused_key = ""
        self.at_once = 0
        self.most_at_once = 0
        self.uploaded = 0
        self._held: list[tuple[web.BaseRequest, bytes]] = []
        self._listings: dict[str, bytes] = {}
        self.url = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def reset(self) -> None:
        """Forget the requests and the faults."""
        self.requests.clear()
        self.gets_at_once = 0
        self._have_met = asyncio.Event()
        self.most_at_once = 0
        self.uploaded = 0
        self.fault_of = lambda index, request: None

    def fail_once(self, number: int, fault: Fault) -> None:
        """Break one request.

        Args:
            number: which, counted from 0 since the last reset.
            fault: how.
        """
        self.fault_of = lambda index, request: fault if index == number else None

    def fail_from(self, number: int, fault: Fault) -> None:
        """Break one request and all after it.

        Args:
            number: which, counted from 0 since the last reset.
            fault: how.
        """
        self.fault_of = lambda index, request: fault if index >= number else None

    def fail_when(self, wanted: Callable[[Seen], bool], fault: Fault) -> None:
        """Break all requests of a kind.

        Args:
            wanted: which.
            fault: how.
        """
        self.fault_of = lambda index, request: fault if wanted(request) else None

    def kinds(self) -> list[str]:
        """Return what came through: LIST, GET, PUT, DELETE."""
        return [request.kind for request in self.requests]

    async def arrive(self) -> list[int]:
        """Carry out what was held back; return the statuses that nobody receives."""
        statuses = []
        for request, body in self._held:
            status, _, _ = await self._forward(request, body)
            statuses.append(status)
        self._held.clear()
        return statuses

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(
            request.method,
            unquote(request.rel_url.raw_path),
            unquote(request.rel_url.raw_query_string),
            "If-None-Match" in request.headers,
            "Range" in request.headers,
            request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0],
            "Expect" in request.headers,
        )
        fault = self.fault_of(len(self.requests), seen)
        self.requests.append(seen)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.most_at_once >= self.gets_at_once:
            self._have_met.set()
        try:
            if seen.kind == "GET" and not self._have_met.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._have_met.wait(), 60)
            if self.refusal is not None:
                await request.read()
                return self._error(*self.refusal)
            if self.refused_key and seen.access_key == self.refused_key:
                await request.read()
                return self._error(400, "ExpiredToken")
            if self.refuse_writes and seen.method != "GET":
                await request.read()
                return self._error(403, "AccessDenied")
            return await self._answer(request, seen, fault)
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.BaseRequest, seen: Seen, fault: Fault | None) -> web.StreamResponse:
        if fault == "reset in the body" and seen.method == "PUT":
            await request.content.read(10)
            return self._break(request)
        body = await request.read()
        self.uploaded += len(body)
        if fault == "dropped":
            return self._break(request)
        if fault == "delayed":
            await self._pause()
        if fault == "late":
            self._held.append((request, body))
            return self._break(request)
        if fault in _ERRORS:
            return self._error(int(fault), _ERRORS[fault])
        if fault == "stale listing" and seen.kind == "LIST":
            stale = self._listings.get(request.path_qs, _EMPTY_LISTING)
            return web.Response(body=stale, content_type="application/xml")
        status, headers, content = await self._forward(request, body)
        if fault == "twice":
            status, headers, content = await self._forward(request, body)
        if seen.kind == "LIST":
            self._listings.setdefault(request.path_qs, content)
        if fault == "answer lost":
            return self._break(request)
        if fault == "500 after it was carried out":
            return self._error(500, "InternalError")
        if fault == "slow":
            await self._pause()
        if fault == "truncated":
            content = content[: len(content) // 2]
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(content)
        await response.prepare(request)
        if fault == "reset in the body":
            await response.write(content[: len(content) // 2])
            return self._break(request)
        if seen.method != "HEAD":
            await response.write(content)
        await response.write_eof()
        return response

    async def _pause(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(self.slow_seconds)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = URL(self._upstream + request.path_qs, encoded=True)
        kept = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "connection", "content-length", "transfer-encoding", "expect")
        }
        async with self._session.request(
            request.method, url, headers=kept, data=body, skip_auto_headers=("Content-Type",)
        ) as reply:
            content = await reply.read()
            dropped = ("content-length", "transfer-encoding", "connection", "date", "server")
            headers = {name: value for name, value in reply.headers.items() if name.lower() not in dropped}
            return reply.status, headers, content

    @staticmethod
    def _break(request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    @staticmethod
    def _error(status: int, code: str) -> web.StreamResponse:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
        return web.Response(status=status, body=text.encode(), content_type="application/xml")
