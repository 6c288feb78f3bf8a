"""The store behind `--checkpoint s3://…`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from support.s3.stores import Stores

GRAPH = """\
ir_version: "1.0.0"
id: hello
state_schema: {message: str}
nodes:
  - {id: say, kind: echo}
"""


async def _stargraph(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "stargraph"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_runs_are_made_and_listed_in_a_bucket(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stores.endpoint)
    graph = tmp_path / "graph.yaml"
    graph.write_text(GRAPH)
    code, _, stderr = await _stargraph("run", str(graph), "-i", "message=hi", "--checkpoint", stores.url)
    assert code == 0, stderr
    code, stdout, stderr = await _stargraph("runs", "--json", "--checkpoint", stores.url)
    assert code == 0, stderr
    (found,) = json.loads(stdout)["items"] if isinstance(json.loads(stdout), dict) else json.loads(stdout)
    assert (found["graph_id"], found["status"]) == ("hello", "done")
    async with stores.handle() as store:
        assert [summary.run_id for summary in await store.list_runs()] == [found["run_id"]]
