"""One client per event loop, made when it is first needed, and closed or dropped without a sound."""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import TYPE_CHECKING, Any

from stargraph.checkpoint.s3._options import ConnectionOptions
from stargraph.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

_CONNECTIONS = 32
"""How many requests one client has under way at once."""


class Connection:
    """The client of one event loop.

    Args:
        options: how the store is reached.
    """

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self._lock = asyncio.Lock()
        self._client: Any = None
        self._context: Any = None
        self._closed = False
        self._http: list[Any] = []
        # A handle that nobody closes must print nothing at exit, and aiohttp would.
        self._finalizer = weakref.finalize(self, _abandon, self._http)

    async def client(self) -> Any:
        """Return the client; the first call makes it.

        Raises:
            CheckpointError: it was closed (`reason="closed"`).
        """
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._ensure_open()
                    await self._connect()
                    self._ensure_open()
        return self._client

    def _ensure_open(self) -> None:
        if self._closed:
            raise CheckpointError(
                "the checkpointer was closed while this call was under way",
                reason="closed",
                hint="Call `await checkpointer.bootstrap()` to open it again.",
            )

    async def close(self) -> None:
        """Close the client, on the loop that it belongs to."""
        self._closed = True
        async with self._lock:
            context, self._context, self._client = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the client, on any thread, when its loop is gone or going."""
        self._closed = True
        self._client = None
        self._finalizer()

    async def _connect(self) -> None:
        # Imported here: it takes longer than the whole engine, and many processes only import the driver.
        import aioboto3
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
        from botocore.handlers import add_expect_header

        options = self._options
        session = options.session
        if session is None:
            base = get_session()
            base.register_component("data_loader", _service_descriptions())
            session = aioboto3.Session(botocore_session=base, profile_name=options.profile)
        styles = {None: "auto", True: "path", False: "virtual"}
        config = AioConfig(
            http_session_cls=_recording(self._http),
            # The retries of this driver know what an unknown outcome means; those of the SDK do not.
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=options.connect_timeout,
            read_timeout=options.read_timeout,
            max_pool_connections=_CONNECTIONS,
            proxies=None if options.proxies is None else dict(options.proxies),
            request_checksum_calculation=options.checksums,
            response_checksum_validation=options.checksums,
            s3={"addressing_style": styles[options.path_style]},
        )
        context = session.client("s3", region_name=options.region, endpoint_url=options.endpoint_url, config=config)
        client = await context.__aenter__()
        # `Expect: 100-continue` would add a round trip to each write.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        self._client, self._context = client, context


@functools.cache
def _service_descriptions() -> Any:
    """The SDK's reader of its own files, which parses them once: a second handle is made ten times faster."""
    from aiobotocore.session import get_session

    return get_session().get_component("data_loader")


def _recording(made: list[Any]) -> Callable[..., Any]:
    """A maker of HTTP sessions that keeps them, so that they can be dropped."""
    from aiobotocore.httpsession import AIOHTTPSession
    from aiohttp import ClientConnectionError

    class Session(AIOHTTPSession):  # type: ignore[misc]  # its base has no types
        dropped = False

        async def _get_session(self, proxy_url: str | None) -> Any:
            if self.dropped:
                # A call that is still under way must not open what nobody closes any more.
                raise ClientConnectionError("the connection was closed")
            return await super()._get_session(proxy_url)

        async def __aexit__(self, *failure: object) -> None:
            self.dropped = True
            await super().__aexit__(*failure)

    def make(*args: Any, **kwargs: Any) -> Session:
        session = Session(*args, **kwargs)
        made.append(session)
        return session

    return make


def _abandon(made: list[Any]) -> None:
    for http in made:
        http.dropped = True
        for session in http._sessions.values():
            connector = session.connector
            session.detach()
            if connector is not None:
                connector._close()
        http._sessions.clear()
    made.clear()
