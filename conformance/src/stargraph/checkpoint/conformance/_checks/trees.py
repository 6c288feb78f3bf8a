"""RunTree: the direct child runs of a run, and what a removal does to relatives."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, get_args

from stargraph.checkpoint.conformance._compare import same_runs, show
from stargraph.checkpoint.conformance._expect import expect
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, NOON, chain, follow
from stargraph.checkpoint.conformance._views import Book, lists_agree, pages, runs_agree, trees_agree
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Origin, PruneReport, Status

group: Final = Group("trees", needs=("steps.append_and_read", "list_runs.newest_first"), capability="trees")

_DONE: Final[tuple[Status, ...]] = ("done",)
_CANCELLED: Final[tuple[Status, ...]] = ("cancelled",)


def _family(prefix: str, *, status: Status) -> list[list[Checkpoint]]:
    """A run with that status, a child, a fork, and a child and a fork of that child; all but the first are done."""

    def relative(name: str, parent: str, origin: Origin, minutes: int) -> list[Checkpoint]:
        fields: dict[str, Any] = {"parent_run_id": f"{prefix}-{parent}", "parent_step": 0, "origin": origin}
        moment = NOON + timedelta(minutes=minutes)
        return chain(f"{prefix}-{name}", 3, last_status="done", timestamp=moment, **fields)

    return [
        chain(f"{prefix}-root", 3, last_status=status),
        relative("child", "root", "subgraph", 2),
        relative("second", "root", "subgraph", 2),
        relative("fork", "root", "fork", 1),
        relative("grandchild", "child", "subgraph", 3),
        relative("fork-of-child", "child", "fork", 0),
    ]


@group.check(
    "children_alone",
    "children gives the child runs of a run, in the order of list_runs: no forks, no grandchildren.",
    contract="children.1",
    usual_cause="Every run with that parent counts, or the whole tree below it.",
)
async def children_alone(kit: Kit) -> None:
    handle, other, book = await kit.open(), await kit.open(), Book()
    for steps in (*_family("a", status="running"), *_family("b", status="done")):
        for checkpoint in steps:
            await handle.write(checkpoint)
            book.wrote(checkpoint)
    for reader in (handle, other):
        await trees_agree(reader, book.summaries(), book.gone, "of runs with children and forks")
        roots = [item.run_id for item in book.summaries() if item.origin != "subgraph"]
        if "search" in kit.declared:
            found = await pages(reader, roots_only=True)
            same_runs(roots, found, "search(roots_only=True) of runs with children and forks")
        for nobody in ("nobody", "a", "a-roo"):
            expect(await reader.children(nobody) == [], f"children({nobody!r}) of an unknown run gave runs")


@group.check(
    "awaited_children",
    "prune(keep_last=0) spares a child run for as long as its parent is stored and has not ended, whatever that one's "
    "status is, and spares no fork.",
    contract="prune.2",
    usual_cause="A parent that failed or is paused counts as one that has ended, or one that is gone as one that has "
    "not.",
    needs=("deletion.keep_last_zero_removes", "deletion.prune_one_run", "deletion.prune_dry_run"),
    capability="deletion",
)
async def awaited_children(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    parents = {f"is-{status}": chain(f"is-{status}", 2, last_status=status) for status in get_args(Status)}
    parents["deleted"] = chain("deleted", 2)
    relatives: dict[str, list[Checkpoint]] = {}
    for parent in (*parents, "unknown"):
        for origin in get_args(Origin):
            run_id = f"{origin}-of-{parent}"
            relatives[run_id] = chain(run_id, 2, last_status="done", parent_run_id=parent, parent_step=0, origin=origin)
    for steps in (*parents.values(), *relatives.values()):
        for checkpoint in steps:
            await handle.write(checkpoint)
    await handle.delete_run("deleted")
    awaited = {f"subgraph-of-is-{status}" for status in get_args(Status) if status not in ENDED}
    for run_id in sorted(awaited):
        report = await other.prune(older_than=LATER, keep_last=0, statuses=_DONE, run_id=run_id)
        expect(report.runs == 0, f"prune(run_id={run_id!r}, keep_last=0) reported {show(report)}; its parent goes on")
    # The parent that is done goes too, before or after its child.
    gone = {"is-done", *(relatives.keys() - awaited)}
    planned = await other.prune(older_than=LATER, keep_last=0, statuses=_DONE, dry_run=True)
    done = await other.prune(older_than=LATER, keep_last=0, statuses=_DONE)
    for report, dry_run in ((planned, True), (done, False)):
        wanted = PruneReport(runs=len(gone), checkpoints=2 * len(gone), dry_run=dry_run)
        what = f"prune(keep_last=0, statuses=('done',), dry_run={dry_run})"
        expect(report == wanted, f"{what} reported {show(report)}; the contract wants {show(wanted)}")
    stays = sorted({*parents, *relatives} - gone - {"deleted"})
    for reader in (handle, other):
        found = sorted(await reader.list_runs(), key=lambda item: item.run_id)
        same_runs(stays, found, "list_runs() after prune(keep_last=0, statuses=('done',))")


@group.check(
    "removal",
    "A deleted run leaves its children and forks; prune(keep_last=0) spares a child whose parent is stored and has not "
    "ended, and nobody else.",
    contract="delete_run.1, prune.2, children.1",
    usual_cause="A foreign key cascades, the parent is not looked at, or forks are taken for children.",
    needs=("deletion.keep_last_zero_removes", "trees.children_alone"),
    quick=False,
)
async def removal(kit: Kit) -> None:
    if "deletion" not in kit.declared:
        return
    handle, other, book = await kit.open(), await kit.open(), Book()

    async def agreed(when: str) -> None:
        for reader in (handle, other):
            await runs_agree(reader, book, kit.declared, when)
            await lists_agree(reader, book.summaries(), when)
            await trees_agree(reader, book.summaries(), book.gone, when)

    families: tuple[tuple[str, Status], ...] = (("going", "running"), ("ended", "cancelled"), ("gone", "failed"))
    for prefix, status in families:
        for steps in _family(prefix, status=status):
            for checkpoint in steps:
                await handle.write(checkpoint)
                book.wrote(checkpoint)
    expect(await handle.delete_run("gone-root") is True, "delete_run('gone-root') gave False")
    book.deleted("gone-root")
    await agreed("after delete_run of a run with children and forks")
    await other.prune(older_than=LATER, statuses=_CANCELLED, keep_last=0)
    book.deleted("ended-root")
    await agreed("after prune(statuses=('cancelled',), keep_last=0) of a parent")
    await other.prune(older_than=LATER, statuses=_DONE, keep_last=0)
    # A grandchild goes even if its parent stays: that one is done, and reads nothing more.
    for prefix, _ in families:
        for name in ("child", "second", "fork", "grandchild", "fork-of-child"):
            if prefix != "going" or name not in ("child", "second"):
                book.deleted(f"{prefix}-{name}")
    await agreed("after prune(statuses=('done',), keep_last=0) of runs with relatives")
    ending = follow(book.runs["going-root"][-1], status="done")
    await handle.write(ending)
    book.wrote(ending)
    await handle.prune(older_than=LATER, statuses=_DONE, keep_last=0)
    for name in ("root", "child", "second"):
        book.deleted(f"going-{name}")
    await agreed("after a parent ended, and a prune(keep_last=0)")
