"""Encryption: what a store with keys keeps from whoever lacks them, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from stargraph.checkpoint.conformance._checks import access
from stargraph.checkpoint.conformance._compare import same
from stargraph.checkpoint.conformance._expect import NotEvaluated, Violation, attempt, error_line, expect, refused
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, chain, follow, rival
from stargraph.checkpoint.conformance._views import Book, agree
from stargraph.checkpoint.protocol import Checkpoint, Interrupt, RecordedCall, Status
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = access.group
"""The same group: encryption is one more way to open a store."""

_KEYS: Final = "STARGRAPH_ENCRYPTION_KEY"
_MINE: Final = "first:0123456789abcdef0123456789abcdef"
_OTHERS: Final = "other:ffffffffffffffffffffffffffffffff"
_CHANGED: Final = f"second:fedcba9876543210fedcba9876543210,{_MINE}"
_MARKER: Final = "MARKER-7f3a9c-MARKER"
_WAITING: Final[tuple[Status, ...]] = ("awaiting_input",)


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


def _secret_run(run_id: str = "run", *, length: int = 3) -> list[Checkpoint]:
    """A run whose states, updates, calls, questions and definition hold the marker."""
    moment = NOON + timedelta(seconds=1)
    call = RecordedCall(kind="call", task_id="t", name="n", occurrence=0, result=[_MARKER], started_at=moment)
    question = Interrupt(id="q", task_id="t", node="n", prompt=_MARKER, payload={"k": _MARKER}, asked_at=moment)
    steps = [begin(run_id, state={"note": _MARKER, "large": _MARKER * 5000}, definition={"text": _MARKER})]
    steps.append(follow(steps[-1], changes={"more": _MARKER}, update={"more": _MARKER}, calls=(call,), key="k"))
    for number in range(length - 3):
        steps.append(follow(steps[-1], changes={"more": f"{_MARKER} {number}"}))
    steps.append(follow(steps[-1], status="awaiting_input", interrupts=(question,)))
    return steps


@group.check(
    "encrypted",
    "With keys nothing of the state, the updates, the calls and the questions is stored readable, in no file of the "
    "store, nor a digest of them, whichever call has stored it; without the keys, or with others, no read gives it.",
    contract="open.4",
    usual_cause="The record is encrypted, and a summary, an index, a journal or a temporary file holds the values; or "
    "only write encrypts, and write_many, start_pruned or prune store what the codec made without keys.",
    version=2,
    needs=("corruption.altered_values",),
    capability="encryption",
)
async def encrypted(kit: Kit) -> None:
    location, book = await kit.fresh_location(), Book()
    handle = await _with_keys(kit, location, _MINE)
    if getattr(handle.driver, "encrypted", False) is not True:
        raise Violation(f"{_KEYS} is set, and the handle says that it does not encrypt, and opens the store")
    steps = _secret_run()
    for checkpoint in steps:
        await handle.write(checkpoint)
        same(checkpoint, await handle.read_latest("run"), "read_latest('run') of an encrypted store")
    book.wrote(*steps)
    await _stored_by_other_calls(kit, handle, book)
    looked_at = await _search_bytes(kit, location, book)
    await handle.release()
    looked_at += await _search_bytes(kit, location, book)
    if not looked_at:
        raise NotEvaluated("the stored bytes cannot be looked at: the location is no path, and stored_bytes is None")
    for keys in (None, _OTHERS):
        await _unreadable(kit, location, keys)
    again = await _with_keys(kit, location, _MINE)
    await agree(again, book, kit.declared, "of an encrypted store that was opened again")


async def _stored_by_other_calls(kit: Kit, handle: Handle, book: Book) -> None:
    """Let the other calls that store records store some, and note what is there."""
    if "batch" in kit.declared:
        batch = _secret_run("batched")
        await handle.write_many(batch)
        book.wrote(*batch)
    if "pruned-start" in kit.declared:
        left = _secret_run("started", length=7)
        await handle.start_pruned([left[2], left[6]])
        book.runs["started"], book.floors["started"] = left, {2, 6}
    if "deletion" in kit.declared:
        pruned = _secret_run("pruned", length=9)
        for checkpoint in pruned:
            await handle.write(checkpoint)
        await handle.prune(older_than=LATER, statuses=_WAITING, keep_last=2, run_id="pruned")
        book.runs["pruned"], book.floors["pruned"] = pruned, {7, 8}


@group.check(
    "encryption_keys",
    "The first of several keys encrypts and all of them decrypt, so that a run goes on after a change of keys; with "
    'keys a plain record is refused (reason "not-encrypted"), and a plain run is not continued.',
    contract="open.5",
    usual_cause="The first key alone is kept, the digests that a writer is judged by are compared in another form, or "
    "what cannot be decrypted is read as plain.",
    needs=("access.encrypted",),
    capability="encryption",
)
async def encryption_keys(kit: Kit) -> None:
    location, book = await kit.fresh_location(), Book()
    handle = await _with_keys(kit, location, _MINE)
    run = chain(length=3)
    for checkpoint in run:
        await handle.write(checkpoint)
    await handle.release()
    changed = await _with_keys(kit, location, _CHANGED)
    await changed.write(run[2])
    stranger = rival(run[2], run[1])
    what = f"{naming(stranger)} by another executor, after a change of keys"
    await refused(changed.write(stranger), what, CheckpointConflictError, "step-taken", stranger)
    run.append(follow(run[-1]))
    await changed.write(run[3])
    book.wrote(*run)
    await agree(changed, book, kit.declared, "after a change of keys")
    old = await _with_keys(kit, location, _MINE)
    same(run[1], await old.read_at_step("run", 1), "read_at_step('run', 1) with the old key, which wrote it,")
    await _refuses(old.read_at_step("run", 3), "read_at_step('run', 3), written with a key that is not here,")
    plain = await kit.fresh_location()
    writer = await kit.open(plain)
    for checkpoint in run[:2]:
        await writer.write(checkpoint)
    try:
        keyed = await _with_keys(kit, plain, _MINE)
    except CheckpointError as refusal:
        expect(
            refusal.reason == "not-encrypted",
            f"bootstrap() of a plain store with keys raised {refusal!r}; the contract wants 'not-encrypted'",
        )
        return
    what = "of a plain record by a handle with keys"
    await refused(keyed.read_latest("run"), f"read_latest('run') {what}", CheckpointError, "not-encrypted")
    await refused(keyed.read_at_step("run", 0), f"read_at_step('run', 0) {what}", CheckpointError, "not-encrypted")
    raised = await attempt(keyed.write(run[2]))
    # A store that reads the step before is refused that first.
    expect(
        raised is not None and raised.reason in ("plain-run", "not-encrypted"),
        f"{naming(run[2])} of a plain run by a handle with keys: {raised!r}; the contract wants 'plain-run'",
    )


async def _with_keys(kit: Kit, location: str, keys: str | None) -> Handle:
    with _keys(keys):
        handle = await kit.unready(location, kit.target.encryption)
        await handle.bootstrap()
    return handle


async def _unreadable(kit: Kit, location: str, keys: str | None) -> None:
    """Expect that a handle with other keys, or none, is refused when it is opened, or at each read of a step."""
    what = "of a store that was encrypted with other keys"
    try:
        stranger = await _with_keys(kit, location, keys)
    except CheckpointError:
        return
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "read_latest('run')": lambda: stranger.read_latest("run"),
        "read_at_step('run', 1)": lambda: stranger.read_at_step("run", 1),
    }
    if "history" in kit.declared:
        reads["history('run')"] = lambda: anext(stranger.history("run"))
    if "timeline" in kit.declared:
        reads["timeline('run')"] = lambda: stranger.timeline("run")
    if "keys" in kit.declared:
        reads["read_at_key('run', 'k')"] = lambda: stranger.read_at_key("run", "k")
    for name, read in reads.items():
        await _refuses(read(), f"{name} {what}")


async def _refuses(read: Awaitable[object], what: str) -> None:
    try:
        found = await read
    except CheckpointError:
        return
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants CheckpointCorruptedError") from error
    raise Violation(f"{what} gave {found!r:.200}")


async def _search_bytes(kit: Kit, location: str, book: Book) -> int:
    """Look for the secret in the files of a store, and in what the hook gives; return how many were looked at."""
    whole = [checkpoint for steps in book.runs.values() for checkpoint in steps]
    needles = {
        _MARKER.encode(): "a value",
        _MARKER.encode("utf-16-le"): "a value",
        _MARKER.encode().hex().encode(): "a value",
    }
    for checkpoint in whole:
        needles |= {checkpoint.digest.encode(): "a digest", bytes.fromhex(checkpoint.digest): "a digest"}
    count = 0
    store = Path(location)
    for file in sorted(store.parent.rglob("*")) if store.is_absolute() else []:
        if file.is_file():
            count += 1
            _holds_none(file.read_bytes(), needles, file.name)
    if kit.target.stored_bytes is not None:
        for checkpoint in whole:
            if checkpoint.step in book.floors.get(checkpoint.run_id, {checkpoint.step}):
                count += 1
                data = await kit.target.stored_bytes.get(location, checkpoint.run_id, checkpoint.step)
                _holds_none(data, needles, f"the record of step {checkpoint.step} of {checkpoint.run_id!r}")
    return count


def _holds_none(data: bytes, needles: dict[bytes, str], what: str) -> None:
    for needle, kind in needles.items():
        expect(needle not in data, f"{what} holds {kind} of an encrypted run readable")
