"""Stored bytes that were changed behind the driver's back are refused when they are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from stargraph.checkpoint.conformance._compare import absent, same
from stargraph.checkpoint.conformance._expect import HarnessError, Violation, attempt, error_line, expect, refused
from stargraph.checkpoint.conformance._growing import grown_run
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain, follow, rival
from stargraph.checkpoint.conformance._views import Book, agree
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

group: Final = Group("corruption", needs=("durability.reopen",), capability="stored-bytes")

_USUAL: Final = (
    "What is stored is parsed and returned without comparing the digest: use codec.decode or model_validate."
)


async def _refuses(kit: Kit, run: list[Checkpoint], step: int, edit: Callable[[bytes], bytes], what: str) -> None:
    """Edit a stored step, prove that the edit is there, expect that reading it is refused, and put it back."""
    hook = kit.target.stored_bytes
    assert hook is not None
    run_id = run[step].run_id
    original = await hook.get(kit.location, run_id, step)
    changed = edit(original)
    if changed == original:
        raise HarnessError(f"{what}: the edit changes nothing")
    await put_bytes(kit, run_id, step, changed, what)
    handle = await kit.open()
    reads: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        (f"read_at_step({run_id!r}, {step})", lambda: handle.read_at_step(run_id, step))
    ]
    if step == run[-1].step:
        reads.append((f"read_latest({run_id!r})", lambda: handle.read_latest(run_id)))
    for name, read in reads:
        await _exact_or_refused_read(run[step], read(), name, what)
    await handle.release()
    await put_bytes(kit, run_id, step, original, f"{what}, and put back")
    again = await kit.open()
    same(
        run[step], await again.read_at_step(run_id, step), f"read_at_step({run_id!r}, {step}) after the edit was undone"
    )
    await again.release()


async def put_bytes(kit: Kit, run_id: str, step: int, data: bytes, what: str) -> None:
    """Replace stored bytes, and prove that they are there."""
    hook = kit.target.stored_bytes
    assert hook is not None
    await hook.put(kit.location, run_id, step, data)
    if await hook.get(kit.location, run_id, step) != data:
        raise HarnessError(f"{what}: the edit did not land; check the target's stored_bytes hook")


async def _exact_or_refused_read(wrote: Checkpoint, read: Awaitable[object], name: str, what: str) -> None:
    """Expect that a read refuses changed bytes, or gives the very checkpoint that was written.

    A record may hold bytes that say nothing, such as the last bits of a compressed text: a change there loses nothing.
    """
    try:
        found = await read
    except (CheckpointCorruptedError, StoreVersionError):
        return
    except Exception as error:
        raise Violation(
            f"{name} after {what} raised {error_line(error)}; the contract wants CheckpointCorruptedError"
        ) from error
    same(wrote, found, f"{name} after {what}, which must be refused or read exactly")


async def _stored(kit: Kit, *runs: list[Checkpoint]) -> None:
    handle = await kit.open()
    for run in runs:
        for checkpoint in run:
            await handle.write(checkpoint)
    await handle.release()


@group.check(
    "flipped_bytes",
    "A record with a changed byte, wherever it is, is refused with CheckpointCorruptedError, or reads back as it was "
    "written if the byte says nothing.",
    contract="read.6",
    usual_cause=_USUAL,
    version=2,
)
async def flipped_bytes(kit: Kit) -> None:
    run = chain(length=3, state={"text": "unaltered", "amount": 1000})
    await _stored(kit, run)
    assert kit.target.stored_bytes is not None
    size = len(await kit.target.stored_bytes.get(kit.location, "run", 2))
    for step in (1, 2):
        for place in (0, size - 1, *sorted(kit.random.sample(range(size), min(size, 12 if kit.thorough else 3)))):

            def flip(data: bytes, place: int = place) -> bytes:
                return _flipped(data, min(place, len(data) - 1))

            await _refuses(kit, run, step, flip, f"byte {place} of step {step} was flipped")


@group.check(
    "altered_values",
    "A record that still parses, with another value in it, is refused with CheckpointCorruptedError.",
    contract="read.6",
    usual_cause=_USUAL,
)
async def altered_values(kit: Kit) -> None:
    run = chain(length=2, state={"account": "MARKER-AAAA"})
    await _stored(kit, run)
    for before, after in _rewritings():

        def rewrite(data: bytes, before: bytes = before, after: bytes = after) -> bytes:
            if before in data:
                return data.replace(before, after)
            # Compressed or encrypted: any change will do.
            middle = len(data) // 2
            return data[:middle] + bytes([data[middle] ^ 0x01]) + data[middle + 1 :]

        await _refuses(kit, run, 1, rewrite, f"{before!r} was replaced with {after!r}")


def _rewritings() -> Iterator[tuple[bytes, bytes]]:
    yield b"MARKER-AAAA", b"MARKER-BBBB"
    yield b"running", b"waiting"
    yield b"completed", b"cancelled"
    yield b'"work"', b'"walk"'


@group.check(
    "uses_nothing_up",
    "Forty reads of a record that was changed, by each method that reads it, use nothing up: the same handle reads and "
    "writes other runs as before.",
    contract="read.6",
    usual_cause="A connection, a cursor or a lock is given back only if what was read can be decoded.",
    needs=("corruption.flipped_bytes",),
    quick=False,
    deadline=60,
)
async def uses_nothing_up(kit: Kit) -> None:
    run, other = chain(length=3), chain("other", 3)
    await _stored(kit, run, other)
    await put_bytes(kit, "run", 2, b"{}", "the record of step 2 was replaced")
    handle = await kit.open()
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "read_latest": lambda: handle.read_latest("run"),
        "read_at_step": lambda: handle.read_at_step("run", 2),
        "list_runs": handle.list_runs,
        "write": lambda: handle.write(follow(run[-1])),
    }
    if "history" in kit.declared:
        reads["history"] = lambda: _whole_history(handle, newest_first=False)
        reads["history(newest_first=True)"] = lambda: _whole_history(handle, newest_first=True)
    for name, read in reads.items():
        for _ in range(40):
            await attempt(read())
        what = f"after 40 calls of {name} on a record that was changed"
        same(other[-1], await handle.read_latest("other"), f"read_latest('other') {what}")
        await handle.write(other[-1])


async def _whole_history(handle: Handle, *, newest_first: bool) -> None:
    async for _ in handle.history("run", newest_first=newest_first):
        pass


@group.check(
    "truncated",
    "A record that is cut off, or empty, is refused with CheckpointCorruptedError.",
    contract="read.6",
    usual_cause="The parser's own error comes out, or an empty record counts as absent.",
)
async def truncated(kit: Kit) -> None:
    run = chain(length=2)
    await _stored(kit, run)
    for share in (0.0, 0.1, 0.5, 0.99):
        await _refuses(kit, run, 1, lambda data, share=share: data[: int(len(data) * share)], f"a cut at {share:.0%}")  # type: ignore[misc]


@group.check(
    "swapped",
    "A whole record in the place of another one, of another run or step, is refused with CheckpointCorruptedError.",
    contract="read.6",
    usual_cause="Only the digest is compared; run_id and step of the record are not compared with what was asked for.",
)
async def swapped(kit: Kit) -> None:
    run, other = chain("run", 4), chain("other", 4)
    await _stored(kit, run, other)
    hook = kit.target.stored_bytes
    assert hook is not None
    foreign = await hook.get(kit.location, "other", 3)
    await _refuses(kit, run, 3, lambda _: foreign, "the record of run 'other', step 3 was put there")
    earlier = await hook.get(kit.location, "run", 1)
    await _refuses(kit, run, 2, lambda _: earlier, "the record of step 1 was put at step 2")
    handle = await kit.open()
    await handle.write(follow(run[-1]))
    await handle.write(begin("third"))


@group.check(
    "spoilt_neighbours",
    "Where a record is changed, every step that is decoded from it is refused with CheckpointCorruptedError too, or "
    "reads back exactly where it is not.",
    contract="read.6, write.10",
    usual_cause="Each stored record has a checksum of its own, and what is decoded from several is not compared with "
    "the digest of its step.",
    needs=("growth.every_kind_of_change", "corruption.swapped"),
)
async def spoilt_neighbours(kit: Kit) -> None:
    length = 24 if kit.thorough else 12
    run, other = grown_run(kit.random, length), grown_run(kit.random, length, "other")
    await _stored(kit, run, other)
    hook = kit.target.stored_bytes
    assert hook is not None
    for step in (0, 1, *sorted(kit.random.sample(range(2, length), 6 if kit.thorough else 1))):
        original = await hook.get(kit.location, "run", step)
        spoilt = {
            f"a byte of step {step} was flipped": _flipped(original, kit.random.randrange(len(original))),
            f"the record of run 'other', step {step} was put at step {step}": await hook.get(
                kit.location, "other", step
            ),
            f"the record of step {(step + 8) % length} was put at step {step}": await hook.get(
                kit.location, "run", (step + 8) % length
            ),
        }
        for what, data in spoilt.items():
            if data == original:
                continue
            await put_bytes(kit, "run", step, data, what)
            await _exact_or_refused(kit, run, what)
            await put_bytes(kit, "run", step, original, f"{what}, and put back")
    again = await kit.open()
    for checkpoint in run:
        what = f"read_at_step('run', {checkpoint.step}) after the edits were undone"
        same(checkpoint, await again.read_at_step("run", checkpoint.step), what)


@group.check(
    "lost_step",
    "A step that was written and that no prune removed never reads as absent: read_at_step and history refuse it "
    '(reason "missing-step") if its record is gone, and nobody else can take it. If it is the latest one, a store that '
    "cannot know of it ends the run before it, in all reads alike.",
    contract="read.2, read.3, history.2, write.8",
    usual_cause="What is not found is None: nothing remembers up to where a prune went; or the latest step is the "
    "highest row in one read, and what an index says in another.",
    version=2,
    capability="lost-step",
)
async def lost_step(kit: Kit) -> None:
    for lost in (0, 2):
        location = await kit.fresh_location()
        run = chain(length=5)
        handle = await kit.open(location)
        for checkpoint in run:
            await handle.write(checkpoint)
        await refuses_lost_step(kit, location, run, lost, first=0)
    await _lost_tail(kit)


async def _lost_tail(kit: Kit) -> None:
    """Take the latest step away: either the reads say so, or all of them agree that the run ends before it."""
    assert kit.target.lost_step is not None
    location, book = await kit.fresh_location(), Book()
    run = chain(length=5, keys=("a", "b"))
    handle = await kit.open(location)
    for checkpoint in run:
        await handle.write(checkpoint)
    book.wrote(*run[:4])
    await handle.release()
    await kit.target.lost_step(location, "run", 4)
    reader, what = await kit.open(location), "after the latest step of 'run' was lost"
    try:
        found = await reader.read_at_step("run", 4)
    except CheckpointCorruptedError:
        await refused(reader.read_latest("run"), f"read_latest('run') {what}", CheckpointCorruptedError, "missing-step")
        await _stays_taken(reader, run, 4, what)
        return
    absent(found, f"read_at_step('run', 4) {what}")
    try:
        await agree(reader, book, kit.declared, what)
    except CheckpointCorruptedError as error:
        raise Violation(f"a read {what} raised {error_line(error)}, and read_at_step('run', 4) gave None") from error


async def _stays_taken(handle: Handle, run: list[Checkpoint], lost: int, what: str) -> None:
    stranger = rival(run[lost], run[lost - 1] if lost else None)
    refusal = await attempt(handle.write(stranger))
    expect(refusal is not None, f"{naming(stranger)} by another executor, {what}, succeeded; the step was taken")


async def refuses_lost_step(kit: Kit, location: str, run: list[Checkpoint], lost: int, *, first: int) -> None:
    """Take a step away, and expect that every read that must come across it says so."""
    hook = kit.target.lost_step
    assert hook is not None
    await hook(location, "run", lost)
    handle = await kit.open(location)
    what = f"after step {lost} of 'run' was lost"
    read = handle.read_at_step("run", lost)
    await refused(read, f"read_at_step('run', {lost}) {what}", CheckpointCorruptedError, "missing-step")
    await _exact_or_refused_read(run[-1], handle.read_latest("run"), "read_latest('run')", what)
    if lost:  # where a run begins by making its first record, a lost one is free, and what follows it shows that
        await _stays_taken(handle, run, lost, what)
    if "history" not in kit.declared:
        return
    for newest_first in (False, True):
        for low, high in ((first, None), (lost, lost), (lost, None), (None, lost)):
            history = handle.history("run", from_step=low, to_step=high, newest_first=newest_first)
            yielded: list[int] = []
            try:
                while (found := await anext(history, None)) is not None:
                    yielded.append(found.step)
                raise Violation(
                    f"history('run', from_step={low}, to_step={high}, newest_first={newest_first}) {what} yielded the "
                    f"steps {yielded} and raised nothing"
                )
            except CheckpointCorruptedError:
                continue
    await handle.release()


async def _exact_or_refused(kit: Kit, run: list[Checkpoint], what: str) -> None:
    handle = await kit.open()
    for checkpoint in run:
        step = checkpoint.step
        reads: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            (f"read_at_step('run', {step})", lambda step=step: handle.read_at_step("run", step))  # type: ignore[misc]
        ]
        if checkpoint is run[-1]:
            reads.append(("read_latest('run')", lambda: handle.read_latest("run")))
        for name, read in reads:
            await _exact_or_refused_read(checkpoint, read(), name, what)
    await handle.release()


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
