"""Other ways to open a store: by its URL, read-only, encrypted, in an older format, and when it cannot be reached."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import same, show
from stargraph.checkpoint.conformance._expect import (
    NotEvaluated,
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
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, chain, follow, rival
from stargraph.checkpoint.conformance._views import Book, agree
from stargraph.checkpoint.protocol import Checkpoint, Closing, Interrupt, PruneReport, RecordedCall
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointError,
    StoreUnavailableError,
    StoreVersionError,
)

group: Final = Group("access", needs=("durability.reopen",))

_KEYS: Final = "STARGRAPH_ENCRYPTION_KEY"
_MINE: Final = "first:0123456789abcdef0123456789abcdef"
_OTHERS: Final = "other:ffffffffffffffffffffffffffffffff"
_MARKER: Final = "MARKER-7f3a9c-MARKER"


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
    mistyped = f"{url}{'&' if '?' in url else '?'}tiemout=1"
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
        counted = await reader.prune(older_than=LATER, dry_run=True)
        wanted = PruneReport(runs=1, checkpoints=len(book.runs["run-done"]) - 1, dry_run=True)
        expect(counted == wanted, f"prune(dry_run=True) by a read-only handle reported {show(counted)}")
    await agree(reader, book, kit.declared, "after a read-only handle refused changes")
    await reader.release()
    expect(fingerprint(kit.location) == before, "a read-only handle changed files of the store")
    await agree(await kit.open(), book, kit.declared, "after a read-only handle was there")


@contextmanager
def _keys(keys: str | None) -> Iterator[None]:
    """Set the keys of the environment, and put back what was there."""
    kept = os.environ.pop(_KEYS, None)
    if keys is not None:
        os.environ[_KEYS] = keys
    try:
        yield
    finally:
        os.environ.pop(_KEYS, None)
        if kept is not None:
            os.environ[_KEYS] = kept


@group.check(
    "encrypted",
    "With keys nothing of the state, the updates, the calls and the questions is stored readable, in no file of the "
    "store; without the keys, or with others, it is refused.",
    contract="open.4",
    usual_cause="The record is encrypted, and a summary, an index, a journal or a temporary file holds the values.",
    needs=("corruption.altered_values",),
    capability="encryption",
)
async def encrypted(kit: Kit) -> None:
    location = await kit.fresh_location()
    handle = await _with_keys(kit, location, _MINE)
    if getattr(handle.driver, "encrypted", False) is not True:
        raise Violation(f"{_KEYS} is set, and the handle says that it does not encrypt, and opens the store")
    moment = NOON + timedelta(seconds=1)
    call = RecordedCall(kind="call", task_id="t", name="n", occurrence=0, result=[_MARKER], started_at=moment)
    question = Interrupt(id="q", task_id="t", node="n", prompt=_MARKER, payload={"k": _MARKER}, asked_at=moment)
    steps = [begin(state={"note": _MARKER, "large": _MARKER * 5000}, definition={"text": _MARKER})]
    steps.append(follow(steps[-1], changes={"more": _MARKER}, update={"more": _MARKER}, calls=(call,)))
    steps.append(follow(steps[-1], status="awaiting_input", interrupts=(question,)))
    for checkpoint in steps:
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_latest("run"), "read_latest('run') of an encrypted store")
    looked_at = await _search_bytes(kit, location, [checkpoint.step for checkpoint in steps])
    await handle.release()
    looked_at += await _search_bytes(kit, location, [checkpoint.step for checkpoint in steps])
    if not looked_at:
        raise NotEvaluated("the stored bytes cannot be looked at: the location is no path, and stored_bytes is None")
    for keys in (None, _OTHERS):
        await _unreadable(kit, location, keys)
    again = await _with_keys(kit, location, _MINE)
    book = Book()
    book.wrote(*steps)
    await agree(again, book, kit.declared, "of an encrypted store that was opened again")


async def _with_keys(kit: Kit, location: str, keys: str | None) -> Handle:
    with _keys(keys):
        handle = await kit.unready(location, kit.target.encryption)
        await handle.bootstrap()
    return handle


async def _unreadable(kit: Kit, location: str, keys: str | None) -> None:
    """Expect that a handle with other keys, or none, is refused when it is opened or when it reads."""
    what = f"a store that was encrypted with other keys than {keys!r}"
    with _keys(keys):
        try:
            stranger = await kit.open(location)
            found = await stranger.read_latest("run")
        except CheckpointError:
            return
        except Exception as error:
            raise Violation(
                f"reading {what} raised {error_line(error)}; the contract wants CheckpointCorruptedError"
            ) from error
    raise Violation(f"read_latest('run') of {what} gave {found!r}")


async def _search_bytes(kit: Kit, location: str, steps: list[int]) -> int:
    """Look for the secret in the files of a store, and in what the hook gives; return how many were looked at."""
    needles = (_MARKER.encode(), _MARKER.encode("utf-16-le"), _MARKER.encode().hex().encode())
    count = 0
    store = Path(location)
    files = sorted(store.parent.rglob("*")) if store.is_absolute() else []
    for file in files:
        if file.is_file():
            count += 1
            data = file.read_bytes()
            expect(
                not any(needle in data for needle in needles), f"{file.name} holds a value of an encrypted run readable"
            )
    if kit.target.stored_bytes is not None:
        for step in steps:
            count += 1
            data = await kit.target.stored_bytes.get(location, "run", step)
            expect(
                not any(needle in data for needle in needles), f"the stored bytes of step {step} hold a readable value"
            )
    return count


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
    usual_cause="A header that cannot be read counts as that of a new store, which bootstrap() then makes.",
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
