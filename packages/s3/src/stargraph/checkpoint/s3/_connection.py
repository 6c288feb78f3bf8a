"""The SDK's client: how it is made, renewed if its credentials are refused, and closed."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any, Final

from stargraph.checkpoint.driver import closed_error

if TYPE_CHECKING:
    import aioboto3

    from stargraph.checkpoint.s3._options import ConnectionOptions

# It logs what it raises, too: without a handler, Python would print that with its traceback on stderr.
logging.getLogger("aiobotocore").addHandler(logging.NullHandler())

_CONNECTIONS: Final = 32
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
        self._contexts: list[Any] = []
        self._credentials: object = None
        self._closed = False

    async def client(self) -> Any:
        """Return the client; the first call makes it.

        Raises:
            CheckpointError: it was closed (`reason="closed"`).
        """
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    await self._connect(self._make_session())
        return self._client

    async def renew(self, refused: Any) -> bool:
        """Read the credentials again; return whether they have changed, and `client` returns one that uses them.

        Args:
            refused: the client whose credentials were refused.
        """
        async with self._lock:
            if self._client is not refused:
                return True
            session = self._make_session()
            credentials = await _frozen_credentials(session)
            if credentials == self._credentials:
                return False
            await self._connect(session)
            return True

    async def close(self) -> None:
        """Close what was opened."""
        self._closed = True
        async with self._lock:
            self._client = None
            while self._contexts:
                await self._contexts.pop().__aexit__(None, None, None)

    async def _connect(self, session: aioboto3.Session) -> None:
        if self._closed:
            raise closed_error()
        from aiobotocore.config import AioConfig
        from botocore.exceptions import NoCredentialsError
        from botocore.handlers import add_expect_header

        options = self._options
        styles = {None: "auto", True: "path", False: "virtual"}
        config = AioConfig(
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
        credentials = await _frozen_credentials(session)
        if credentials is None:
            # A client would ask everywhere again, and wait for seconds where the metadata service does not answer.
            raise NoCredentialsError
        context = session.client("s3", region_name=options.region, endpoint_url=options.endpoint_url, config=config)
        client = await context.__aenter__()
        self._contexts.append(context)
        # `Expect: 100-continue` would add a round trip to each write.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        self._client, self._credentials = client, credentials

    def _make_session(self) -> aioboto3.Session:
        if self._options.session is not None:
            return self._options.session
        # Imported here: it takes longer than the whole engine, and many processes only import the driver.
        import aioboto3
        from aiobotocore.session import get_session

        base = get_session()
        base.register_component("data_loader", _service_descriptions())
        return aioboto3.Session(botocore_session=base, profile_name=self._options.profile)


async def _frozen_credentials(session: aioboto3.Session) -> object:
    credentials = await session.get_credentials()
    return None if credentials is None else await credentials.get_frozen_credentials()


@functools.cache
def _service_descriptions() -> Any:
    """The SDK's reader of its own files, which parses them once: a second handle is made ten times faster."""
    from aiobotocore.session import get_session

    return get_session().get_component("data_loader")
