"""What a DSN may say, how soon a wrong one is reported, and how credentials change."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
import string
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import pytest
from support.ports import free_port
from support.postgres_records import chain
from support.postgres_server import DEBIAN_BINARIES, LocalServer, embedded_binaries
from support.tcp_proxy import TcpProxy

from stargraph.checkpoint.postgres import PostgresCheckpointer, _errors
from stargraph.checkpoint.postgres._options import read_dsn
from stargraph.errors import CheckpointError, StoreUnavailableError

pytestmark = pytest.mark.thorough

Opener = Callable[..., PostgresCheckpointer]
BINARIES = embedded_binaries() or DEBIAN_BINARIES
NOBODY: Final = "no-such-host.invalid"


async def refusal(dsn: str, **options: Any) -> StoreUnavailableError:
    """Return the error of a bootstrap, which must come long before the timeout."""
    with pytest.raises(StoreUnavailableError) as caught:
        async with asyncio.timeout(60):
            await PostgresCheckpointer(dsn, **{"timeout": 300, **options}).bootstrap()
    assert caught.value.hint
    return caught.value


def test_both_forms_of_a_dsn_say_the_same() -> None:
    uri = read_dsn(
        "postgresql://u%40x:p%2Fw@h1:1,[::1]:2/d%20b?connect_timeout=3&application_name=a%20b&keepalives_idle=7"
        "&target_session_attrs=standby&sslmode=require&options=-c%20geqo%3Doff&channel_binding=prefer&gssencmode=disable"
    )
    pairs = read_dsn(
        "host=h1,::1 port = 1,2 user=u@x password='p/w' dbname='d b' connect_timeout=3 application_name='a b'"
        " keepalives_idle=7 target_session_attrs=standby sslmode=require options='-c geqo=off'"
    )
    assert uri == pairs
    assert (uri.hosts, uri.ports, uri.user, uri.password) == (("h1", "::1"), (1, 2), "u@x", "p/w")
    assert (uri.database, uri.connect_timeout, uri.keepalives) == ("d b", 3.0, {"keepalives_idle": 7})
    assert read_dsn(r"user='it\'s' password=a\ b\\") == read_dsn("postgresql://it's:a%20b%5C@")
    assert read_dsn("postgresql://u:p@p@h").password == "p@p"


def test_the_environment_says_what_a_dsn_leaves_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "PGHOST": "h1,h2",
        "PGPORT": "1,2",
        "PGCONNECT_TIMEOUT": "7",
        "PGAPPNAME": "the app",
        "PGTARGETSESSIONATTRS": "standby",
    }.items():
        monkeypatch.setenv(name, value)
    options = read_dsn("postgresql://u@/d?target_session_attrs=primary")
    assert (options.hosts, options.ports, options.connect_timeout) == (("h1", "h2"), (1, 2), 7.0)
    assert (options.target_session_attrs, options.server_settings) == ("primary", {"application_name": "the app"})
    services = tmp_path / "services"
    services.write_text("[runs]\nhost=h3\nport=3\npassword=p%%w\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSERVICE", "runs")
    options = read_dsn("postgresql://u@/d?port=4")
    assert (options.hosts, options.ports, options.password) == (("h3",), (4,), "p%%w")
    services.write_text("[runs]\nhots=h3\n")
    with pytest.raises(StoreUnavailableError, match="'hots'"):
        read_dsn("postgresql://u@/d")
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    with pytest.raises(StoreUnavailableError, match="channel_binding"):
        read_dsn("postgresql://u@h/d?service=")


async def test_parameters_of_libpq_are_honoured(dsn: str, schema: str, opened: Opener) -> None:
    query = (
        "connect_timeout=5&keepalives=1&keepalives_idle=41&keepalives_interval=7&keepalives_count=3"
        "&tcp_user_timeout=9000&gssencmode=prefer&channel_binding=disable&application_name=the%20app"
        "&client_encoding=utf8&options=-c%20work_mem%3D9MB&sslmode=prefer&sslcompression=0"
    )
    async with opened(dsn=f"{dsn}?{query}") as handle, handle._attach().connections.lend() as lent:
        connection = lent.connection
        assert await connection.fetchval("SHOW application_name") == "the app"
        assert await connection.fetchval("SHOW work_mem") == "9MB"
        opened_socket = connection._transport.get_extra_info("socket")
        assert opened_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for option, value in (("TCP_KEEPIDLE", 41), ("TCP_KEEPINTVL", 7), ("TCP_KEEPCNT", 3)):
            assert opened_socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, option)) == value
    parts = dsn.removeprefix("postgresql://").replace("/", "@").replace(":", "@").split("@")
    pairs = f"user={parts[0]} host={parts[1]} port={parts[2]} dbname={parts[3]}"
    async with opened(dsn=pairs) as handle:
        assert await handle.list_runs() == []
    async with PostgresCheckpointer.from_url(f"{pairs} schema={schema} max_connections=1") as handle:
        assert await handle.list_runs() == []


@pytest.mark.parametrize(
    ("query", "timeout"), [("?connect_timeout=2", 300), ("", 20), ("?target_session_attrs=prefer-standby", 20)]
)
async def test_a_host_that_does_not_answer_is_left_for_the_next(
    dsn: str, opened: Opener, query: str, timeout: float
) -> None:
    port = int(dsn.rpartition(":")[2].partition("/")[0])
    async with TcpProxy("127.0.0.1", port) as silent:
        silent.swallowing = True
        with socket.socket() as full:
            # Nobody accepts, and the queue of one is full: the next connection hangs.
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            # One does not even connect, one says nothing after that.
            hosts = f"127.0.0.1:{full.getsockname()[1]},127.0.0.1:{silent.port},127.0.0.1:{port}"
            handle = opened(dsn=f"postgresql://postgres@{hosts}/postgres{query}", timeout=timeout)
            async with asyncio.timeout(60):
                await handle.bootstrap()
                assert await handle.list_runs() == []
            await handle.close()
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("channel_binding=require", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("sslmode=perhaps", "sslmode"),
        ("sslmode=verify-full&sslrootcert=/no/such.pem", "/no/such.pem"),
        ("sslrootcert=system", "sslrootcert"),
        ("sslmode=verify-full", "sslrootcert"),
        ("sslmode=verify-ca", "sslrootcert"),
        ("foo=1", "foo"),
        ("target_session_attrs=writable", "target_session_attrs"),
        ("conect_timeout=3", "conect_timeout"),
        ("connect_timeout=soon", "connect_timeout"),
        ("statement_timeout=3", "statement_timeout"),
        ("keepalives_idle=x", "keepalives_idle"),
        ("client_encoding=latin1", "client_encoding"),
        ("port=99999", "port"),
        ("schema=x", "schema"),
        ("service=nobody", "nobody"),
        ("sslmode", "value"),
    ],
)
async def test_what_cannot_be_honoured_is_named_at_once(
    query: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    (tmp_path / "services").write_text("[somebody]\nhost=h\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    pairs = query.replace("&", " ")
    for dsn in (f"postgresql://u:hush@127.0.0.1:9/d?{query}", f"host=127.0.0.1 {pairs} passfile=/hush"):
        error = await refusal(dsn)
        assert error.reason == "bad-dsn"
        assert named in str(error) or "=" not in query or (named == "foo" and "passfile" in dsn)
        assert "hush" not in str(error)


@pytest.mark.parametrize(
    "dsn", ["postgresql://h/d?password=ab&hush=1", "host=h password=ab hush=1", "postgresql://h/d?sslpassword=a&hush="]
)
def test_what_may_be_a_piece_of_a_password_is_not_named(dsn: str) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        read_dsn(dsn)
    assert caught.value.reason == "bad-dsn"
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("query", ["sslmode=verify-full", "service=somebody"])
def test_a_user_without_a_home_has_no_files_in_it(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it is of a container's user who is not in passwd
    with pytest.raises(StoreUnavailableError, match="~/"):
        read_dsn(f"postgresql://h/d?{query}")


def test_a_misspelt_parameter_is_guessed() -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        read_dsn("postgresql://h/d?aplication_name=x")
    assert "application_name" in (caught.value.hint or "")


async def test_a_server_that_was_never_reached_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    port = free_port()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "stargraph.checkpoint.postgres"):
        # However long an attempt takes: each look at the clock takes a third of the time for which it is tried.
        ticks = count()
        clock = SimpleNamespace(monotonic=lambda: next(ticks) * _errors.FIRST_CONTACT / 3)
        patch.setattr(_errors, "time", clock)
        error = await refusal(f"postgresql://u:hush@127.0.0.1:{port}/d")
    assert error.reason == "unreachable"
    assert str(port) in str(error)
    assert "trying again" in caplog.text
    assert "hush" not in caplog.text + str(error)
    assert (await refusal(f"postgresql://u@/d?host={tmp_path}")).reason == "unreachable"

    def nobody(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    caplog.clear()
    error = await refusal(f"postgresql://u@{NOBODY}/d")
    assert error.reason == "unknown-host"
    assert NOBODY in str(error)
    assert not [record for record in caplog.records if record.name.startswith("stargraph")]


async def test_a_server_that_goes_away_is_waited_for(
    caplog: pytest.LogCaptureFixture, dsn: str, opened: Opener
) -> None:
    port = int(dsn.rpartition(":")[2].partition("/")[0])
    proxy = TcpProxy("127.0.0.1", port)
    there = proxy.port = free_port()
    async with proxy:
        handle = opened(dsn=f"postgresql://postgres@127.0.0.1:{there}/postgres", timeout=60)
        await handle.bootstrap()
    with caplog.at_level(logging.WARNING, "stargraph.checkpoint.postgres"):
        reading = asyncio.create_task(handle.list_runs())
        await asyncio.sleep(2.5)
        while "trying again" not in caplog.text:
            assert not reading.done()
            await asyncio.sleep(0.02)
        assert not reading.done()
    server = await asyncio.start_server(lambda r, w: _pass_on(r, w, port), "127.0.0.1", there)
    assert await reading == []
    await handle.close()
    server.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer), return_exceptions=True)


@pytest.fixture
def guarded() -> Iterator[LocalServer]:
    """A server that wants a password of everybody but the superuser."""
    with LocalServer(BINARIES) as server:
        asyncio.run(_set_password(server.dsn, "first"))
        server.kill()
        server.authenticate("host all postgres all trust\nhost all all all scram-sha-256\n")
        server.start()
        yield server


async def _set_password(dsn: str, password: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "DO $$ BEGIN CREATE ROLE runner LOGIN; GRANT CREATE ON DATABASE postgres TO runner;"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    await connection.execute(f"ALTER ROLE runner PASSWORD '{password}'")
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'runner'")
    await connection.close()


async def test_a_wrong_password_is_reported_at_once_and_a_new_one_is_found(
    guarded: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{guarded.port}"
    for dsn in (f"postgresql://runner:hush@{address}/postgres", f"postgresql://runner@{address}/postgres"):
        error = await refusal(dsn)
        assert error.reason == "authentication-failed"
        assert "runner" in str(error)
        assert "hush" not in str(error)
    assert (await refusal(f"postgresql://postgres@{address}/nowhere")).reason == "no-such-database"

    passwords, services = tmp_path / "pgpass", tmp_path / "services"
    monkeypatch.setenv("PGSERVICEFILE", str(services))

    def hand_out(password: str) -> None:
        passwords.write_text(f"127.0.0.1:*:*:runner:{password}\n")
        passwords.chmod(0o600)
        services.write_text(
            f"[runs]\nhost=127.0.0.1\nport={guarded.port}\nuser=runner\npassword={password}\ndbname=postgres\n"
        )

    hand_out("first")
    current = "first"
    handles = [
        PostgresCheckpointer(f"postgresql://runner@{address}/postgres?passfile={quote(str(passwords))}"),
        PostgresCheckpointer("postgresql://?service=runs"),
        PostgresCheckpointer(f"postgresql://runner@{address}/postgres", password=lambda: current),
    ]
    run = chain(3)
    for handle in handles:
        await handle.bootstrap()
        await handle.write(run[0])
    # The server's password changes first, so that the next connection is refused once or twice.
    await asyncio.to_thread(lambda: asyncio.run(_set_password(guarded.dsn, "second")))
    monkeypatch.setattr(_errors, "FIRST_CONTACT", 60.0)  # a busy machine may take long to hand out the new one
    writing = [asyncio.create_task(handle.write(run[1])) for handle in handles]
    await asyncio.sleep(0.3)
    hand_out("second")
    current = "second"
    await asyncio.gather(*writing)
    for handle in handles:
        assert await handle.read_latest(run[0].run_id) == run[1]
        await handle.close()


async def test_a_password_that_cannot_be_made_is_reported_at_once(dsn: str) -> None:
    def expired() -> str:
        raise RuntimeError("the token hush has expired")

    error = await refusal(dsn, password=expired)
    assert error.reason == "no-password"
    assert "hush" not in str(error)
    assert isinstance(error.__cause__, RuntimeError)


async def test_names_are_looked_up_whatever_the_default_executor_does(dsn: str, opened: Opener) -> None:
    release = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(release.wait)) for _ in range(80)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            async with opened(dsn=dsn.replace("127.0.0.1", "localhost")) as handle:
                run = chain(2)
                await handle.write_many(run)
                assert await handle.read_latest(run[0].run_id) == run[1]
    finally:
        release.set()
        await asyncio.gather(*busy)


async def test_a_lookup_that_hangs_ends_with_its_deadline(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    look_up = socket.getaddrinfo

    def hang(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == NOBODY:
            release.wait(300)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            async with asyncio.timeout(60):  # the name is looked up for 300 seconds
                await PostgresCheckpointer(f"postgresql://u@{NOBODY}/d", timeout=1.2).bootstrap()
    finally:
        release.set()
    assert caught.value.reason == "timeout"


def said_by(error: BaseException) -> str:
    """Everything that is shown of an error, with what caused it."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("seed", range(4))
