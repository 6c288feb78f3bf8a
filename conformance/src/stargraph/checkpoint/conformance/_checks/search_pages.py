"""RunSearch: pages that together are the whole answer, whatever happens while they are read."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from stargraph.checkpoint.conformance._checks import search
from stargraph.checkpoint.conformance._compare import same_runs
from stargraph.checkpoint.conformance._expect import expect
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import NOON, begin, follow
from stargraph.checkpoint.conformance._views import pages as all_pages

group: Final = search.group
"""The same group: what these checks prove belongs to the capability, and their ids stay."""


@group.check(
    "pages",
    "The pages together are the whole answer, each run once, in the order of list_runs.",
    contract="search.1, search.2",
    usual_cause="The cursor holds the time alone, so runs that started at one instant are skipped or repeated.",
)
async def pages(kit: Kit) -> None:
    handle = await kit.open()
    for number in range(23):
        fields = {"timestamp": NOON + timedelta(seconds=number // 5), "metadata": {"odd": str(number % 2)}}
        await handle.write(begin(f"run-{number:02d}", **fields))
    everything = [summary.run_id for summary in await handle.list_runs()]
    for limit in (1, 2, 5, 22, 23, 24):
        same_runs(everything, await all_pages(handle, limit=limit), f"the pages of search(limit={limit}) of 23 runs")
        first = await handle.search(limit=limit)
        same_runs(everything[:limit], first.items, f"the first page of search(limit={limit})")
    odd = [run_id for run_id in everything if int(run_id[4:]) % 2]
    found = await all_pages(handle, limit=3, metadata={"odd": "1"})
    same_runs(odd, found, "the pages of search(limit=3, metadata={'odd': '1'})")
    expect(not (await handle.search(limit=0)).items, "search(limit=0) gave runs")


@group.check(
    "pages_while_runs_start",
    "Runs that start while pages are read neither repeat nor hide the older ones.",
    contract="search.4",
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
    contract="search.4",
    usual_cause="The cursor names a run or a row, and the page begins after it: if it is gone, the page is empty, or "
    "begins again.",
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
    "pages_by_update_while_runs_change",
    "Runs that start, go on or are deleted while pages are read by last update neither repeat nor hide the others.",
    contract="search.1, search.4",
    usual_cause="The cursor counts rows, or names a run that has moved to the front meanwhile.",
    needs=("search.pages_while_runs_change", "search.by_update"),
)
async def pages_by_update_while_runs_change(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = [begin(f"old-{number:02d}", timestamp=NOON + timedelta(seconds=number // 2)) for number in range(20)]
    for checkpoint in runs:
        await handle.write(checkpoint)
    stable = [
        checkpoint.run_id for checkpoint in sorted(runs, key=lambda run: (-run.timestamp.timestamp(), run.run_id))
    ]
    page = await handle.search(limit=3, order="updated")
    seen = [item.run_id for item in page.items]
    turn = 0
    while page.next_cursor is not None and turn < 40:
        turn += 1
        later = NOON + timedelta(days=turn)
        await other.write(begin(f"new-{turn}", timestamp=later))
        last = await other.read_latest(seen[-1])
        if turn % 2 and last is not None:
            await other.write(follow(last, timestamp=later))
        elif "deletion" in kit.declared:
            await other.delete_run(seen[-1])
        page = await handle.search(limit=3, cursor=page.next_cursor, order="updated")
        seen.extend(item.run_id for item in page.items)
    what = "the pages of search(limit=3, order='updated') while runs started, went on and were deleted"
    expect(seen == stable, f"{what} gave {seen}; the contract wants {stable}")
