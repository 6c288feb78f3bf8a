"""PgBouncer in transaction mode, for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

from support.ports import free_port
from support.postgres_server import ACCOUNT

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


POOL_SIZE: Final = 3
"""How many connections to the server a pooler opens, if it is not told."""


class PgBouncer:
    """A pooler before a server, with fewer server connections than clients.

    Args:
        dsn: the server's DSN, over TCP.
        pool_size: how many server connections it opens.
    """

    def __init__(self, dsn: str, *, pool_size: int = POOL_SIZE) -> None:
        self._target = urlsplit(dsn)
        self._home = Path(tempfile.mkdtemp(prefix="stargraph-pgbouncer-"))
        self._user = ACCOUNT if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        settings = self._home / "pgbouncer.ini"
        settings.write_text(f"""
            [databases]
            * = host={self._target.hostname} port={self._target.port or 5432}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = trust
            auth_user = {self._target.username}
            auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1
            pool_mode = transaction
            default_pool_size = {pool_size}
            max_client_conn = 200
        """)
        if self._user:
            shutil.chown(self._home, self._user)
            settings.chmod(0o644)

    @property
    def dsn(self) -> str:
        netloc = f"{self._target.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"
        return urlunsplit(self._target._replace(netloc=netloc))

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, self._home / "pgbouncer.ini"], user=self._user, cwd=self._home, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._home / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return self

    def kill(self) -> None:
        """End the pooler; its clients see closed connections. Enter it again to start it again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)
