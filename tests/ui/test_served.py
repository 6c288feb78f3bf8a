"""`stargraph ui` as a process: the link that it prints works once, and Ctrl-C ends it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.checkpoints import genesis

from stargraph.checkpoint.sqlite import SQLiteCheckpointer

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_the_printed_link_leads_to_the_runs(tmp_path: Path, host: str) -> None:
    file = tmp_path / "runs.sqlite"
    async with SQLiteCheckpointer(file) as store:
        await store.write(genesis(run_id="one"))
    command = [sys.executable, "-m", "stargraph", "ui", str(file), "--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first, second = process.stdout.readline(), process.stdout.readline()
            assert "read-only" in first
            found = re.fullmatch(r"open http://([^:]+):(\d+)(/\?token=\S+)\n", second)
            assert found is not None
            name, port, path = found.groups()
            assert name == ("localhost" if host == "127.0.0.1" else socket.gethostname())
            named = {"host": f"{name}:{port}"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=named, timeout=60) as client:
                answer = await client.get(path)
                assert answer.status_code == 303
                cookie = answer.headers["set-cookie"].partition(";")[0]
                page = await client.get("/", headers={"cookie": cookie})
                assert 'data-row="one"' in page.text
                client.cookies.clear()
                assert (await client.get(path)).status_code == 401
                assert (await client.get("/", headers={"host": f"evil.example:{port}"})).status_code == 421
            process.send_signal(signal.SIGINT)
            # Not by communicate, which loses what is read ahead of these two lines.
            assert process.stderr is not None
            out, err = process.stdout.read(), process.stderr.read()
            assert process.wait(60) == 0, err
            assert "a browser signed in; the link for another one" in out
            assert ("warning: listening on 0.0.0.0 without encryption" in out) == (host == "0.0.0.0")
            assert "Traceback" not in err
        finally:
            process.kill()  # does nothing if it has ended; else its end would be waited for
