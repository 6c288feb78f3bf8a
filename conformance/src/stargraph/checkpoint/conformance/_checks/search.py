"""RunSearch: find runs by what their summaries say, page by page."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta, timezone
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import same_runs, same_summary
from stargraph.checkpoint.conformance._expect import Violation, expect, refused_argument, together
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LINES, NOON, begin, chain, follow
from stargraph.checkpoint.conformance._views import pages
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Interrupt, QueueEntry, Status

group: Final = Group("search", needs=("steps.append_and_read", "list_runs.newest_first"), capability="search")

_ZONES: Final = tuple(timezone(timedelta(hours=hours)) for hours in (13, -11, 0, 5.5))
"""Of the bounds of a search: by the clock of most of them, it is another day."""


@group.check(
    "by_run_id_prefix",
    "run_id_prefix finds the runs whose id begins with it, by its very characters, however many these are.",
    contract="search.1, search.3, count_runs.1",
    usual_cause="The prefix goes into a pattern, in which some characters stand for others, or into an index of short "
    "texts, or case is ignored.",
    version=2,
)
async def by_run_id_prefix(kit: Kit) -> None:
    handle = await kit.open()
    long = "l" * 190
    run_ids = ["a_b", "a_b:1", "a_b.c", "axb", "A_b", "b_a_b", "a_", "a_c", f"{long}:here", f"{long}:there"]
    for run_id in run_ids:
        await handle.write(begin(run_id))
    for prefix in ("a_b", "a_b:", "a_b.c", "a_", "a", "A", "a%", "a*", "a_b\0", "~", "é", "a_bc", "", f"{long}:t"):
        wanted = sorted(run_id for run_id in run_ids if run_id.startswith(prefix))
        same_runs(wanted, await pages(handle, run_id_prefix=prefix, limit=2), f"search(run_id_prefix={prefix!r})")
        counted = sum((await handle.count_runs(run_id_prefix=prefix)).values())
        expect(counted == len(wanted), f"count_runs(run_id_prefix={prefix!r}) gave {counted}; {len(wanted)} runs match")
    same_runs(["a_b"], (await handle.search(run_id_prefix="a_b", limit=1)).items, "the first page of a prefix")


@group.check(
    "by_status",
    "status finds the runs that stand there now.",
    contract="search.1",
    usual_cause="Any checkpoint of the run is compared instead of the latest one.",
    version=2,
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
    found = (await handle.search(status=["done", "failed"])).items
    same_runs(["is-done", "is-failed"], found, "search(status=['done', 'failed'])")
    found = (await handle.search(status=["done", "done"])).items
    same_runs(["is-done"], found, "search(status=['done', 'done'])")
    same_runs([], (await handle.search(status=[])).items, "search(status=[]), which no run has")


@group.check(
    "by_graph",
    "graph_id finds the runs of exactly that graph.",
    contract="search.1, search.3",
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
    contract="search.1, search.3",
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
        # More than the tables that most databases join in one statement.
        "g": {f"tag {number}": str(number) for number in range(100)},
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
        (["g"], tags["g"]),
        ([], tags["g"] | {"tag 50": "51"}),
        (list(tags), {}),
    ):
        found = (await handle.search(metadata=metadata)).items
        same_runs(wanted, found, f"search(metadata={metadata!r})")


_ALIKE: Final = (
    "Alpha",
    "alpha",
    "Alpha ",
    " Alpha",
    "Alpha\u0000",
    "Alph\u00e4",
    "Alpha\u0308",
    "Alph\u0061\u200b",
    "\uff21lpha",
    "Alph_",
    "Alph%",
    "Alpha*",
    "Alpha\\",
    "Alpha'",
    'Alpha"',
    "Alpha;",
    "1",
    "1.0",
    "01",
    "true",
    "null",
    "\U0001f600",
    "\U0001f601",
    "stra\u00dfe",
    "strasse",
    "\u0130",
    "i",
    LINES,
)
"""Texts of which a collation, a wildcard, a cast or a string that ends at NUL takes some for the same."""


@group.check(
    "exact_text",
    "A filter that is text finds exactly the runs with that text, whichever filter it is, and counts them.",
    contract="search.3, count_runs.1",
    usual_cause="The column's collation ignores case, accents or blanks at the end, the text goes into LIKE, or it is "
    "normalised or cast to a number on its way.",
    version=2,
    needs=("search.by_graph", "search.by_metadata"),
)
async def exact_text(kit: Kit) -> None:
    handle = await kit.open()
    for number, text in enumerate(_ALIKE):
        first = begin(f"run-{number:02d}", graph_id=text, metadata={"value": text, f"name {text}": "x"})
        await handle.write(first)
        error = ErrorInfo(type="ValueError", message="broken", reason=text, node="work")
        await handle.write(follow(first, event="failed", status="failed", error=error))
    for number, text in enumerate(_ALIKE):
        filters: tuple[dict[str, Any], ...] = (
            {"graph_id": text, "limit": 2**70},
            {"error_reason": text},
            {"metadata": {"value": text}},
            {"metadata": {f"name {text}": "x"}},
        )
        for given in filters:
            what = f"search({', '.join(f'{name}={value!r}' for name, value in given.items())})"
            same_runs([f"run-{number:02d}"], (await handle.search(**given)).items, what)
        counted = await handle.count_runs(graph_id=text)
        expect(counted == {"failed": 1}, f"count_runs(graph_id={text!r}) gave {counted}; one run has that graph")
    # Put together with a separator that a name may hold, two tags would be one text.
    for sign in ("=", ":", "/", "\u0000"):
        await handle.write(begin(f"tagged-{ord(sign)}", metadata={f"a{sign}b": "c"}))
        for given in ({"a": f"b{sign}c"}, {f"a{sign}b{sign}c": ""}, {"": f"a{sign}b{sign}c"}):
            same_runs([], (await handle.search(metadata=given)).items, f"search(metadata={given!r})")


@group.check(
    "defaults",
    "search() alone gives at most 100 runs, those that started last first, whichever went on last; count_runs counts "
    "all of them.",
    contract="search.1, search.2, count_runs.1",
    usual_cause="The defaults were not taken over, a page holds as many runs as the store below gives, or the runs of "
    "one page are counted.",
    version=2,
    needs=("search.pages",),
)
async def defaults(kit: Kit) -> None:
    handle = await kit.open()
    runs = [chain(f"run-{number:03d}", 2, timestamp=NOON + timedelta(minutes=number)) for number in range(103)]
    await together(*(handle.write(steps[0]) for steps in runs))
    for steps in runs[:3]:
        await handle.write(follow(steps[0], timestamp=NOON + timedelta(days=1)))
    page = await handle.search()
    wanted = [f"run-{number:03d}" for number in range(102, 2, -1)]
    same_runs(wanted, page.items, "search() of 103 runs")
    rest = await handle.search(cursor=page.next_cursor)
    same_runs(["run-002", "run-001", "run-000"], rest.items, "the second page of search() of 103 runs")
    for given in ({}, {"graph_id": "conformance"}):
        counted = await handle.count_runs(**given)
        expect(counted == {"running": 103}, f"count_runs({given}) of 103 runs that are running gave {counted}")


@group.check(
    "by_update",
    "order='updated', updated_since and updated_before go by the time of the latest step, even if the clock of whoever "
    "wrote it was behind, and whatever time zone they have.",
    contract="search.1",
    usual_cause="The latest of all times is kept, or the time at which the row was stored; or the cursor holds the "
    "time alone, so that runs of one instant are skipped or repeated; or a bound loses its time zone.",
    version=2,
    needs=("search.pages",),
)
async def by_update(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    latest: dict[str, Checkpoint] = {}
    for number in kit.random.sample(range(20), 20):
        first = begin(f"run-{number:02d}", timestamp=NOON + timedelta(seconds=number))
        # Some go on by a clock that is behind, and three at a time at one instant.
        hours = -5 if number % 4 == 0 else 5
        second = follow(first, timestamp=NOON + timedelta(hours=hours, microseconds=number // 3))
        for checkpoint in (first, second):
            await handle.write(checkpoint)
        latest[first.run_id] = second
    by_id = sorted(latest.values(), key=lambda checkpoint: checkpoint.run_id)
    wanted = [each.run_id for each in sorted(by_id, key=lambda checkpoint: checkpoint.timestamp, reverse=True)]
    for limit in (1, 3, 7, 20, 100):
        what = f"the pages of search(order='updated', limit={limit})"
        same_runs(wanted, await pages(other, order="updated", limit=limit), what)
    for number, moment in enumerate(sorted({checkpoint.timestamp for checkpoint in latest.values()})):
        bound = moment.astimezone(_ZONES[number % len(_ZONES)])
        later = [run_id for run_id in wanted if latest[run_id].timestamp >= bound]
        earlier = [run_id for run_id in wanted if latest[run_id].timestamp < bound]
        at = bound.isoformat()
        since = await pages(other, order="updated", limit=6, updated_since=bound)
        same_runs(later, since, f"the pages of search(order='updated', updated_since={at})")
        before = await pages(other, order="updated", limit=6, updated_before=bound)
        same_runs(earlier, before, f"the pages of search(order='updated', updated_before={at})")


@group.check(
    "by_due_time",
    "due_before finds the runs that wait for a time before it, whatever its time zone, queued ones too, as long as "
    "they wait.",
    contract="search.1, count_runs.1",
    usual_cause="A run without a due time counts as due, the bound itself counts as before it or loses its time zone, "
    "or the time stays in the index after the run has gone on.",
    version=2,
    needs=("search.pages", "list_runs.due_times"),
)
async def by_due_time(kit: Kit) -> None:
    handle = await kit.open()
    due: dict[str, timedelta] = {}  # the newest run first
    question = Interrupt(id="q", task_id="t", node="n", prompt="Well?", asked_at=NOON)
    await handle.write(begin("at-work"))
    for number, seconds in enumerate((30, 10, 10, 20)):
        first = begin(f"waits-{number}", timestamp=NOON - timedelta(days=number))
        moments = (NOON + timedelta(days=9), NOON + timedelta(seconds=seconds, microseconds=number))
        waits = [
            Interrupt(id=f"w-{index}", task_id=f"t-{index}", node="n", prompt="wait", asked_at=NOON, due_at=moment)
            for index, moment in enumerate(moments)
        ]
        for checkpoint in (first, follow(first, status="awaiting_input", interrupts=(*waits, question))):
            await handle.write(checkpoint)
        due[first.run_id] = timedelta(seconds=seconds, microseconds=number)
    asks = begin("asks")
    for checkpoint in (asks, follow(asks, status="awaiting_input", interrupts=(question,))):
        await handle.write(checkpoint)
    entry = QueueEntry(not_before=NOON + timedelta(seconds=15))
    await handle.write(begin("queued-later", status="queued", queue=entry, timestamp=NOON - timedelta(days=4)))
    await handle.write(begin("queued-now", status="queued", queue=QueueEntry()))
    due["queued-later"] = timedelta(seconds=15)

    async def found_as_wanted(when: str) -> None:
        for number, bound in enumerate(sorted({timedelta(0), *due.values(), timedelta(days=1)})):
            wanted = [run_id for run_id, moment in due.items() if moment < bound]
            instant = (NOON + bound).astimezone(_ZONES[number % len(_ZONES)])
            what = f"(due_before={instant.isoformat()}) {when}"
            same_runs(wanted, await pages(handle, limit=2, due_before=instant), f"search{what}")
            by_status = Counter("awaiting_input" if run_id.startswith("waits") else "queued" for run_id in wanted)
            counted = await handle.count_runs(due_before=instant)
            expect(counted == dict(by_status), f"count_runs{what} gave {counted}; {len(wanted)} runs are due")

    await found_as_wanted("of runs that wait")
    for run_id in ("waits-1", "queued-later"):
        latest = await handle.read_latest(run_id)
        if latest is None:
            raise Violation(f"read_latest({run_id!r}) gave None; the run is stored")
        await handle.write(follow(latest, status="running", interrupts=()))
        del due[run_id]
    await found_as_wanted("after two of them went on")


@group.check(
    "filters_combine",
    "A run is found only if it matches everything that is given.",
    contract="search.1",
    usual_cause="OR instead of AND, or one filter replaces another.",
)
async def filters_combine(kit: Kit) -> None:
    handle = await kit.open()
    number = 0
    for status in ("running", "done"):
        for graph_id in ("g1", "g2"):
            for team in ("red", "blue"):
                number += 1
                fields: dict[str, Any] = {"graph_id": graph_id, "metadata": {"team": team}}
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
    "bad_arguments_refused",
    "A naive since, a negative limit and a foreign cursor are refused with a ValueError.",
    contract="list.4, search.5",
    usual_cause="The arguments go to the store unchecked.",
)
async def bad_arguments_refused(kit: Kit) -> None:
    handle = await kit.open()
    await handle.write(begin())
    naive = NOON.replace(tzinfo=None)
    await refused_argument(handle.search(since=naive), "search(since=a naive datetime)")
    await refused_argument(handle.search(due_before=naive), "search(due_before=a naive datetime)")
    await refused_argument(handle.search(limit=-1), "search(limit=-1)")
    for cursor in ("nonsense", "0", "%%%", "é\u0000"):
        await refused_argument(handle.search(cursor=cursor), f"search(cursor={cursor!r})")
