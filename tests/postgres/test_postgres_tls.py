"""Connections over TLS: what the DSN asks for is insisted on."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from support.postgres_records import chain
from support.postgres_server import DEBIAN_BINARIES, LocalServer

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.errors import StoreUnavailableError

pytestmark = pytest.mark.thorough

ROLE = "alice"


@dataclass(frozen=True)
class Secured:
    """A server that takes TCP connections by TLS alone, from clients with a certificate of ROLE."""

    server: LocalServer
    authority: trustme.CA
    files: Path

    def dsn(self, host: str = "127.0.0.1", **parameters: object) -> str:
        given = {
            "sslmode": "verify-full",
            "sslrootcert": self.files / "ca.pem",
            "sslcert": self.files / "client.pem",
            "sslkey": self.files / "client.key",
            **parameters,
        }
        query = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
        return f"postgresql://{ROLE}@{host}:{self.server.port}/postgres?{query}"


async def create_role(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE ROLE {ROLE} LOGIN; GRANT CREATE ON DATABASE postgres TO {ROLE}")
    await connection.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, debian_server: str) -> Iterator[Secured]:
    files = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(files / "ca.pem")
    trustme.CA().cert_pem.write_to_path(files / "stranger.pem")
    client = authority.issue_cert(f"{ROLE}@example.org", common_name=ROLE)
    client.private_key_pem.write_to_path(files / "client.key")
    client.cert_chain_pems[0].write_to_path(files / "client.pem")
    with LocalServer(DEBIAN_BINARIES) as server:
        asyncio.run(create_role(server.dsn))
        server.kill()
        server.secure(authority.issue_cert("127.0.0.1"), authority.cert_pem.bytes(), clients=ROLE)
        yield Secured(server.start(), authority, files)


async def stores(checkpointer: PostgresCheckpointer) -> bool:
    async with checkpointer:
        run = chain(2)
        await checkpointer.write_many(run)
        async with checkpointer._attach().connections.lend() as lent:
            encrypted: bool = await lent.connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        return encrypted and await checkpointer.read_latest(run[0].run_id) == run[1]


async def refusal(checkpointer: PostgresCheckpointer) -> StoreUnavailableError:
    with pytest.raises(StoreUnavailableError) as caught:
        await checkpointer.bootstrap()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_that_proves_who_it_is_is_taken(secured: Secured, schema: str, mode: str) -> None:
    assert await stores(PostgresCheckpointer(secured.dsn(sslmode=mode), schema=schema))
    assert await stores(PostgresCheckpointer.from_url(f"{secured.dsn(sslmode=mode)}&schema={schema}"))


async def test_a_context_of_the_callers_is_taken(secured: Secured, schema: str) -> None:
    context = ssl.create_default_context(cafile=secured.files / "ca.pem")
    context.load_cert_chain(secured.files / "client.pem", secured.files / "client.key")
    dsn = f"postgresql://{ROLE}@127.0.0.1:{secured.server.port}/postgres"
    assert await stores(PostgresCheckpointer(dsn, schema=schema, ssl=context))
    stranger = ssl.create_default_context(cafile=secured.files / "stranger.pem")
    assert (await refusal(PostgresCheckpointer(dsn, schema=schema, ssl=stranger))).reason == "certificate-refused"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_server_that_nobody_vouches_for_is_refused_at_once(secured: Secured, schema: str, mode: str) -> None:
    dsn = secured.dsn(sslmode=mode, sslrootcert=secured.files / "stranger.pem")
    error = await refusal(PostgresCheckpointer(dsn, schema=schema, timeout=1000))
    assert error.reason == "certificate-refused"
    assert "sslrootcert" in (error.hint or "")


async def test_a_certificate_of_another_host_is_refused(secured: Secured, schema: str) -> None:
    error = await refusal(PostgresCheckpointer(secured.dsn("localhost"), schema=schema, timeout=1000))
    assert error.reason == "certificate-refused"
    assert "localhost" in str(error)
    assert await stores(PostgresCheckpointer(secured.dsn("localhost", sslmode="verify-ca"), schema=schema))


@pytest.mark.parametrize(
    "without", [{"sslmode": "disable"}, {"sslcert": None, "sslkey": None}], ids=["no TLS", "no client certificate"]
)
async def test_a_server_that_insists_is_an_error_that_says_so(
    secured: Secured, schema: str, without: dict[str, Any]
) -> None:
    error = await refusal(PostgresCheckpointer(secured.dsn(**without), schema=schema))
    assert error.reason == "authentication-failed"


def test_a_refused_connection_does_not_outlive_its_loop(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    finished = threading.Event()

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(8)
        connection.sendall(b"S")
        with context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1024)
            fields = b"SFATAL\0VFATAL\0C28000\0Mno entry for this host\0\0"
            encrypted.sendall(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)
            finished.wait(300)  # it does not answer when the client says goodbye

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=refuse, args=(listener,))
        server.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        dsn = f"postgresql://{ROLE}@{address}/postgres?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
        gc.collect()  # what other tests have left behind is not looked for here
        try:
            with warnings.catch_warnings(record=True) as unclosed:
                warnings.simplefilter("always")
                # Nobody answers a second attempt.
                error = asyncio.run(refusal(PostgresCheckpointer(dsn, timeout=600)))
                gc.collect()
        finally:
            finished.set()
            server.join()
        assert error.reason == "authentication-failed"
    assert unclosed == []


async def test_the_test_server_is_closed_to_others(secured: Secured) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(f"postgresql://{ROLE}@127.0.0.1:{secured.server.port}/postgres", ssl=False)
