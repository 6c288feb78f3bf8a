"""Hostile names of runs, on every driver: a name is kept apart from all others, or it is no name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.checkpoints import chain

from stargraph.checkpoint.protocol import RunDeletion, is_run_id
from stargraph.errors import CheckpointError
from stargraph_torture.arenas import ARENAS
from stargraph_torture.folders import folder_in_memory
from stargraph_torture.graphs import load_graphs, write_graphs
from stargraph_torture.recorder import Store
from stargraph_torture.seeds import short_seed

pytestmark = pytest.mark.thorough

SEED = short_seed()

NASTY = [
    *["A", "a", "0", "a.", "a..", "a...b", "a-", "a:", "a::b", "a_", "con", "nul.txt", "CON:"],
    *["select", "drop-table.runs", "runs", "checkpoints", "null", "None", "true", "1e9"],
    *["z" * 200, "Z" * 200, "a" + ":" * 199, "a" + "." * 199, "stargraph.json", "index", "a.sqlite-wal", "0.0"],
]
HOSTILE = [
    *[
        "",
        " ",
        "a ",
        " a",
        "a/b",
        "../x",
        "a\\b",
        ".",
        "..",
        "-a",
        "_a",
        ":a",
        "a\0",
        "\0",
        "a\n",
        "a\tb",
        "é",
        "a\u0301",
    ],
    *[
        "ａ",
        "a\u200b",
        "\ud800",
        "a\udcff",
        "a%2Fb",
        "a%",
        "a*",
        "a?",
        "a'b",
        'a"b',
        "a;--",
        "$a",
        "{a}",
        "a b",
        "a" * 201,
    ],
    *["a" * 100_000, "\u202ea", "a\x7f", "٣", "a,b", "a=b", "a&b", "a#b", "a@b", "a|b", "<a>", "a\r\nHost: x"],
]


def names(rng: random.Random, count: int) -> list[str]:
    alphabet = "abAB01._:-/ %\0é\n'\"\\"
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize(
    "driver", ["sqlite", *(pytest.param(driver, marks=pytest.mark.slow) for driver in ("postgres", "s3"))]
)
async def test_a_name_is_kept_apart_from_all_others_or_is_none(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graphs(tmp_path)
    graph = load_graphs(tmp_path)["map"]
    some = names(random.Random(SEED), 60)
    good = [*NASTY, *dict.fromkeys(name for name in some if is_run_id(name) and name not in NASTY)]
    bad = [*HOSTILE, *(name for name in some if not is_run_id(name))]
    assert all(is_run_id(name) for name in good)
    with folder_in_memory() as folder:
        async with ARENAS[driver](folder) as arena:
            for name, value in arena.environment.items():
                monkeypatch.setenv(name, value)
            store = arena.open_at_rest()
            await store.bootstrap()
            await keep_apart(store, good)
            for name in bad:
                assert await store.read_latest(name) is None
                assert await store.read_at_step(name, 0) is None
                assert [step async for step in store.history(name)] == []
                assert isinstance(store, RunDeletion)
                assert not await store.delete_run(name)
                with pytest.raises(CheckpointError) as refused:
                    await graph.start(checkpointer=store, run_id=name)
                assert refused.value.reason == "invalid-run-id"
                assert len(str(refused.value)) < 500
            assert len(await store.list_runs(limit=1_000)) == len(good)
            await store.close()


async def keep_apart(store: Store, good: list[str]) -> None:
    logs = {name: chain(2, run_id=name, state={"me": name}) for name in good}
    for log in logs.values():
        await store.write_many(log)
    for name, log in logs.items():
        assert [step async for step in store.history(name)] == log
        latest = await store.read_latest(name)
        assert latest is not None
        assert latest.state["me"] == name
    assert {summary.run_id for summary in await store.list_runs(limit=1_000)} == set(good)
