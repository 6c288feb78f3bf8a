"""RunSearch: find runs by what their summaries say, page by page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import same_runs, same_summary
from stargraph.checkpoint.conformance._expect import Violation, expect, refused_argument
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON, begin, chain, follow
from stargraph.checkpoint.protocol import RunSummary, Status

group: Final = Group("search", needs=("steps.append_and_read", "list_runs.newest_first"), capability="search")

_CONTRACT: Final = "RunSearch"


async def _pages(handle: Handle, **filters: Any) -> list[RunSummary]:
    """Read all pages."""
    items: list[RunSummary] = []
    cursor: str | None = None
    for _ in range(200):
        page = await handle.search(cursor=cursor, **filters)
        items.extend(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return items
    raise Violation("search() still gave a next_cursor after 200 pages")


@group.check(
    "by_status",
    "status finds the runs that stand there now.",
    contract=_CONTRACT,
    usual_cause="Any checkpoint of the run is compared instead of the latest one.",
)
async def by_status(kit: Kit) -> None:
    handle = await kit.open()
    statuses: tuple[Status, ...] = ("running", "awaiting_input", "paused", "done", "failed", "cancelled")
    latest = {}
    for status in statuses:
        steps = chain(f"is-{status}", last_status=status)
        for checkpoint in steps:
            await handle.write(checkpoint)
        latest[status] = steps[-1]
    for status in statuses:
        found = (await handle.search(status=status)).items
        same_runs([f"is-{status}"], found, f"search(status={status!r})")
        same_summary(latest[status], found[0], f"search(status={status!r})")
    await handle.write(follow(latest["paused"], event="resumed", status="running"))
    same_runs([], (await handle.search(status="paused")).items, "search(status='paused') after that run went on")
    found = (await handle.search(status="running")).items
    same_runs(["is-paused", "is-running"], found, "search(status='running') after a paused run went on")


@group.check(
    "by_graph",
    "graph_id finds the runs of exactly that graph.",
    contract=_CONTRACT,
    usual_cause="A prefix, a wildcard or another case matches too.",
)
async def by_graph(kit: Kit) -> None:
    handle = await kit.open()
    graphs = ("triage", "triage2", "Triage", "tri_ge", "tri%", "")
    for number, graph_id in enumerate(graphs):
        await handle.write(begin(f"run-{number}", graph_id=graph_id))
    for number, graph_id in enumerate(graphs[:-1]):
        found = (await handle.search(graph_id=graph_id)).items
        same_runs([f"run-{number}"], found, f"search(graph_id={graph_id!r})")


@group.check(
    "by_metadata",
    "metadata finds the runs that have all these tags with exactly these values.",
    contract=_CONTRACT,
    usual_cause="Tags are searched as text, or their names become a path in a JSON document.",
)
async def by_metadata(kit: Kit) -> None:
    handle = await kit.open()
    tags: dict[str, dict[str, str]] = {
        "a": {"team": "blue", "env": "prod"},
        "b": {"team": "blue2", "env": "prod"},
        "c": {"team": "BLUE"},
        "d": {"blue": "team", "a.b": "1", 'quote"d': "it's"},
        "e": {"a": '{"b": "1"}', "": "", "é": "\u0000", "team": ""},
        "f": {},
    }
    for run_id, metadata in tags.items():
        await handle.write(begin(run_id, metadata=metadata))
    for wanted, metadata in (
        (["a"], {"team": "blue"}),
        (["a", "b"], {"env": "prod"}),
        (["b"], {"env": "prod", "team": "blue2"}),
        (["c"], {"team": "BLUE"}),
        (["d"], {"a.b": "1"}),
        (["d"], {'quote"d': "it's"}),
        (["e"], {"": ""}),
        (["e"], {"é": "\u0000"}),
        (["e"], {"team": ""}),
        ([], {"team": "blu_"}),
        ([], {"team": "blue%"}),
        ([], {"nobody": "blue"}),
        (list(tags), {}),
    ):
        found = (await handle.search(metadata=metadata)).items
        same_runs(wanted, found, f"search(metadata={metadata!r})")


@group.check(
    "filters_combine",
    "A run is found only if it matches everything that is given.",
    contract=_CONTRACT,
    usual_cause="OR instead of AND, or one filter replaces another.",
)
async def filters_combine(kit: Kit) -> None:
    handle = await kit.open()
    number = 0
    for status in ("running", "done"):
        for graph_id in ("g1", "g2"):
            for team in ("red", "blue"):
                number += 1
                fields = {"graph_id": graph_id, "metadata": {"team": team}}
                for checkpoint in chain(
                    f"{status}-{graph_id}-{team}",
                    2,
                    last_status=status,
                    timestamp=NOON + timedelta(hours=number),
                    **fields,
                ):
                    await handle.write(checkpoint)
    found = (await handle.search(status="done", graph_id="g1", metadata={"team": "blue"})).items
    same_runs(["done-g1-blue"], found, "search(status='done', graph_id='g1', metadata={'team': 'blue'})")
    found = (await handle.search(status="running", since=NOON + timedelta(hours=3))).items
    same_runs(["running-g2-blue", "running-g2-red"], found, "search(status='running', since=…)")
    found = (await handle.search(graph_id="g2", metadata={"team": "red"}, limit=1)).items
    same_runs(["done-g2-red"], found, "search(graph_id='g2', metadata={'team': 'red'}, limit=1)")


@group.check(
    "pages",
    "The pages together are the whole answer, each run once, in the order of list_runs.",
    contract=_CONTRACT,
    usual_cause="The cursor holds the time alone, so runs that started at one instant are skipped or repeated.",
)
async def pages(kit: Kit) -> None:
    handle = await kit.open()
    for number in range(23):
        fields = {"timestamp": NOON + timedelta(seconds=number // 5), "metadata": {"odd": str(number % 2)}}
        await handle.write(begin(f"run-{number:02d}", **fields))
    everything = [summary.run_id for summary in await handle.list_runs()]
    for limit in (1, 2, 5, 22, 23, 24):
        same_runs(everything, await _pages(handle, limit=limit), f"the pages of search(limit={limit}) of 23 runs")
        first = await handle.search(limit=limit)
        same_runs(everything[:limit], first.items, f"the first page of search(limit={limit})")
    odd = [run_id for run_id in everything if int(run_id[4:]) % 2]
    found = await _pages(handle, limit=3, metadata={"odd": "1"})
    same_runs(odd, found, "the pages of search(limit=3, metadata={'odd': '1'})")
    expect(not (await handle.search(limit=0)).items, "search(limit=0) gave runs")


@group.check(
    "pages_while_runs_start",
    "Runs that start while pages are read neither repeat nor hide the older ones.",
    contract=_CONTRACT,
    usual_cause="The cursor is an offset.",
    needs=("search.pages",),
)
async def pages_while_runs_start(kit: Kit) -> None:
    handle = await kit.open()
    for number in range(9):
        await handle.write(begin(f"old-{number}", timestamp=NOON + timedelta(seconds=number)))
    wanted = [f"old-{number}" for number in range(8, -1, -1)]
    page = await handle.search(limit=3)
    items = list(page.items)
    turn = 0
    while page.next_cursor is not None and turn < 20:
        turn += 1
        await handle.write(begin(f"new-{turn}", timestamp=NOON + timedelta(days=turn)))
        page = await handle.search(limit=3, cursor=page.next_cursor)
        items.extend(page.items)
    same_runs(wanted, items, "the pages of search(limit=3) while runs started")


@group.check(
    "pages_while_runs_change",
    "Runs that start, older ones too, go on, or are deleted while pages are read, the one that the cursor was made of "
    "among them, neither repeat nor hide the others.",
    contract=_CONTRACT,
    usual_cause="The cursor names a run or a row, and the page begins after it: if it is gone, the page is empty, or "
    "begins anew.",
    needs=("search.pages_while_runs_start",),
)
async def pages_while_runs_change(kit: Kit) -> None:
    for filters in ({}, {"graph_id": "conformance"}, {"status": "running"}):
        location = await kit.fresh_location()
        handle, other = await kit.open(location), await kit.open(location)
        runs = [begin(f"old-{number:02d}", timestamp=NOON + timedelta(seconds=number // 2)) for number in range(16)]
        for checkpoint in runs:
            await handle.write(checkpoint)
        stable = {checkpoint.run_id for checkpoint in runs}
        page = await handle.search(limit=3, **filters)
        seen = list(page.items)
        turn = 0
        while page.next_cursor is not None and turn < 40:
            turn += 1
            await other.write(begin(f"new-{turn}", timestamp=NOON + timedelta(days=turn)))
            await other.write(begin(f"late-{turn}", timestamp=NOON + timedelta(seconds=8 - turn, microseconds=7)))
            moved = seen[0]
            before = await other.read_latest(moved.run_id)
            if before is not None:
                await other.write(follow(before))
            if "deletion" in kit.declared:
                await other.delete_run(seen[-1].run_id)
                stable.discard(seen[-1].run_id)
            page = await handle.search(limit=3, cursor=page.next_cursor, **filters)
            seen.extend(page.items)
        ids = [item.run_id for item in seen]
        what = f"the pages of search(limit=3, {filters}) while runs started, went on and were deleted"
        expect(len(ids) == len(set(ids)), f"{what} gave a run twice: {ids}")
        missing = sorted(stable - set(ids))
        expect(not missing, f"{what} left out {missing}, which were there all the time")
        old = [run_id for run_id in ids if run_id.startswith("old-")]
        wanted = sorted(old, key=lambda run_id: (-(int(run_id[4:]) // 2), run_id))
        expect(old == wanted, f"{what} gave the runs in the order {old}; the contract wants {wanted}")


@group.check(
    "bad_arguments_refused",
    "A naive since, a negative limit and a foreign cursor are refused with a ValueError.",
    contract=_CONTRACT,
    usual_cause="The arguments go to the store unchecked.",
)
async def bad_arguments_refused(kit: Kit) -> None:
    handle = await kit.open()
    await handle.write(begin())
    naive = NOON.replace(tzinfo=None)
    await refused_argument(handle.search(since=naive), "search(since=a naive datetime)")
    await refused_argument(handle.search(limit=-1), "search(limit=-1)")
    for cursor in ("nonsense", "0", "%%%", "é\u0000"):
        await refused_argument(handle.search(cursor=cursor), f"search(cursor={cursor!r})")
