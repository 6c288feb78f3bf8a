"""Verifying runs: the log alone, against the list of runs, and against an anchor kept elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from types import NoneType

from stargraph.audit._anchor import Anchor, Head
from stargraph.audit._reports import Finding, Note, RunReport, VerifyReport
from stargraph.audit._walk import Walk
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.driver import RecordBases
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunSummary, StepRange
from stargraph.errors import CheckpointCorruptedError
from stargraph.runtime._given import (
    as_run_ids,
    check_callable,
    check_checkpointer,
    check_flags,
    check_keyring,
    check_type,
)
from stargraph.runtime._reading import Progress, Tally, Unreadable, all_runs, each, find_summary, read_latest, steps
from stargraph.runtime._tree import with_children
from stargraph.runtime.dispatch import run_not_found_error


async def verify(
    store: Checkpointer,
    run_ids: Iterable[str] | None = None,
    *,
    children: bool = True,
    keyring: Keyring | None = None,
    anchor: Anchor | None = None,
    progress: Progress | None = None,
    on_run: Callable[[RunReport], object] | None = None,
) -> VerifyReport:
    """Read runs from their first step to their last and report everything that is not as it was written.

    Nothing is changed, and runs may be written meanwhile: what looks wrong is read again before it is reported.

    Args:
        run_ids: the runs; None for all of the store, and all of the anchor.
        children: verify the child runs of named runs too.
        keyring: checks the seals; without it, somebody who can write to the store can forge a whole chain.
        anchor: the heads at an earlier time, kept where nobody who can write to the store can write.
        progress: called from time to time with the numbers of runs and steps done.
        on_run: called with the report of each run.

    Raises:
        CheckpointNotFoundError: a run that was asked for is neither in the store nor in the anchor.
        StoreUnavailableError: the store cannot be read.
    """
    check_flags(children=children)
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_type(anchor, "anchor", (Anchor, NoneType), "an Anchor, as Anchor.from_json(…) reads one")
    check_callable(progress, "progress", "a function of the numbers of runs and steps, or None")
    check_callable(on_run, "on_run", "a function of a RunReport, or None")
    heads = {} if anchor is None else {head.run_id: head for head in anchor.runs}
    wanted: list[str] | None = None
    if run_ids is not None:
        family = with_children(store, as_run_ids(run_ids), children=children, parent_first=True)
        wanted = [run_id async for run_id in family]
    tally = Tally(progress)
    findings: list[Finding] = []
    notes: list[Note] = []
    seals: Counter[str] = Counter()

    async def look(run: RunSummary | str) -> RunReport | None:
        summary = run if isinstance(run, RunSummary) else None
        run_id = run if isinstance(run, str) else run.run_id
        return await verify_run(
            store, run_id, keyring=keyring, anchored=heads.get(run_id), summary=summary, on_step=tally.step
        )

    async def runs() -> AsyncGenerator[RunSummary | str]:
        seen: set[str] = set()
        try:
            async with aclosing(all_runs(store)) as listed:
                async for summary in listed:
                    seen.add(summary.run_id)
                    yield summary
        except CheckpointCorruptedError as error:
            message = f"{error.message}; runs that are listed after it are looked at only if an anchor names them"
            findings.append(Finding(kind="listing-unreadable", run_id=error.run_id, message=message))
        for run_id in heads:
            if run_id not in seen:
                yield run_id

    async def named() -> AsyncGenerator[str]:
        for run_id in wanted or ():
            yield run_id

    async with aclosing(each(runs() if wanted is None else named(), look)) as reports:
        number = sound = 0
        async for report in reports:
            number += 1
            if report is None:
                if wanted is None:  # deleted since it was listed
                    continue
                raise run_not_found_error(wanted[number - 1])
            if anchor is not None and report.run_id not in heads:
                report = _unanchored(report, anchor)
            if not report.is_missing:
                tally.run()
            sound += report.steps
            seals.update(report.seals)
            findings += report.findings
            notes += report.notes
            if on_run is not None:
                on_run(report)
    return VerifyReport(
        runs=tally.runs,
        steps=sound,
        seals=dict(seals),
        anchored=None if anchor is None else len(heads),
        findings=tuple(findings),
        notes=tuple(notes),
    )


async def verify_run(
    store: Checkpointer,
    run_id: str,
    *,
    keyring: Keyring | None = None,
    anchored: Head | None = None,
    summary: RunSummary | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> RunReport | None:
    """Read one run and report what is not as it was written.

    Args:
        keyring: checks the seals.
        anchored: its head in an anchor, or None.
        summary: its entry in the store's list of runs; looked up if None.
        on_step: called for each step.

    Returns:
        The report, or None if neither the store nor an anchor knows the run.

    Raises:
        StoreUnavailableError: the store cannot be read.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    look = _Look(store, run_id, keyring, anchored)
    report = await look.once(summary, look_up=summary is None, on_step=on_step)
    if report is not None and report.findings:
        # A prune, a deletion or the next steps of a live run may have come between two of the reads.
        await look.find_bases()
        report = await look.once(summary, look_up=True, on_step=lambda: None)
    return report


