"""A step that is gone, and that no prune removed, is refused by whatever needs it, on every driver."""

from __future__ import annotations

import pytest
from support.graphs import SEQUENCE, graph
from support.memory import MemoryCheckpointer
from support.places import Place

from stargraph.audit import verify
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer
from stargraph.errors import CheckpointCorruptedError
from stargraph.replay import Overlay
from stargraph.runtime import dispatch
from stargraph.transfer import copy_runs

LAST = 3
EACH = range(LAST)


@pytest.fixture
async def finished(place: Place) -> Place:
    """A run of four steps, none of which is decoded from another one."""
    async with place.open() as store:
        run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
        await run.start()
        steps = [record async for record in dispatch.history(store, "r", to_step=LAST)]
    await place.stand_alone(steps)
    return place


async def _replay(store: Checkpointer) -> object:
    return await (await graph(SEQUENCE).start(checkpointer=store, run_id="r")).replay()


async def _fork(store: Checkpointer) -> object:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    return await run.fork(None, Overlay(outputs={"c": {}}))


async def _read(store: Checkpointer) -> object:
    return [record async for record in dispatch.history(store, "r", to_step=LAST)]


READERS = {"replay": _replay, "fork": _fork, "history": _read}


@pytest.mark.parametrize("lost", EACH)
async def test_a_lost_step_is_refused_by_all_that_reads_in_order(finished: Place, lost: int) -> None:
    await finished.remove("r", lost)
    async with finished.open() as store:
        for name, read in READERS.items():
            with pytest.raises(CheckpointCorruptedError) as caught:
                await read(store)
            assert (caught.value.reason, caught.value.run_id, caught.value.step) == ("missing-step", "r", lost), name
        with pytest.raises(CheckpointCorruptedError) as caught:
            await store.read_at_step("r", lost)
        assert caught.value.reason == "missing-step"
        assert await store.read_at_step("r", LAST + 1) is None
        report = await verify(store)
        assert [(found.kind, found.step, found.last_step) for found in report.findings] == [
            ("missing-steps", lost, lost)
        ]
        destination = MemoryCheckpointer()
        await destination.bootstrap()
        copied = await copy_runs(store, destination)
        assert [refusal.reason for refusal in copied.refused] == ["missing-steps"]
        assert not destination.runs


@pytest.mark.parametrize("lost", EACH)
async def test_a_gap_in_a_store_that_prunes_nothing_is_a_loss(lost: int) -> None:
    store, destination = MemoryCheckpointer(), MemoryCheckpointer()
    await store.bootstrap()
    await destination.bootstrap()
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    await run.start()
    store.damage("r", lost, None)
    for read in (_replay, _read):
        with pytest.raises(CheckpointCorruptedError) as caught:
            await read(store)
        assert (caught.value.reason, caught.value.step) == ("missing-step", lost)
    copied = await copy_runs(store, destination)
    assert [refusal.reason for refusal in copied.refused] == ["missing-steps"]
    assert not destination.runs


async def test_a_history_that_ends_too_early_is_a_loss() -> None:
    class Forgetful(MemoryCheckpointer):
        async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
            return None if step == LAST else await super().read_at_step(run_id, step)

        async def read_latest(self, run_id: str) -> Checkpoint | None:
            return self.runs[run_id][-1]

    store = Forgetful()
    await store.bootstrap()
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    await run.start()
    with pytest.raises(CheckpointCorruptedError) as caught:
        await _read(store)
    assert (caught.value.reason, caught.value.step) == ("missing-step", LAST)
