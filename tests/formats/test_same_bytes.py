"""What is written today is what the golden files of the current version hold: other bytes take a new version.

Records are compared by their inflated bodies, and files of SQLite by their tables: zstd may compress otherwise one day,
and a file names the SQLite that wrote it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

from support import golden_records
from support.golden import VERSION, content, file_for, fill, folder_of, golden_runs, load, unpacked
from support.places import Place, Servers

from stargraph.audit import Anchor
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.transfer import export_runs

FOLDER = folder_of(VERSION)


async def test_a_store(place: Place, driver: str, driver_server: Servers, tmp_path: Path) -> None:
    await fill(place, golden_runs(VERSION))
    async with driver_server.place(driver) as golden:
        await load(golden, file_for(golden, FOLDER))
        assert await content(place, tmp_path) == await content(golden, tmp_path)


def test_records() -> None:
    written = json.loads(golden_records.text())
    golden = json.loads((FOLDER / "records.json").read_text())
    for run, before in zip(written, golden, strict=True):
        assert (run["name"], run["run_id"]) == (before["name"], before["run_id"])
        for step, step_before in zip(run["steps"], before["steps"], strict=True):
            assert step["checkpoint"] == step_before["checkpoint"]
            record, golden_record = bytes.fromhex(step["record"]), bytes.fromhex(step_before["record"])
            if run["encrypted"]:  # their nonces are random
                assert record[:2] == golden_record[:2]
            else:
                assert unpacked(record) == unpacked(golden_record), f"{run['name']}: the form of a record has changed"


async def test_an_export() -> None:
    async with MemoryCheckpointer() as store:
        for run in golden_runs(VERSION):
            for checkpoint in run:
                await store.write(checkpoint)
        file = io.BytesIO()
        await export_runs(store, file)
    golden = (FOLDER / "export.jsonl").read_bytes().splitlines()
    # The first line says when it was made, and the last one has the hash of all before it.
    assert file.getvalue().splitlines()[1:-1] == golden[1:-1]
    header = json.loads(file.getvalue().splitlines()[0]) | {"exported_at": None}
    assert header == json.loads(golden[0]) | {"exported_at": None}


def test_an_anchor() -> None:
    golden = (FOLDER / "anchor.json").read_text()
    assert Anchor.from_json(golden).to_json() == golden
