"""What a large state costs the event loop of the program: requests and decoding are in threads of the handle."""

from __future__ import annotations

import pytest
from support.loop_clock import LARGE_SHAPES, clocked, large_states
from support.records import first, following
from support.s3.stores import Stores

pytestmark = [pytest.mark.thorough, pytest.mark.slow]  # it asserts milliseconds of CPU


@pytest.mark.parametrize("shape", LARGE_SHAPES)
async def test_a_state_of_20_megabytes_never_holds_the_loop(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    run = [first("run", state=large_states(shape))]
    run += [following(run[0], changes={"n": 1})]
    held = {}
    with clocked(monkeypatch) as clock:
        async with stores.handle() as writer, stores.handle() as reader:
            await writer.list_runs()
            await reader.list_runs()
            await clock.take()
            for checkpoint in run:
                await writer.write(checkpoint)
                held[f"write step {checkpoint.step}"] = await clock.take()
            latest = await reader.read_latest("run")
            held["read_latest"] = await clock.take()
            step = await reader.read_at_step("run", 0)
            held["read_at_step"] = await clock.take()
            steps = [checkpoint async for checkpoint in reader.history("run")]
            held["history"] = await clock.take()
    assert (step, latest) == (run[0], run[1])
    assert steps == run
    assert all(seconds < 0.005 for seconds in held.values()), held