class _Look:
    def __init__(self, store: Checkpointer, run_id: str, keyring: Keyring | None, anchored: Head | None) -> None:
        self._store = store
        self._run_id = run_id
        self._keyring = keyring
        self._anchored = anchored
        self._stored: tuple[StepRange, ...] = ()
        self._bases: frozenset[int] = frozenset()

    async def find_bases(self) -> None:
        """Ask the driver, if it can say so, which steps a prune leaves because others are decoded from them."""
        store = self._store
        if not isinstance(store, RecordBases) or len(self._stored) < 2:
            return
        left = [step for span in self._stored[:-1] for step in range(span.first, span.last + 1)]
        found: set[int] = set()
        for step in [*left, self._stored[-1].first]:
            found.update(await store.decoded_from(self._run_id, step))
        self._bases = frozenset(found)

    async def once(
        self, summary: RunSummary | None, *, look_up: bool, on_step: Callable[[], object]
    ) -> RunReport | None:
        """Walk the run once; with `look_up`, ask the list for what it says of the run now."""
        latest = await self._latest()
        walk = Walk(self._run_id, keyring=self._keyring, bases=self._bases)
        at_least = latest.step if isinstance(latest, Checkpoint) else 0
        if look_up:
            known = latest if isinstance(latest, Checkpoint) else summary
            summary = None if known is None else await self._listed(known, walk)
            # A live run may have moved on: what the list says lies between the two.
            latest = await self._latest()
        walk.mark(summary, self._anchored)
        end = latest.step if isinstance(latest, Checkpoint) else None
        async with aclosing(steps(self._store, self._run_id, to_step=end)) as items:
            async for item in items:
                if isinstance(item, Checkpoint) or not item.is_missing:
                    walk.take(item)
                    on_step()
                elif end is not None:
                    walk.miss(item.step)
        self._stored = walk.stored
        if not walk.stored and latest is None and summary is None:
            if self._anchored is None:
                return None
            walk.find(
                "run-missing", f"the anchor knows it up to step {self._anchored.step}, and the store has no such run"
            )
            return walk.report()
        walk.finish()
        if isinstance(latest, Checkpoint):
            await self._look_beyond(latest, walk)
        elif latest is None:
            listed_to = f", which the list of runs shows up to step {summary.last_step}" if summary else ""
            walk.find("truncated", f"the store has no latest step of the run{listed_to}", walk.end + 1)
        elif not walk.findings:
            walk.find("unreadable", latest.message, latest.step)
        if summary is not None and latest is not None:
            walk.compare_summary(summary, at_least)
        if self._anchored is not None:
            walk.compare_head(self._anchored)
        return walk.report()

    async def _latest(self) -> Checkpoint | Unreadable | None:
        found = await read_latest(self._store, self._run_id)
        return None if isinstance(found, Unreadable) and found.is_missing else found

    async def _listed(self, known: Checkpoint | RunSummary, walk: Walk) -> RunSummary | None:
        try:
            found = await find_summary(self._store, known, status=known.status)
            if found is None:
                found = await find_summary(self._store, known)
                latest = await read_latest(self._store, self._run_id)
                if found is not None and isinstance(latest, Checkpoint) and latest.status == known.status:
                    walk.find("summary-differs", f"a search for runs that are {known.status} does not show it")
        except LookupError:
            walk.note("summary-not-compared", "the list of runs is too long to look for the run's summary in it")
            return None
        except CheckpointCorruptedError as error:
            if error.run_id in (None, self._run_id):
                walk.find("summary-differs", error.message)
            else:
                walk.note("summary-not-compared", f"the list of runs cannot be read: {error.message}")
            return None
        if found is None and isinstance(known, Checkpoint):
            walk.find("summary-differs", "the list of runs does not show it under its graph, tags and start")
        return found

    async def _look_beyond(self, latest: Checkpoint, walk: Walk) -> None:
        async with aclosing(steps(self._store, self._run_id, from_step=latest.step + 1)) as further:
            async for item in further:
                now = await read_latest(self._store, self._run_id)
                if now is None or now.step < item.step:
                    walk.find("beyond-the-end", f"it is stored, and the run's latest step is {latest.step}", item.step)
                return


def _unanchored(report: RunReport, anchor: Anchor) -> RunReport:
    if report.started_at is None or report.started_at >= anchor.made_at:
        return report
    note = Note(
        kind="not-in-anchor",
        run_id=report.run_id,
        message="it started before the anchor was made, and the anchor does not name it: copied, imported or forged",
    )
    return report.model_copy(update={"notes": (*report.notes, note)})
