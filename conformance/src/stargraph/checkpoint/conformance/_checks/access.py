"""Other ways to open a store: by its URL, read-only, encrypted, in an older format, and when it cannot be reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import same, show
from stargraph.checkpoint.conformance._expect import (
    Violation,
    acknowledged,
    attempt,
    error_line,
    expect,
    refused,
    together,
)
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._moments import fingerprint
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, begin, chain, follow, rival
from stargraph.checkpoint.conformance._target import fresh_directory
from stargraph.checkpoint.conformance._views import Book, agree, runs_agree
from stargraph.checkpoint.protocol import Checkpoint, Closing, PruneReport
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointError,
    StoreUnavailableError,
    StoreVersionError,
)

group: Final = Group("access", needs=("durability.reopen",))


async def _filled(kit: Kit, location: str | None = None) -> Book:
    """Write some runs, and close the handle."""
    handle, book = await kit.open(location), Book()
    for status in ("running", "done", "failed"):
        steps = chain(f"run-{status}", 4, last_status=status, metadata={"team": "red"})
        for checkpoint in steps:
            await handle.write(checkpoint)
        book.wrote(*steps)
    await handle.release()
    return book


@group.check(
    "by_url",
    "from_url opens the same store without I/O before bootstrap(), the scheme is registered, and an option that the "
    "driver does not know is refused.",
    contract="open.1, open.2",
    usual_cause="from_url connects, decodes the path unlike the constructor, or ignores a mistyped option.",
    capability="url",
)
async def by_url(kit: Kit) -> None:
    from stargraph.checkpoint.registry import installed_drivers, open_checkpointer

    assert kit.target.url is not None
    fresh = await kit.fresh_location()
    before = fingerprint(fresh)
    plain: Any = (await kit.unready(fresh)).driver
    opened: list[Any] = []

    def opener(location: str) -> Any:
        assert kit.target.url is not None
        opened.append(type(plain).from_url(kit.target.url(location)))
        return opened[-1]

    handle = await kit.unready(fresh, opener)
    expect(isinstance(opened[0], type(plain)), f"from_url gave {type(opened[0]).__name__}")
    expect(
        isinstance(opened[0], Closing), "the driver has no close() and `async with`, so nobody closes what a URL opens"
    )
    expect(fingerprint(fresh) == before, "from_url changed files before bootstrap()")
    await refused(handle.read_latest("run"), "read_latest after from_url", CheckpointError, "not-bootstrapped")
    await handle.release()
    book = await _filled(kit, fresh)
    again = await kit.unready(fresh, opener)
    await again.bootstrap()
    await agree(again, book, kit.declared, "opened by its URL")
    url = kit.target.url(fresh)
    mistyped = _with_option(url, "tiemout=1")
    try:
        type(plain).from_url(mistyped)
    except (ValueError, CheckpointError):
        pass
    else:
        raise Violation(f"from_url took the option 'tiemout', which no driver has: {mistyped!r}")
    scheme = url.partition("://")[0]
    expect(
        scheme in {info.scheme for info in installed_drivers()},
        f"no entry point of the group stargraph.checkpointers claims {scheme!r}",
    )
    by_registry = await kit.unready(fresh, lambda _: open_checkpointer(url))
    expect(type(by_registry.driver) is type(plain), f"open_checkpointer gave {type(by_registry.driver).__name__}")


@group.check(
    "handles_by_url",
    "Each call of from_url gives a handle of its own on the store that the URL names, letter by letter: what one "
    "writes the other reads, closing one leaves the other, and another URL is another store. The option read_only=true "
    "is heeded, or refused.",
    contract="open.1, open.3, close.1",
    usual_cause="Handles are kept by their URL and given out again, the path loses its capitals or its +, as "
    "`urlsplit().hostname` and `unquote_plus` take them away, or an option is taken and forgotten.",
    capability="url",
)
async def handles_by_url(kit: Kit) -> None:
    place = await kit.fresh_location()
    if kit.target.location is fresh_directory:
        place += "+Ab"  # beside the other one, in the same directory
    first, second = await _by_url(kit, place), await _by_url(kit, place)
    expect(first.driver is not second.driver, "from_url gave the same handle twice, so closing one closes both")
    other = await _by_url(kit, kit.location)
    written, elsewhere = begin("run"), begin("run", state={"of": "another store"})
    await first.write(written)
    await other.write(elsewhere)
    for handle, wanted, what in ((second, written, "the same"), (other, elsewhere, "another"), (first, written, "its")):
        same(wanted, await handle.read_latest("run"), f"read_latest('run') by a handle of {what} URL")
    plain = await kit.open(place)
    same(written, await plain.read_latest("run"), "read_latest('run') of what a handle wrote that a URL opened")
    await first.release()
    written = follow(written)
    await second.write(written)
    same(written, await plain.read_latest("run"), "read_latest('run') after another handle of the URL was closed")
    if "read-only" in kit.declared:
        await _read_only_by_url(kit, place, written)


async def _by_url(kit: Kit, location: str, option: str = "") -> Handle:
    """Open a handle by the URL of a location, and bootstrap it."""
    assert kit.target.url is not None
    url = kit.target.url(location)
    if option:
        url = _with_option(url, option)
    kind: Any = type((await kit.unready(location)).driver)
    handle = await kit.unready(location, lambda _: kind.from_url(url))
    await handle.bootstrap()
    return handle


def _with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


async def _read_only_by_url(kit: Kit, location: str, stored: Checkpoint) -> None:
    try:
        reader = await _by_url(kit, location, "read_only=true")
    except (ValueError, CheckpointError):
        return
    what = "by a handle that a URL with read_only=true opened"
    expect(getattr(reader.driver, "read_only", None) is True, f"read_only is not True: {what}")
    same(stored, await reader.read_latest("run"), f"read_latest('run') {what}")
    await refused(reader.write(follow(stored)), f"write {what}", CheckpointError, "read-only")


@group.check(
    "read_only",
    "A read-only handle reads everything, refuses every change, and never changes a byte; a store that is not there is "
    "not made.",
    contract="open.3, prune.5",
    usual_cause="bootstrap() makes or migrates the store nevertheless, or one of the methods that change it is left "
    "out; or prune refuses a dry run, which changes nothing.",
    capability="read-only",
)
async def read_only(kit: Kit) -> None:
    opener = kit.target.read_only
    assert opener is not None
    absent = await kit.fresh_location()
    before = fingerprint(absent)
    reader = await kit.unready(absent, opener)
    await refused(reader.bootstrap(), "bootstrap() of a read-only handle, no store", StoreUnavailableError, "no-store")
    expect(fingerprint(absent) == before, "bootstrap() of a read-only handle made files where no store was")
    book = await _filled(kit)
    before = fingerprint(kit.location)
    reader = await kit.unready(opener=opener)
    await reader.bootstrap()
    expect(
        getattr(reader.driver, "read_only", None) is True, "a read-only handle does not say so: read_only is not True"
    )
    await agree(reader, book, kit.declared, "read by a read-only handle")
    last = book.runs["run-running"][-1]
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "write": lambda: reader.write(follow(last)),
        "write again": lambda: reader.write(last),
        "write of a new run": lambda: reader.write(begin("new")),
    }
    if "batch" in kit.declared:
        changes["write_many"] = lambda: reader.write_many([follow(last)])
    if "pruned-start" in kit.declared:
        changes["start_pruned"] = lambda: reader.start_pruned(chain("new", 3)[2:])
    if "deletion" in kit.declared:
        changes["delete_run"] = lambda: reader.delete_run("run-done")
        changes["prune"] = lambda: reader.prune(older_than=LATER)
    for name, call in changes.items():
        await refused(call(), f"{name} by a read-only handle", CheckpointError, "read-only")
    if "deletion" in kit.declared:
        # Of a run that stays, a driver may need more steps than the last one: to decode that.
        counted = await reader.prune(older_than=LATER, keep_last=0, dry_run=True)
        wanted = PruneReport(runs=1, checkpoints=len(book.runs["run-done"]), dry_run=True)
        expect(counted == wanted, f"prune(keep_last=0, dry_run=True) by a read-only handle reported {show(counted)}")
    look = agree if kit.thorough else runs_agree
    await look(reader, book, kit.declared, "after a read-only handle refused changes")
    await reader.release()
    expect(fingerprint(kit.location) == before, "a read-only handle changed files of the store")
    await agree(await kit.open(), book, kit.declared, "after a read-only handle was there")


@group.check(
    "older_format",
    "A store of an older format is migrated whole, or refused with StoreVersionError and left as it is.",
    contract="bootstrap.4",
    usual_cause="The version is only compared with newer ones, the migration drops what it does not know, or a store "
    "of another format is made again.",
    capability="older-format",
)
async def older_format(kit: Kit) -> None:
    assert kit.target.older_format is not None
    book = await _filled(kit)
    async with kit.target.older_format(kit.location):
        for _ in range(2):
            handle = await kit.unready()
            try:
                await handle.bootstrap()
            except StoreVersionError:
                await refused(handle.write(begin("other")), "write", CheckpointError, "not-bootstrapped")
            except Exception as error:
                raise Violation(
                    f"bootstrap() of an older store raised {error_line(error)}; the contract wants StoreVersionError or"
                    " a migrated store"
                ) from error
            else:
                await agree(handle, book, kit.declared, "after bootstrap() of an older store")
            await handle.release()
    await agree(await kit.open(), book, kit.declared, "after a store of an older format was opened")
    if kit.target.read_only is not None:
        await _only_looks_at_older(kit)


async def _only_looks_at_older(kit: Kit) -> None:
    """Expect that a read-only handle refuses a store of an older format, or reads it, and does not migrate it."""
    assert kit.target.older_format is not None
    location = await kit.fresh_location()
    book = await _filled(kit, location)
    async with kit.target.older_format(location):
        writer = await kit.unready(location)
        migrates = await attempt(writer.bootstrap()) is None
        await writer.release()
        reader = await kit.unready(location, kit.target.read_only)
        try:
            await reader.bootstrap()
        except StoreVersionError:
            pass
        else:
            await agree(reader, book, kit.declared, "of an older store, read by a read-only handle")
        await reader.release()
        if not migrates:
            what = "bootstrap() of an older store that was refused, after a read-only handle was there,"
            again = await kit.unready(location)
            expect(isinstance(await attempt(again.bootstrap()), StoreVersionError), f"{what} is refused no more")
            await again.release()


@group.check(
    "outage",
    "While a store cannot be reached, each call does what it should or raises StoreUnavailableError; none says that "
    "nothing is there, and none acknowledges what is lost. Afterwards the handle works.",
    contract="bootstrap.9, bootstrap.10, write.5, write.12",
    usual_cause="An `except` around the call returns None or an empty list, a write is queued and acknowledged, or the "
    "handle keeps a dead connection.",
    version=2,
    capability="outage",
    deadline=120,
    quick=False,
    waits=True,
)
async def outage(kit: Kit) -> None:
    assert kit.target.outage is not None
    book = await _filled(kit)
    handle, idle = await kit.open(), await kit.open()
    await agree(handle, book, kit.declared, "before an outage")
    last = book.runs["run-running"][-1]
    mine, new = follow(last), begin("new")
    others = [begin(f"new-{number}") for number in range(6)]
    lost = follow(book.runs["run-failed"][-1], event="resumed", status="running")
    async with kit.target.outage(kit.location):
        # At once, since they may share a commit that fails.
        written = [mine, new, *others, lost]
        reached = await together(
            *(acknowledged(handle.write(each), f"{naming(each)} in an outage") for each in written)
        )
        acked = {each.run_id: outcome for each, outcome in zip(written, reached, strict=True)}
        # Side by side: each may wait for as long as the driver waits for a store that does not answer.
        await together(
            *(
                _exact(idle, checkpoint, f"read_at_step('run-done', {checkpoint.step}) in an outage")
                for checkpoint in book.runs["run-done"]
            ),
            _opened_in_outage(kit, book.runs["run-done"][0]),
            _listed_in_outage(idle, set(book.runs)),
        )
    for checkpoint in (mine, new, *others):
        if acked[checkpoint.run_id]:
            what = f"read_at_step({checkpoint.run_id!r}, {checkpoint.step}), which was acknowledged in an outage"
            same(checkpoint, await idle.read_at_step(checkpoint.run_id, checkpoint.step), what)
        await handle.write(checkpoint)
        book.wrote(checkpoint)
    theirs = rival(lost, book.runs["run-failed"][-1])
    book.wrote(await _settled(handle, idle, lost, theirs, acked=acked[lost.run_id]))
    for reader in (handle, idle, await kit.open()):
        await agree(reader, book, kit.declared, "after an outage")


async def _settled(handle: Handle, other: Handle, lost: Checkpoint, theirs: Checkpoint, *, acked: bool) -> Checkpoint:
    """Let another executor take the step whose write failed in an outage, unless it is stored; return what is."""
    refusal = await attempt(other.write(theirs))
    if refusal is not None:
        what = f"read_at_step({lost.run_id!r}, {lost.step}), whose first write failed in an outage"
        same(lost, await other.read_at_step(lost.run_id, lost.step), f"{what} which another executor was refused")
        return lost
    expect(not acked, f"{naming(lost)} was acknowledged in an outage, and another executor wrote that step")
    astray = follow(lost)
    what = f"{naming(astray)}, after a step whose write failed in an outage and which is another executor's"
    await refused(handle.write(astray), what, CheckpointConflictError, "wrong-predecessor", astray)
    what = f"{naming(lost)} again, after its outcome was unknown and another executor wrote that step"
    await refused(handle.write(lost), what, CheckpointConflictError, "step-taken", lost)
    return theirs


async def _opened_in_outage(kit: Kit, stored: Checkpoint) -> None:
    newcomer = await kit.unready()
    if await acknowledged(newcomer.bootstrap(), "bootstrap() in an outage"):
        await _exact(newcomer, stored, "read_at_step of a new handle in an outage")


async def _listed_in_outage(handle: Handle, run_ids: set[str]) -> None:
    try:
        listed = [item.run_id for item in await handle.list_runs()]
    except StoreUnavailableError:
        return
    expect(run_ids <= set(listed), f"list_runs() in an outage gave {listed}; there are {sorted(run_ids)}")


async def _exact(handle: Handle, checkpoint: Checkpoint, what: str) -> None:
    try:
        found = await handle.read_at_step(checkpoint.run_id, checkpoint.step)
    except StoreUnavailableError:
        return
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants StoreUnavailableError") from error
    same(checkpoint, found, what)


@group.check(
    "damaged_files",
    "A store of which a file is damaged at its beginning is refused, or reads exactly; it is not taken for an empty "
    "one, nothing is written over it, and once the file is put back all is there.",
    contract="bootstrap.11, read.6",
    usual_cause="A header that cannot be read counts as that of a new store, which bootstrap() then makes; or, without "
    "close(), the process reads from files that it still has open.",
    needs=("list_runs.newest_first",),
)
async def damaged_files(kit: Kit) -> None:
    store = Path(kit.location)
    if not store.is_absolute():
        return
    book = await _filled(kit)
    files = [file for file in sorted(store.parent.rglob("*")) if file.is_file() and file.stat().st_size]
    for file in kit.random.sample(files, min(len(files), 6)):
        whole = {each: each.read_bytes() for each in store.parent.rglob("*") if each.is_file()}
        for what, damage in (("overwritten", bytes(range(256))), ("zeroed", bytes(64))):
            data = whole[file]
            file.write_bytes(damage[: len(data)] + data[len(damage) :])
            handle = await kit.unready()
            when = f"after the beginning of {file.name} was {what}"
            refusal = await _sound_or_refused(kit, handle, book, when)
            await _left(handle)
            if refusal is not None and file.is_file():
                expect(
                    file.read_bytes()[len(damage) :] == data[len(damage) :],
                    f"{when} the store was refused ({refusal}), and the rest of the file was changed",
                )
            _put_back(store.parent, whole)
            again = await kit.open()
            await agree(again, book, kit.declared, f"after {file.name} was put back")
            await again.release()
            _put_back(store.parent, whole)


async def _sound_or_refused(kit: Kit, handle: Handle, book: Book, when: str) -> str | None:
    """Expect that reads are exact or refused, in whatever words; return the refusal, or None."""
    try:
        await handle.bootstrap()
        for steps in book.runs.values():
            for checkpoint in steps:
                what = f"read_at_step({checkpoint.run_id!r}, {checkpoint.step}) {when}"
                same(checkpoint, await handle.read_at_step(checkpoint.run_id, checkpoint.step), what)
    except Violation:
        raise
    except Exception as error:  # noqa: BLE001  # any refusal is loud enough: nothing was lost
        return error_line(error)
    return None


async def _left(handle: Handle) -> None:
    """Close a handle on a damaged store, which may find the damage too."""
    with suppress(Exception):
        await handle.release()


def _put_back(folder: Path, whole: dict[Path, bytes]) -> None:
    for file in list(folder.rglob("*")):
        if file.is_file() and file not in whole:
            file.unlink()
    for file, data in whole.items():
        file.write_bytes(data)
