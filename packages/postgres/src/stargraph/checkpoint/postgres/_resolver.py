"""Connections of asyncpg that wait for nobody's threads: host names are looked up by threads of our own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from stargraph.checkpoint.postgres._options import ConnectionOptions

_SOCKET_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


class ConnectingLoop:
    """An event loop as `asyncpg.connect(loop=…)` takes it, which differs in how it opens TCP connections.

    `asyncio` looks up names in the loop's default executor, where a lookup would wait behind whatever the program runs
    there. It also has no way to set a timeout for one address, or keepalives.

    Args:
        loop: the running loop, which does everything else.
        options: the keepalives, and addresses that need no lookup.
        timeout: seconds for a host; each of its addresses gets its share.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ConnectionOptions, *, timeout: float) -> None:
        self._loop = loop
        self._options = options
        self._timeout = timeout
        self._transports: list[asyncio.Transport] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: str, port: int, *, ssl: Any = None
    ) -> tuple[Any, Any]:
        """Connect to the first address of a host that answers; see `asyncio.loop.create_connection`.

        Raises:
            OSError: none of them does; the error is that of the last one.
        """
        known = self._options.addresses.get(host)
        addresses = [known or host] if known or _is_address(host) else await look_up(host, port)
        name = None if ssl is None else host
        failure: OSError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(self._timeout / len(addresses)):
                    connected = await self._connect(address, port)
                    transport, protocol = await self._adopt(connected, protocol_factory, ssl=ssl, server_hostname=name)
            except OSError as error:
                failure = error
                continue
            self._transports.append(transport)
            _keep_alive(transport.get_extra_info("socket"), self._options)
            return transport, protocol
        assert failure is not None  # a name without addresses raises
        raise failure

    def abort(self) -> None:
        """Drop the TCP connections that were opened."""
        for transport in self._transports:
            transport.abort()

    async def _connect(self, address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connected = socket.socket(family, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            await self._loop.sock_connect(connected, (address, port))
        except BaseException:
            connected.close()
            raise
        return connected

    async def _adopt(
        self, connected: socket.socket, protocol_factory: Callable[[], Any], **tls: Any
    ) -> tuple[Any, Any]:
        """Return the transport of a connected socket."""
        # Not cancelled half way: the protocols of asyncpg would keep an error that nobody asks them for, and asyncio
        # would log it. It takes two turns of the loop, or the handshake of direct TLS.
        adopting = self._loop.create_task(self._loop.create_connection(protocol_factory, sock=connected, **tls))
        try:
            return await asyncio.shield(adopting)
        except asyncio.CancelledError:
            adopting.add_done_callback(_abandon)
            raise


def _abandon(adopting: asyncio.Task[tuple[Any, Any]]) -> None:
    if not adopting.cancelled() and adopting.exception() is None:
        transport, _ = adopting.result()
        transport.set_protocol(asyncio.Protocol())
        transport.abort()


async def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the system's order.

    Raises:
        socket.gaierror: there are none.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str], error: BaseException | None) -> None:
        if not found.done():
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

    def work() -> None:
        addresses: list[str] = []
        failure: BaseException | None = None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        except (OSError, UnicodeError) as error:
            number = error.errno if isinstance(error, OSError) else socket.EAI_NONAME
            failure = socket.gaierror(number, f"{host!r}: {getattr(error, 'strerror', None) or 'not a host name'}")
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, addresses, failure)

    # A thread for each lookup, since one that hangs must not hold up the next; a daemon, since it must not keep the
    # process alive. Connections are opened rarely.
    threading.Thread(target=work, name="stargraph-postgres-lookup", daemon=True).start()
    return await found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _keep_alive(connection: Any, options: ConnectionOptions) -> None:
    given = options.keepalives
    if connection is None or not given:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(given.get("keepalives", 1) != 0))
    for name, constant in _SOCKET_OPTIONS.items():
        # As in libpq, 0 means the system's default, and what the system does not know is left alone.
        if given.get(name) and hasattr(socket, constant):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, constant), given[name])
