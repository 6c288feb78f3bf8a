"""Anchors: their file, their seal, and what runs that moved on, were pruned or deleted since mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from support.places import Place
from support.records import chain, first, following
from support.tampering import kinds

from stargraph.audit import Anchor, Head, anchor, verify
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import RunDeletion, Status
from stargraph.errors import CheckpointCorruptedError, StargraphError

pytestmark = pytest.mark.thorough

KEYRING = Keyring({"k1": b"a secret of 16 bytes or more"})
OTHER = Keyring({"k2": b"another secret of 16 bytes"})
LATER = datetime(2030, 1, 1, tzinfo=UTC)


async def anchored(place: Place, **options: Any) -> Anchor:
    async with place.open() as store:
        return await anchor(store, **options)


async def test_an_anchor_names_the_head_of_every_run(place: Place) -> None:
    runs = [chain(f"r{number:02}", 1 + number % 4) for number in range(20)]
    await place.write(*(checkpoint for run in runs for checkpoint in run))
    made = await anchored(place)
    assert made.runs == tuple(
        Head(run_id=run[-1].run_id, step=run[-1].step, digest=run[-1].digest, status="running") for run in runs
    )
    async with place.open() as store:
        report = await verify(store, anchor=Anchor.from_json(made.to_json()))
    assert report.sound
    assert (report.runs, report.anchored, report.notes) == (20, 20, ())


async def test_the_file_is_one_json_object_with_a_run_on_each_line(file: Place) -> None:
    await file.write(*chain("a", 3), *chain("b", 2))
    made = await anchored(file, keyring=Keyring({"k1": b"a secret of 16 bytes or more"}, allow_unsealed=True))
    text = made.to_json()
    assert len(text.splitlines()) == 4
    shown = json.loads(text)
    assert shown.keys() == {"format", "version", "made_at", "runs", "seal"}
    assert (shown["format"], shown["version"]) == ("stargraph-anchor", 1)
    assert shown["runs"][0] == {"run_id": "a", "step": 2, "digest": made.runs[0].digest, "status": "running"}
    assert shown["seal"].keys() == {"key_id", "mac"}
    assert Anchor.from_json(text, keyring=KEYRING) == made
    assert json.loads((await anchored(file)).to_json())["seal"] is None


@pytest.mark.parametrize("edit", ["step", "digest", "status", "run_id", "made_at", "gone"])
async def test_an_edited_anchor_is_refused_by_its_seal(file: Place, edit: str) -> None:
    await file.write(*map(KEYRING.seal, chain("a", 3)), KEYRING.seal(first("b")))
    shown = json.loads((await anchored(file, keyring=KEYRING)).to_json())
    changes = {"step": 1, "digest": "0" * 64, "status": "done", "run_id": "c"}
    if edit == "gone":
        del shown["runs"][0]
    elif edit == "made_at":
        shown["made_at"] = "2020-01-01T00:00:00Z"
    else:
        shown["runs"][0][edit] = changes[edit]
    assert Anchor.from_json(json.dumps(shown)).runs is not None, "without a key nothing tells"
    with pytest.raises(CheckpointCorruptedError) as raised:
        Anchor.from_json(json.dumps(shown), keyring=KEYRING)
    assert raised.value.reason == "wrong-seal"


async def test_an_anchor_without_a_seal_or_of_another_key_is_refused_where_there_is_a_key(file: Place) -> None:
    await file.write(*map(KEYRING.seal, chain("a", 3)))
    unsealed = (await anchored(file)).to_json()
    sealed = (await anchored(file, keyring=KEYRING)).to_json()
    for text, keyring, reason in ((unsealed, KEYRING, "unsealed"), (sealed, OTHER, "unknown-key")):
        with pytest.raises(CheckpointCorruptedError) as raised:
            Anchor.from_json(text, keyring=keyring)
        assert raised.value.reason == reason
    assert Anchor.from_json(sealed, keyring=Keyring({"k2": b"0" * 16, "k1": b"a secret of 16 bytes or more"})).runs


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "not json",
        '{"format": "stargraph-anchor", "version": 2, "made_at": "2026-01-01T00:00:00Z", "runs": []}',
        '{"format": "stargraph-anchor", "version": 1, "made_at": "yesterday", "runs": []}',
        '{"format": "stargraph-anchor", "version": 1, "made_at": "2026-01-01T00:00:00", "runs": []}',
        '{"format": "stargraph-anchor", "version": 1, "made_at": "2026-01-01T00:00:00Z", "runs": [{}]}',
    ],
)
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(StargraphError) as raised:
        Anchor.from_json(text)
    assert raised.value.reason == "not-an-anchor"
    assert "this is not an anchor" in raised.value.message


async def test_a_run_named_twice_is_refused(file: Place) -> None:
    await file.write(first("a"))
    shown = json.loads((await anchored(file)).to_json())
    shown["runs"] *= 2
    with pytest.raises(StargraphError, match="a run twice"):
        Anchor.from_json(json.dumps(shown))


async def test_a_run_that_moved_on_or_was_pruned_is_a_note_and_a_deleted_one_is_a_finding(place: Place) -> None:
    moved, ended, open_run, gone = chain("moved", 3), chain("ended", 5, end="done"), chain("open", 5), chain("gone", 2)
    await place.write(*moved, *ended, *open_run, *gone)
    before = await anchored(place)
    await place.write(following(moved[-1]), following(open_run[-1]), first("younger"))
    async with place.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, statuses=("done", "running"), keep_last=1)
        assert await store.delete_run("gone")
        report = await verify(store, anchor=before)
        progress: list[int] = []
        named = await verify(store, ["gone", "moved"], anchor=before, progress=lambda runs, _: progress.append(runs))
    assert [(finding.kind, finding.run_id) for finding in report.findings] == [("run-missing", "gone")]
    assert (report.runs, report.anchored) == (4, 4), "the one that is gone was not read"
    assert (named.runs, progress[-1], len(named.findings)) == (1, 1, 1)
    notes = {(note.run_id, note.kind) for note in report.notes}
    # The step that the anchor knows of `moved` was pruned, and the next one names its digest.
    assert notes == {
        ("moved", "pruned"),
        ("moved", "moved-on"),
        ("ended", "pruned"),
        ("open", "pruned"),
        ("open", "moved-on"),
        ("younger", "not-in-anchor"),
    }


async def test_a_prune_past_the_anchored_step_cuts_the_proof_and_says_so(file: Place) -> None:
    run = chain("a", 3)
    await file.write(*run)
    before = await anchored(file)
    await file.write(*(steps := [following(run[-1])]), *(steps := [following(steps[0])]), following(steps[0]))
    async with file.open() as store:
        assert isinstance(store, RunDeletion)
        await store.prune(older_than=LATER, statuses=("running",), keep_last=1)
        report = await verify(store, anchor=before)
    assert report.sound
    assert [note.kind for note in report.notes] == ["pruned", "pruned-past-anchor"]


async def test_the_head_of_an_ended_run_cannot_be_pruned_away(file: Place) -> None:
    run = chain("a", 4, end="done")
    await file.write(*run)
    before = await anchored(file)
    forged = following(following(following(run[2]), status="running"), status="done")
    await file.remove("a", 3)
    await file.forge(forged)
    await file.set_tail(forged)
    async with file.open() as store:
        assert "missing-steps" in kinds(await verify(store, anchor=before))


async def test_an_anchor_that_contradicts_the_one_before_is_not_made(place: Place) -> None:
    run = chain("a", 5)
    await place.write(*run[:3])
    older = await place.dump()
    await place.write(*run[3:], first("b"))
    before = await anchored(place)
    assert (await anchored(place, after=before)).runs == before.runs
    await place.write(following(run[-1]))
    assert (await anchored(place, after=before)).runs[0].step == 5
    await place.restore(older)
    for run_id in ("a", "b"):
        only = before.model_copy(update={"runs": tuple(head for head in before.runs if head.run_id == run_id)})
        with pytest.raises(CheckpointCorruptedError) as raised:
            await anchored(place, after=only)
        assert (raised.value.reason, raised.value.run_id) == ("contradicts-anchor", run_id)


@pytest.mark.parametrize(
    ("end", "forged_at", "expected"), [("done", 3, "later steps"), ("running", 2, "another step 2")]
)
async def test_an_anchor_is_not_made_of_a_run_that_was_rewritten_or_went_on_after_its_end(
    file: Place, end: Status, forged_at: int, expected: str
) -> None:
    run = chain("a", 3, end=end)
    await file.write(*run)
    before = await anchored(file)
    forged = [following(run[forged_at - 1], executor_id="f" * 32)]
    forged.append(following(forged[0]))
    await file.stand_alone(forged)
    await file.set_tail(forged[-1])
    with pytest.raises(CheckpointCorruptedError, match=expected) as raised:
        await anchored(file, after=before)
    assert raised.value.reason == "contradicts-anchor"


async def test_a_damaged_head_is_not_anchored(file: Place) -> None:
    await file.write(*chain("a", 3))
    await file.put("a", 2, b"\x02\x00{}")
    with pytest.raises(CheckpointCorruptedError, match="'a'"):
        await anchored(file)
    await file.remove("a", 2)
    with pytest.raises(CheckpointCorruptedError, match="the checkpoint is missing"):
        await anchored(file)


async def test_an_unsealed_head_is_not_anchored_where_there_is_a_key(file: Place) -> None:
    await file.write(*chain("a", 3))
    with pytest.raises(CheckpointCorruptedError) as raised:
        await anchored(file, keyring=KEYRING)
    assert raised.value.reason == "unsealed"
