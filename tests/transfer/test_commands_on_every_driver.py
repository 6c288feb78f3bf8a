"""Every command of the audit and the transfer as a process, on every driver."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import GRAPH, STEPS
from support.places import Place, SQLitePlace

pytestmark = pytest.mark.thorough


class Shell:
    """A folder with a graph, and the command line on one store."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self.url = place.url
        (folder / "graph.yaml").write_text(GRAPH)
        (folder / "steps.py").write_text(STEPS)

    async def call(self, *words: str, code: int = 0, store: str | None = None) -> tuple[str, str]:
        """Run a command; return what it printed."""
        where = [] if words[0] == "copy" else ["--checkpoint", store or self.url]
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "stargraph"),
            *words,
            *where,
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == code, (words, out, err)
        assert b"Traceback" not in err
        return out.decode(), err.decode()

    async def json(self, *words: str, **options: Any) -> Any:
        return json.loads((await self.call(*words, "--json", **options))[0])


@pytest.mark.slow
async def test_the_life_of_runs(place: Place, file: SQLitePlace, tmp_path: Path) -> None:
    shell = Shell(tmp_path, place)
    for run_id in ("r1", "r2"):
        await shell.call("run", "graph.yaml", "-i", "count=1", "--run-id", run_id, "-q")
    report = await shell.json("verify")
    assert (report["sound"], report["runs"], report["steps"]) == (True, 2, 8)
    await shell.call("anchor", "heads.json")
    assert (await shell.json("verify", "--anchor", "heads.json"))["anchored"] == 2

    followed, _ = await shell.call("inspect", "r1", "--follow")
    assert followed.splitlines()[-1].split()[:3] == ["3", "completed", "third"]
    assert "~ state.count: 1 → 3" in (await shell.call("inspect", "r1", "--diff", "0", "3"))[0]

    copied = await shell.json("copy", place.url, file.url, "--all")
    assert (copied["runs"], copied["steps"], copied["verified"]) == (2, 8, 2)
    assert (await shell.json("verify", "--anchor", "heads.json", store=file.url))["sound"]
    assert (await shell.json("copy", file.url, place.url, "--all"))["present"] == 8
    await shell.call("export", "runs.jsonl", "--all")
    assert (await shell.json("import", "runs.jsonl"))["present"] == 8

    pruned = await shell.json("prune", "--older-than", "0s", "--keep-last", "2")
    # S3 keeps what the last steps are decoded from, which is all of so short a run.
    removed = 0 if place.url.startswith("s3://") else 4
    assert pruned == {"runs": removed // 2, "checkpoints": removed, "dry_run": False}
    report = await shell.json("verify", "--anchor", "heads.json")
    assert report["sound"]
    assert {note["kind"] for note in report["notes"]} == ({"pruned"} if removed else set())
    await shell.call("copy", place.url, "elsewhere.sqlite", "--all")
    report = await shell.json("verify", "--anchor", "heads.json", store="elsewhere.sqlite")
    assert (report["sound"], report["steps"]) == (True, 8 - removed)

    await shell.call("delete", "r1")
    report = await shell.json("verify", "--anchor", "heads.json", code=7)
    assert [(finding["kind"], finding["run_id"]) for finding in report["findings"]] == [("run-missing", "r1")]
    _, err = await shell.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q", code=2)
    assert "r1" in err
    await place.put("r2", 3, (await place.get("r2", 3))[:-2])
    _, err = await shell.call("verify", "r2", code=7)
    assert "not as it was written" in err
    await shell.call("inspect", "r2", code=7)
