"""Closing: let go of what the handle holds, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from stargraph.checkpoint.conformance._calls import optional_calls
from stargraph.checkpoint.conformance._compare import absent, same, same_steps
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused, together
from stargraph.checkpoint.conformance._files import Backup
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain, follow, rival
from stargraph.checkpoint.conformance._views import Book, agree
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointError

group: Final = Group("closing", needs=("steps.append_and_read",), capability="closing")


@group.check(
    "context_manager",
    "`async with` bootstraps on entry, gives the handle, and closes on exit, also after an exception.",
    contract="close.1, close.4",
    usual_cause="__aenter__ gives None or does not bootstrap, or __aexit__ swallows the exception.",
    needs=("closing.refuses_after",),
)
async def context_manager(kit: Kit) -> None:
    handle = await kit.unready()
    async with handle.driver as entered:
        expect(entered is handle.driver, f"`async with` gave {type(entered).__name__} instead of the handle")
        await handle.write(begin())
        same(begin(), await handle.read_latest("run"), "read_latest('run') inside `async with`")
    await refused(handle.read_latest("run"), "read_latest after `async with`", CheckpointError, "closed")
    second = await kit.unready()
    try:
        async with second.driver:
            raise _Passing
    except _Passing:
        pass
    else:
        raise Violation("`async with` swallowed an exception of its body")
    await refused(second.read_latest("run"), "read_latest after `async with`", CheckpointError, "closed")


class _Passing(Exception):
    """Must come out of `async with`."""


@group.check(
    "idempotent",
    "close() can be called twice, and by many tasks at once.",
    contract="close.2",
    usual_cause="A connection is closed a second time.",
)
async def idempotent(kit: Kit) -> None:
    handle = await kit.open()
    await handle.write(begin())
    await together(*(handle.close() for _ in range(4)))
    await handle.close()


@group.check(
    "before_bootstrap",
    "close() before bootstrap() does nothing: other calls are refused as before, and bootstrap() opens the handle.",
    contract="bootstrap.5, close.2",
    usual_cause="close() uses a connection that is not there yet, or marks the handle as closed for good.",
)
async def before_bootstrap(kit: Kit) -> None:
    handle = await kit.unready()
    await handle.close()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "write": lambda: handle.write(begin()),
        "read_latest": lambda: handle.read_latest("run"),
        "list_runs": handle.list_runs,
    }
    for name, call in calls.items():
        what = f"{name} after close(), without a bootstrap()"
        try:
            await call()
        except CheckpointError as error:
            # Both words fit: it was not bootstrapped, and it was closed.
            expect(
                error.reason in ("not-bootstrapped", "closed"),
                f"{what} raised {error_line(error)}; the contract wants the reason 'not-bootstrapped' or 'closed'",
            )
        except Exception as error:
            raise Violation(f"{what} raised {error_line(error)}; the contract wants CheckpointError") from error
        else:
            raise Violation(f"{what} succeeded; the contract wants CheckpointError")
    await handle.close()
    await handle.bootstrap()
    steps = chain()
    for checkpoint in steps:
        await handle.write(checkpoint)
    same(steps[-1], await handle.read_latest("run"), "read_latest('run') after close() and then bootstrap()")


@group.check(
    "refuses_after",
    'After close() every method raises CheckpointError(reason="closed").',
    contract="close.4",
    usual_cause="The library's own error comes out, or the handle connects again by itself.",
    version=2,
)
async def refuses_after(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain()
    for checkpoint in steps:
        await handle.write(checkpoint)
    await handle.close()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "write": lambda: handle.write(follow(steps[-1])),
        "read_latest": lambda: handle.read_latest("run"),
        "read_at_step": lambda: handle.read_at_step("run", 0),
        "list_runs": handle.list_runs,
    }
    calls |= optional_calls(kit, handle, steps)
    for name, call in calls.items():
        await refused(call(), f"{name} after close()", CheckpointError, "closed")
    other = await kit.open()
    same(steps[-1], await other.read_latest("run"), "read_latest('run') of another handle after close()")


@group.check(
    "every_call_in_flight",
    "close() beside calls of every kind in flight: each ends as if it had come before or after, and none hangs; what "
    "was acknowledged is there, in every read.",
    contract="close.3",
    usual_cause="Reads fail with the library's own error, a batch is cut in its middle, or an iteration that was begun "
    "waits for ever.",
    needs=("closing.with_calls_in_flight",),
    quick=False,
)
async def every_call_in_flight(kit: Kit) -> None:
    for turn in range(4):
        location = await kit.fresh_location()
        handle, book = await kit.open(location), Book()
        steps = chain(length=4)
        for checkpoint in steps:
            await handle.write(checkpoint)
        new = [chain(f"new-{number}", 6, metadata={"team": "blue"}) for number in range(4)]
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "read_latest": lambda: handle.read_latest("run"),  # noqa: B023  # called in this turn
            "read_at_step": lambda: handle.read_at_step("run", 1),  # noqa: B023
            "list_runs": handle.list_runs,
        }
        calls |= {name: call for name, call in optional_calls(kit, handle, steps).items() if "write_many" not in name}
        if "history" in kit.declared:
            calls["history"] = lambda: _whole_history(handle, steps)  # noqa: B023
        names = kit.random.sample(list(calls), len(calls))
        tasks = {name: asyncio.ensure_future(calls[name]()) for name in names}
        writes = {run[0].run_id: asyncio.ensure_future(_written(kit, handle, run)) for run in new}
        for _ in range(turn * 2):
            await asyncio.sleep(0)
        await handle.close()
        outcomes = dict(zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True))
        for name, outcome in outcomes.items():
            if isinstance(outcome, Violation):
                raise outcome
            if isinstance(outcome, BaseException) and not isinstance(outcome, CheckpointError):
                raise Violation(
                    f"{name} beside close() raised {error_line(outcome)};"
                    " the contract wants its result or CheckpointError"
                ) from outcome
        counts = await asyncio.gather(*writes.values(), return_exceptions=True)
        await handle.bootstrap()
        book.wrote(*steps)
        for run, count in zip(new, counts, strict=True):
            if isinstance(count, BaseException):
                raise Violation(f"a write beside close() raised {error_line(count)}") from count
            latest = await handle.read_latest(run[0].run_id)
            last = -1 if latest is None else latest.step
            what = f"{count} steps of {run[0].run_id!r} were acknowledged beside close(), and {last + 1} are there"
            expect(count - 1 <= last, what)
            if latest is not None:
                book.wrote(*run[: last + 1])
        for reader in (handle, await kit.open(location)):
            await agree(reader, book, kit.declared, "after close() beside calls of every kind")


async def _whole_history(handle: Handle, steps: list[Checkpoint]) -> None:
    found = [found async for found in handle.history("run")]
    same_steps(steps, found, "history('run') beside close()")


async def _written(kit: Kit, handle: Handle, run: list[Checkpoint]) -> int:
    """Write a run, in a batch if the driver can, and return how many steps were acknowledged."""
    count = 0
    try:
        if "batch" in kit.declared:
            await handle.write_many(run[:3])
            count = 3
        for checkpoint in run[count:]:
            await handle.write(checkpoint)
            count += 1
    except CheckpointError:
        return count
    return count


@group.check(
    "others_stay_open",
    "Closing a handle closes no other one on the same store, whatever the two share.",
    contract="close.1",
    usual_cause="Handles share a pool, and the first one that closes takes it away from the others.",
    needs=("closing.refuses_after",),
)
async def others_stay_open(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(3)]
    steps = chain(length=4)
    await handles[1].write(steps[0])
    for number, step in ((0, 1), (2, 2)):
        await handles[number].close()
        what = f"after {1 if number == 0 else 2} of 3 handles on the store were closed"
        same(steps[step - 1], await handles[1].read_latest("run"), f"read_latest('run') {what}")
        await handles[1].write(steps[step])
        same(steps[step], await handles[1].read_latest("run"), f"read_latest('run') {what}, and a step more")
    await handles[0].bootstrap()
    await handles[0].write(steps[3])
    for handle in handles[:2]:
        same(steps[3], await handle.read_latest("run"), "read_latest('run') after one of them was opened again")


@group.check(
    "reopens",
    "bootstrap() opens a closed handle again, with all that was stored.",
    contract="close.4",
    usual_cause="A flag of the first bootstrap() is still set, or an executor that was shut down is used again.",
    needs=("closing.refuses_after",),
)
async def reopens(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=4)
    for checkpoint in steps:
        await handle.write(checkpoint)
        await handle.close()
        await handle.bootstrap()
        same(checkpoint, await handle.read_latest("run"), "read_latest('run') after close() and bootstrap()")
    for checkpoint in steps:
        what = f"read_at_step('run', {checkpoint.step}) after close() and bootstrap()"
        same(checkpoint, await handle.read_at_step("run", checkpoint.step), what)


@group.check(
    "restored",
    "Once all handles on a store of files are closed, a copy of it can be put in its place: who opens it then reads "
    "what the copy holds, and writes are judged by that.",
    contract="close.1, read.5",
    usual_cause="A connection, a file or a cache is kept for each path as long as the process lives, and outlives the "
    "file that it belongs to.",
    needs=("closing.reopens",),
)
async def restored(kit: Kit) -> None:
    first, second = await kit.open(), await kit.open()
    steps = chain(length=3)
    for checkpoint in steps[:2]:
        await first.write(checkpoint)
    for handle in (first, second):
        await handle.close()
    with TemporaryDirectory(prefix="stargraph-conformance-") as folder:
        backup = Backup(kit.location, Path(folder))
        await first.bootstrap()
        await first.write(steps[2])
        same(steps[2], await first.read_latest("run"), "read_latest('run') of a store that was copied")
        await first.close()
        if not backup.put_back():
            return
    other = rival(steps[2], steps[1])
    third, fourth = await kit.open(), await kit.open()
    for handle in (third, fourth):
        same(steps[1], await handle.read_latest("run"), "read_latest('run') of a store whose copy was put back")
        absent(await handle.read_at_step("run", 2), "read_at_step('run', 2) of a store whose copy was put back")
    await third.write(other)
    for handle in (fourth, await kit.open()):
        same(other, await handle.read_latest("run"), "read_latest('run') after a step to a copy that was put back")


@group.check(
    "with_calls_in_flight",
    "close() beside writes in flight: each is acknowledged and stored, or refused; none hangs.",
    contract="close.3",
    usual_cause="The connection is closed under a running call, or a queue is dropped with what it holds.",
    needs=("closing.refuses_after", "closing.reopens"),
)
async def with_calls_in_flight(kit: Kit) -> None:
    handle = await kit.open()
    for turn in range(4):
        runs = [begin(f"run-{turn}-{number}") for number in range(16)]
        tasks = [asyncio.ensure_future(handle.write(checkpoint)) for checkpoint in runs]
        for _ in range(turn):
            await asyncio.sleep(0)
        await handle.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await handle.bootstrap()
        for checkpoint, outcome in zip(runs, outcomes, strict=True):
            if outcome is None:
                what = f"read_latest({checkpoint.run_id!r}), whose write was acknowledged beside close()"
                same(checkpoint, await handle.read_latest(checkpoint.run_id), what)
            elif not isinstance(outcome, CheckpointError):
                raise Violation(
                    f"a write beside close() raised {error_line(outcome)};"
                    " the contract wants success or CheckpointError"
                ) from outcome
