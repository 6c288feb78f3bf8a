"""The servers of the example drivers, in temporary directories: Valkey or Redis, and MariaDB, as Debian has them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from support.ports import free_port

VALKEY = shutil.which("valkey-server") or shutil.which("redis-server")
MARIADB = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """Start Valkey, or Redis; yield its URL."""
    assert VALKEY is not None
    with _directory() as home:
        port = free_port()
        command = [VALKEY, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        url = f"valkey://127.0.0.1:{port}/0"
        with _running(command, home, lambda: _valkey_answers(url)):
            yield url


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """Start MariaDB; yield the URL of its administrator."""
    assert MARIADB is not None
    with _directory() as home:
        port = free_port()
        user = [f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', '')}"]
        data = f"--datadir={home / 'data'}"
        install = ["mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal", *user]
        subprocess.run([*install, "--skip-test-db"], check=True, capture_output=True, timeout=120)
        command = [MARIADB, "--no-defaults", *user, data, f"--socket={home / 'socket'}", f"--port={port}"]
        command += ["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-allowed-packet=256M"]
        ping = ["mariadb-admin", "--no-defaults", f"--socket={home / 'socket'}", "--user=root", "ping"]
        with _running(command, home, lambda: subprocess.run(ping, capture_output=True, check=False).returncode == 0):
            yield f"mariadb://root@127.0.0.1:{port}"


def _valkey_answers(url: str) -> bool:
    from valkey import Valkey
    from valkey.exceptions import ValkeyError

    with contextlib.closing(Valkey.from_url(url)) as client:
        try:
            return bool(client.ping())
        except ValkeyError:
            return False


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="stargraph-server-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _running(command: Sequence[str], home: Path, answers: Callable[[], bool]) -> Iterator[None]:
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()
