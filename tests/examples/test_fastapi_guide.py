"""The service of docs/fastapi.md as a process: events come live, it is killed, and the next one goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.documents import blocks_of
from support.ports import free_port
from support.workspace import ROOT

pytestmark = pytest.mark.thorough


SLOW = """\
import asyncio

sleep = asyncio.sleep

async def slow(seconds, *result):
    return await sleep(20 * seconds if seconds == 0.05 else seconds, *result)

asyncio.sleep = slow
"""
"""A hundred prices take five seconds, in which a busy machine may not get as far as to kill the service."""


@contextmanager
def served(folder: Path, *places: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    path = os.pathsep.join(map(str, (folder, *places)))
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": path})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.get("/docs")
                    break
                except httpx.ConnectError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield client, process
    finally:
        process.kill()
        process.wait()


def events(response: httpx.Response) -> Iterator[tuple[str, str, object]]:
    """Yield the id, the type and the data of each event as it arrives."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


def test_an_order_survives_the_service(tmp_path: Path) -> None:
    (code,) = (block.text for block in blocks_of((ROOT / "docs/fastapi.md").read_text()) if block.name)
    (tmp_path / "service.py").write_text(code)
    prices = [1.0] * 100
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    with served(tmp_path, tmp_path / "slow") as (client, process):
        client.post("/orders", json={"id": "a", "prices": prices})
        with client.stream("GET", "/orders/a/events") as response:
            seen = []
            for _, kind, data in events(response):
                seen.append(kind)
                if kind == "emitted":
                    # It is here while the node still runs: the stream is live.
                    assert isinstance(data, dict)
                    assert data["added"] < len(prices)
                    break
        assert (seen[0], seen[-1]) == ("started", "emitted")
        process.kill()
    with served(tmp_path) as (client, process):
        with client.stream("GET", "/orders/a/events", headers={"Last-Event-ID": "0"}) as response:
            told = [(step, kind) for step, kind, _ in events(response)]
        steps = [int(step) for step, _ in told if step]
        assert steps == list(range(1, len(steps) + 1))
        assert [kind for _, kind in told if kind != "emitted"] == ["resumed", "completed", "asked"]
        order = client.get("/orders/a").json()
        assert order["state"]["total"] == 100.0
        (question,) = order["questions"]
        answers = [{"question": question["id"], "value": value} for value in ("perhaps", True, True)]
        replies = [client.post("/orders/a/answers", json=answer) for answer in answers]
        assert [reply.status_code for reply in replies] == [422, 200, 409]
        with client.stream("GET", "/orders/a/events") as response:
            assert list(events(response))[-1][2] == {"node": "charge", "status": "done", "update": {"paid": True}}
        repeated = client.post("/orders", json={"id": "a", "prices": [7.0]})
        assert (repeated.status_code, repeated.json()["state"]["total"]) == (202, 100.0)
        process.terminate()
        assert process.wait(60) in (0, -15)