async def test_no_secret_is_ever_shown(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror(-2, "no")))
    chance = random.Random(seed)
    letters = string.ascii_lowercase
    for _ in range(300):
        # Pieces that stay together, between characters that should have been quoted.
        pieces = ["".join(chance.choices(letters, k=9)) for _ in range(chance.randrange(1, 4))]
        secret = pieces[0] + "".join(chance.choice("/?#@:=&%[]' \\\0é") + piece for piece in pieces[1:])
        dsn = chance.choice(
            [
                f"postgresql://u:{secret}@{NOBODY}:5432/d",
                f"postgresql://u:{secret}@{NOBODY}/d?sslmode=require",
                f"postgresql://u:{quote(secret, safe='')}@{NOBODY}/d?sslmode=nonsense",
                f"postgresql://{NOBODY}/d?user=u&password={secret}",
                f"postgresql://{NOBODY}/d?passwrd={secret}",
                f"host={NOBODY} user=u password={secret} dbname=d",
                f"host={NOBODY} user=u password='{secret}' dbname=d port=x",
                f"host={NOBODY} passwort={secret}",
                f"postgresql://u:{secret.replace('@', '')}",
                f"mysql://u:{secret}@h/d",
            ]
        )
        shown = ""
        try:
            handle = PostgresCheckpointer(dsn, timeout=0.2)
            shown += repr(handle)
            await handle.bootstrap()
        except (CheckpointError, ValueError) as error:
            shown += repr(error) + said_by(error).replace(dsn, "")
        for piece in pieces:
            assert piece not in shown, (dsn, shown)


async def test_a_connection_that_is_given_up_half_way_leaves_no_noise(dsn: str, opened: Opener) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    await opened().bootstrap()
    for number in range(120):
        handle = opened(timeout=30)
        opening = asyncio.create_task(handle.bootstrap())
        for _ in range(number % 24):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        del opening
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0.05)
    assert [context["message"] for context in noise] == []
