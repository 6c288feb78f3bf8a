"""Stores of every version since the first: today's code opens, verifies, reads, continues and replays them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from support.checkpoints import following
from support.golden import KEYS, VERSION, file_for, folder_of, golden_graph, golden_runs, left, load
from support.places import Place

from stargraph.audit import Anchor, verify
from stargraph.checkpoint.codec import Cipher, Codec, Keyring, missing_base_steps
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.transfer import import_runs

VERSIONS = range(1, VERSION + 1)
each_version = pytest.mark.parametrize("version", VERSIONS)


async def history(store: Any, run_id: str) -> list[Checkpoint]:
    return [checkpoint async for checkpoint in store.history(run_id)]


@each_version
async def test_a_golden_store_is_read_verified_and_continued(version: int, place: Place) -> None:
    await load(place, file_for(place, folder_of(version)))
    expected = left(golden_runs(version))
    async with place.open() as opened:
        store: Any = opened
        assert {summary.run_id for summary in await store.list_runs(limit=100)} == set(expected)
        assert (await verify(store)).sound
        for run_id, run in expected.items():
            found = await history(store, run_id)
            assert found[-len(run) :] == run
            # Also the order of members, which no digest tells.
            assert [step.model_dump_json() for step in found[-len(run) :]] == [step.model_dump_json() for step in run]
            rows = await store.timeline(run_id)
            assert [row.digest for row in rows] == [step.digest for step in found]
            if run[-1].status not in ENDED:
                await store.write(following(run[-1], event="resumed", changes={"continued": version}))
        assert await store.read_latest("gone") is None
        assert await store.read_at_key("keyed", "first") == expected["keyed"][0]
        assert [run.run_id for run in (await store.children("edits"))] == ["child"]
        assert [schedule.id for schedule in await store.schedules()] == ["nightly"]
    async with place.open() as opened:
        store = opened
        assert (await verify(store)).sound
        for run_id, run in expected.items():
            latest = await store.read_latest(run_id)
            assert latest is not None
            assert latest.step == run[-1].step + (run[-1].status not in ENDED)


@each_version
async def test_a_golden_run_is_resumed_and_replayed(version: int, place: Place) -> None:
    await load(place, file_for(place, folder_of(version)))
    async with place.open() as store:
        # The runtime hash names the minor version of Python, and that of the golden runs is 3.11.
        accept: tuple[Literal["runtime"], ...] = () if sys.version_info[:2] == (3, 11) else ("runtime",)
        run = await golden_graph().start_or_resume(checkpointer=store, run_id="graph")
        assert (await run.replay()).differences == ()
        assert (await run.resume(accept=accept)).status == "awaiting_input"
        (question,) = run.questions
        await run.answer(question, "somebody")
        summary = await run.resume(accept=accept)
        assert (summary.status, summary.stored_state) == ("done", {"n": 2, "who": "somebody"})
        assert (await run.replay()).differences == ()


@each_version
def test_golden_records_are_read_as_they_were_written(version: int) -> None:
    for run in json.loads((folder_of(version) / "records.json").read_text()):
        codec = Codec(cipher=Cipher.parse(KEYS) if run["encrypted"] else None)
        records = {step: bytes.fromhex(each["record"]) for step, each in enumerate(run["steps"])}
        assert not missing_base_steps(records, run_id=run["run_id"], steps=records)
        for step, each in enumerate(run["steps"]):
            read = codec.decode(records, run_id=run["run_id"], step=step)
            assert read.model_dump_json() == Checkpoint.model_validate_json(each["checkpoint"]).model_dump_json()
        rows = codec.summarize(records, run_id=run["run_id"], steps=list(records))
        assert [row.digest for row in rows] == [json.loads(each["checkpoint"])["digest"] for each in run["steps"]]


@each_version
async def test_golden_exports_are_imported_and_a_golden_anchor_holds(version: int, tmp_path: Path) -> None:
    folder = folder_of(version)
    async with MemoryCheckpointer() as store:
        report = await import_runs(store, io.BytesIO((folder / "export.jsonl").read_bytes()))
        assert report.refused == ()
        for run in golden_runs(version):
            assert await history(store, run[0].run_id) == run
    keyring = Keyring.parse(KEYS)
    anchor = Anchor.from_json((folder / "anchor.json").read_bytes(), keyring=keyring)
    async with MemoryCheckpointer() as sealed:
        await import_runs(sealed, io.BytesIO((folder / "anchored.jsonl").read_bytes()))
        assert (await verify(sealed, keyring=keyring, anchor=anchor)).sound
        latest = await sealed.read_latest("sealed")
        assert latest is not None
        await sealed.delete_run("sealed")
        assert not (await verify(sealed, keyring=keyring, anchor=anchor)).sound
