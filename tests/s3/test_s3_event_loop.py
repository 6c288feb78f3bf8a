"""What a large state costs the event loop of the program: requests and decoding are in threads of the handle."""

from __future__ import annotations

import pytest
from support.loop_work import LARGE_SHAPES, MEGABYTE, counted_work, large_states
from support.records import first, following
from support.s3.stores import Stores

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("shape", LARGE_SHAPES)
async def test_a_state_of_20_megabytes_is_worked_on_beside_the_loop(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    run = [first("run", state=large_states(shape))]
    run += [following(run[0], changes={"n": 1})]
    seen = {}
    with counted_work(monkeypatch) as work:
        async with stores.handle() as writer, stores.handle() as reader:
            work.take()
            for checkpoint in run:
                await writer.write(checkpoint)
                seen[f"write step {checkpoint.step}"] = work.take()
            latest = await reader.read_latest("run")
            seen["read_latest"] = work.take()
            step = await reader.read_at_step("run", 0)
            seen["read_at_step"] = work.take()
            steps = [checkpoint async for checkpoint in reader.history("run")]
            seen["history"] = work.take()
    assert (step, latest) == (run[0], run[1])
    assert steps == run
    assert all(here < MEGABYTE // 4 for here, _ in seen.values()), seen
    assert {what for what, (_, elsewhere) in seen.items() if elsewhere > 16 * MEGABYTE} == set(seen) - {"write step 1"}
