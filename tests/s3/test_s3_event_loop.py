"""What a large state costs the event loop of the program: requests and decoding are in threads of the handle."""

from __future__ import annotations

import pytest
from support.loop_work import LARGE_SHAPES, check_large_run, counted_work, large_states
from support.records import first, following
from support.s3.stores import Stores

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("shape", LARGE_SHAPES)
async def test_a_state_of_20_megabytes_is_worked_on_beside_the_loop(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    run = [first("run", state=large_states(shape))]
    run += [following(run[0], changes={"n": 1})]
    with counted_work(monkeypatch) as work:
        async with stores.handle() as writer, stores.handle() as reader:
            await check_large_run(work, writer, reader, run)
