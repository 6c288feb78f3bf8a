"""A simulated S3 and a scheduler that plays clients against it, one random interleaving for each seed.

Every request of a client is sent, then carried out or dropped, then answered or not, each at a moment of
the scheduler's choice: requests overtake each other, arrive long after their client gave up, or are carried
out without an answer. Nothing here runs on an event loop, so a schedule takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from stargraph.checkpoint.s3._objects import ObjectInfo, TransientStoreError

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Stored:
    body: bytes
    etag: str
    modified: datetime


@dataclass(slots=True, eq=False)
class Request:
    """A request under way; awaiting it hands it to the scheduler."""

    carry_out: Callable[[], Any]
    done: bool = False
    answer: Any = None
    abandoned: bool = False

    def __await__(self) -> Generator[Request, Any, Any]:
        return (yield self)


class Bucket:
    """The objects, as the store itself sees them."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.now = EPOCH
        self.writes = 0
        self.conditional = True

    def create(self, key: str, body: bytes) -> str | None:
        if self.conditional and key in self.objects:
            return None
        return self.put(key, body)

    def put(self, key: str, body: bytes) -> str:
        self.writes += 1
        self.objects[key] = Stored(body, f'"{self.writes}"', self.now)
        return f'"{self.writes}"'

    def get(self, key: str, first: int | None) -> bytes | None:
        found = self.objects.get(key)
        return None if found is None else found.body[:first]

    def list(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)[:limit]
        return [
            ObjectInfo(key, len(self.objects[key].body), self.objects[key].etag, self.objects[key].modified)
            for key in keys
        ]

    def folders(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        inside = {key.removeprefix(prefix).partition("/") for key in self.objects if key.startswith(prefix)}
        return sorted(folder for name, slash, _ in inside if slash and (folder := f"{prefix}{name}/") > after)[:limit]

    def remove(self, key: str) -> None:
        self.objects.pop(key, None)


class SimulatedStore:
    """The object store of one client: each request goes through the scheduler.

    Args:
        bucket: the objects.
        attempts: how often a request without an answer is sent, as the retries of the driver do.
    """

    def __init__(self, bucket: Bucket, attempts: int = 2) -> None:
        self.bucket = bucket
        self.attempts = attempts

    async def create(self, key: str, body: bytes | Path) -> str | None:
        assert isinstance(body, bytes)
        content = body
        return await self._send(lambda: self.bucket.create(key, content))  # type: ignore[no-any-return]

    async def create_empty(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.create(key, b"")

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        for key in keys:
            await self._send(partial(self.bucket.put, key, body))

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        return await self._send(lambda: self.bucket.get(key, first))  # type: ignore[no-any-return]

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return [await self.get(key) for key in keys]

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        return await self._send(lambda: self.bucket.list(prefix, after, limit))  # type: ignore[no-any-return]

    async def folders(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        return await self._send(lambda: self.bucket.folders(prefix, after, limit))  # type: ignore[no-any-return]

    async def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._send(partial(self.bucket.remove, key))

    async def _send(self, carry_out: Callable[[], Any]) -> Any:
        for attempt in range(self.attempts):
            try:
                return await Request(carry_out)
            except TransientStoreError:
                if attempt == self.attempts - 1:
                    raise
        raise AssertionError("unreachable")


@dataclass(slots=True, eq=False)
class Client:
    """A coroutine that plays one process."""

    name: str
    play: Coroutine[Request, Any, None]
    waiting: Request | None = None
    finished: bool = False
    suspended_until: int = 0


@dataclass(slots=True)
class Scheduler:
    """Decides what happens next.

    Args:
        bucket: the objects.
        random: the source of the decisions.
        faults: how likely an answer is lost or a request delayed.
        suspensions: how likely a client stands still for a while, in the middle of whatever it does.
        pause: how long the world may stand still between the calls of the clients.
    """

    bucket: Bucket
    random: Random
    faults: float = 0.15
    suspensions: float = 0.0
    pause: timedelta = timedelta(days=8)
    clients: list[Client] = field(default_factory=list)
    adrift: list[Request] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    idle: Callable[[], bool] = lambda: False

    def add(self, name: str, play: Coroutine[Request, Any, None]) -> None:
        self.clients.append(Client(name, play))

    def run(self, limit: int = 20_000) -> None:
        """Play until every client has finished, and what is adrift has arrived or is lost."""
        for client in self.clients:
            self._resume(client, None)
        for turn in range(limit):
            alive = [client for client in self.clients if not client.finished]
            if not alive:
                break
            awake = [client for client in alive if client.suspended_until <= turn]
            client = self.random.choice(awake or alive)
            if self.random.random() < self.suspensions:
                client.suspended_until = turn + self.random.randint(5, 100)
                continue
            self._step(client)
            if self.adrift and self.random.random() < 0.1:
                self._land(self.adrift.pop(self.random.randrange(len(self.adrift))))
            if not self.adrift and self.random.random() < 0.1 and self.idle():
                self.bucket.now += self.pause
                self.trace.append("eight days pass")
        else:
            raise AssertionError("the clients do not come to an end")
        while self.adrift:
            self._land(self.adrift.pop(self.random.randrange(len(self.adrift))))

    def _step(self, client: Client) -> None:
        request = client.waiting
        assert request is not None
        roll = self.random.random()
        if not request.done:
            if roll < self.faults / 3:
                self._fail(client, request, adrift=True)
            elif roll < self.faults * 2 / 3:
                self._fail(client, request, adrift=False)
            else:
                request.answer = request.carry_out()
                request.done = True
        elif roll < self.faults / 3:
            self._fail(client, request, adrift=False)
        else:
            self._resume(client, request.answer)

    def _fail(self, client: Client, request: Request, *, adrift: bool) -> None:
        if adrift:
            self.adrift.append(request)
        self._resume(client, TransientStoreError("no answer"))

    def _land(self, request: Request) -> None:
        if self.random.random() < 0.8:
            request.carry_out()

    def _resume(self, client: Client, answer: Any) -> None:
        try:
            if isinstance(answer, TransientStoreError):
                client.waiting = client.play.throw(answer)
            else:
                client.waiting = client.play.send(answer)
        except StopIteration:
            client.finished, client.waiting = True, None
