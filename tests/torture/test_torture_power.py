"""Power is lost at random moments while the SQLite driver writes; what was acknowledged is there when it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stargraph_torture import power_cuts, syscalls
from stargraph_torture.folders import folder_in_memory
from stargraph_torture.seeds import short_seed

SEED = short_seed()

pytestmark = [pytest.mark.skipif(bool(syscalls.why_not()), reason=str(syscalls.why_not())), pytest.mark.thorough]


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


async def test_full_loses_nothing(folder: Path) -> None:
    cuts = await power_cuts.cut(power_cuts.record(folder, "full", SEED), folder, states=50, seed=SEED)
    assert not cuts.broken, (SEED, cuts.broken)
    assert cuts.lost == 0, (SEED, cuts)
    assert cuts.checked > 1_000


async def test_normal_loses_the_latest_and_nothing_else(folder: Path) -> None:
    cuts = await power_cuts.cut(power_cuts.record(folder, "normal", SEED), folder, states=50, seed=SEED)
    assert not cuts.broken, (SEED, cuts.broken)
    assert cuts.lost
    assert not cuts.lossy["everything"]


async def test_a_skipped_fsync_is_caught(folder: Path) -> None:
    events = power_cuts.record(folder, "full", SEED, skips_fsync=True)
    cuts = await power_cuts.cut(events, folder, states=50, seed=SEED)
    assert cuts.lost
    assert cuts.lossy["nothing"]
