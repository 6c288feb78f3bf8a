"""Making the store, and what happens before it is made."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

from stargraph.checkpoint.conformance._calls import optional_calls
from stargraph.checkpoint.conformance._capabilities import PROTOCOLS, methods_of
from stargraph.checkpoint.conformance._compare import absent, same, same_runs
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused, together
from stargraph.checkpoint.conformance._handle import naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain
from stargraph.checkpoint.conformance._target import REQUIRED_METHODS
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointError, StoreVersionError

group: Final = Group("bootstrap")

_CALLS: Final = {
    "bootstrap": ((), {}),
    "write": ((object(),), {}),
    "read_latest": (("run",), {}),
    "read_at_step": (("run", 0), {}),
    "list_runs": ((), {"since": None, "limit": 1}),
}


@group.check(
    "methods",
    "A driver has the five methods of the protocol: coroutine functions that take its arguments.",
    contract="capability.1",
    usual_cause="A method is missing, is not `async def`, or takes other arguments than the protocol.",
)
async def methods(kit: Kit) -> None:
    handle = await kit.unready()
    for name in REQUIRED_METHODS:
        method: Any = getattr(handle.driver, name, None)
        expect(callable(method), f"the driver has no method {name}")
        positional, named = _CALLS[name]
        try:
            inspect.signature(method).bind(*positional, **named)
        except TypeError as error:
            raise Violation(f"{name} cannot be called as the protocol says: {error}") from error
        expect(
            inspect.iscoroutinefunction(inspect.unwrap(method)),
            f"{name} is not a coroutine function (`async def`)",
        )


@group.check(
    "whole_capabilities",
    "A driver has all the methods of a capability or none of them, so that `isinstance` finds it.",
    contract="capability.1",
    usual_cause="A method is missing or has another name, so the engine and the command line take the capability for "
    "absent, and this kit leaves its checks out.",
    needs=("steps.append_and_read",),
)
async def whole_capabilities(kit: Kit) -> None:
    handle = await kit.unready()
    if kit.target.capabilities is not None:
        return
    for name, protocol in PROTOCOLS.items():
        wanted = methods_of(protocol)
        had = {method for method in wanted if callable(getattr(handle.driver, method, None))}
        lacks = sorted(wanted - had)
        expect(
            not had or not lacks,
            f"the driver has {', '.join(sorted(had))} and lacks {', '.join(lacks)}: {name} is all of them, or none;"
            " or say in the target which capabilities it has",
        )


@group.check(
    "creates",
    "bootstrap() makes an empty store if there was none.",
    contract="bootstrap.1, read.1",
    usual_cause="The store is made lazily, or an unknown run raises instead of giving None.",
    needs=("bootstrap.methods",),
)
async def creates(kit: Kit) -> None:
    handle = await kit.open()
    absent(await handle.read_latest("nobody"), "read_latest('nobody') in a new store")
    absent(await handle.read_at_step("nobody", 0), "read_at_step('nobody', 0) in a new store")
    same_runs([], await handle.list_runs(), "list_runs() in a new store")


@group.check(
    "required_first",
    'Every method before bootstrap() raises CheckpointError(reason="not-bootstrapped").',
    contract="bootstrap.5",
    usual_cause="The handle connects on first use, the target yields a handle that is bootstrapped already "
    "(`async with` bootstraps), or the store's own error about a missing table comes out.",
    version=2,
    needs=("bootstrap.methods",),
)
async def required_first(kit: Kit) -> None:
    handle = await kit.unready()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "write": lambda: handle.write(begin()),
        "read_latest": lambda: handle.read_latest("run"),
        "read_at_step": lambda: handle.read_at_step("run", 0),
        "list_runs": handle.list_runs,
    }
    calls |= optional_calls(kit, handle, chain(length=3))
    for name, call in calls.items():
        await refused(call(), f"{name} before bootstrap()", CheckpointError, "not-bootstrapped")


@group.check(
    "twice",
    "bootstrap() is idempotent: a second call changes and loses nothing.",
    contract="bootstrap.2",
    usual_cause="The tables are dropped or created without IF NOT EXISTS, or a cache is reset.",
    needs=("steps.append_and_read",),
)
async def twice(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain()
    for checkpoint in steps:
        await handle.write(checkpoint)
    await handle.bootstrap()
    for checkpoint in steps:
        what = f"read_at_step('run', {checkpoint.step}) after a second bootstrap()"
        same(checkpoint, await handle.read_at_step("run", checkpoint.step), what)
    await handle.write(begin("later"))


@group.check(
    "beside_calls",
    "bootstrap() of an open handle disturbs no call that is in flight, of whatever kind.",
    contract="bootstrap.6",
    usual_cause="bootstrap() first takes back what the one before had set, or replaces the connection under a call.",
    needs=("bootstrap.twice",),
)
async def beside_calls(kit: Kit) -> None:
    handle = await kit.open()
    runs = [chain(f"run-{number}", 4) for number in range(8)]
    for steps in runs:
        await handle.write(steps[0])

    async def go_on(steps: list[Checkpoint]) -> None:
        for checkpoint in steps[1:]:
            await handle.write(checkpoint)
            same(checkpoint, await handle.read_latest(checkpoint.run_id), "read_latest beside bootstrap()")
            await handle.list_runs()

    async def again() -> None:
        for _ in range(4):
            await handle.bootstrap()
            await asyncio.sleep(0)

    await together(*map(go_on, runs), again(), again())
    for steps in runs:
        what = f"read_latest({steps[0].run_id!r}) after bootstrap() beside writes"
        same(steps[-1], await handle.read_latest(steps[0].run_id), what)


@group.check(
    "second_handle",
    "bootstrap() of another handle leaves the store as it is, and finds what it holds.",
    contract="bootstrap.2",
    usual_cause="The store is created again by every handle, or what is stored lives in the handle.",
    needs=("steps.append_and_read",),
)
async def second_handle(kit: Kit) -> None:
    first = await kit.open()
    steps = chain()
    for checkpoint in steps:
        await first.write(checkpoint)
    second = await kit.open()
    same(steps[-1], await second.read_latest("run"), "read_latest('run') of a second handle")
    same(steps[-1], await first.read_latest("run"), "read_latest('run') of the first handle")


@group.check(
    "eight_handles",
    "bootstrap() is safe when many handles call it at once on a store that does not exist yet.",
    contract="bootstrap.2",
    usual_cause="It looks whether the tables are there and then creates them, without a lock or IF NOT EXISTS.",
    needs=("steps.append_and_read",),
)
async def eight_handles(kit: Kit) -> None:
    # Each round is one more chance for two of them to meet in the middle.
    for _ in range(3):
        location = await kit.fresh_location()
        handles = [await kit.unready(location) for _ in range(8)]

        async def use(number: int, handles: list = handles) -> None:  # type: ignore[type-arg]
            await handles[number].bootstrap()
            await handles[number].write(begin(f"run-{number}"))

        outcomes = await asyncio.gather(*map(use, range(8)), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise Violation(
                f"{len(failures)} of 8 handles failed that bootstrapped one store at once: {error_line(failures[0])}"
            ) from failures[0]
        wanted = [f"run-{number}" for number in range(8)]
        same_runs(wanted, await handles[0].list_runs(), "list_runs() after 8 handles bootstrapped at once")


@group.check(
    "four_processes",
    "bootstrap() is safe when many processes call it at once on a store that does not exist yet.",
    contract="bootstrap.2",
    usual_cause="A lock inside the process guards the creation; other processes do not see it.",
    needs=("bootstrap.eight_handles",),
    processes=True,
)
async def four_processes(kit: Kit) -> None:
    children = await together(*(kit.child("bootstrap", run_id=f"run-{number}") for number in range(4)))
    for child in children:
        await child.expect("ready")
    await together(*(child.tell("go") for child in children))
    for child in children:
        await child.expect("acked")
    handle = await kit.open()
    wanted = [f"run-{number}" for number in range(4)]
    same_runs(wanted, await handle.list_runs(), "list_runs() after 4 processes bootstrapped at once")


@group.check(
    "newer_format_refused",
    "A store of a newer format is refused with StoreVersionError and not touched.",
    contract="bootstrap.3",
    usual_cause="The version is not checked, or is overwritten with the version of this software.",
    needs=("bootstrap.second_handle",),
    capability="newer-format",
)
async def newer_format_refused(kit: Kit) -> None:
    first = await kit.open()
    steps = chain()
    for checkpoint in steps:
        await first.write(checkpoint)
    await first.release()
    assert kit.target.newer_format is not None
    async with kit.target.newer_format(kit.location):
        read_only = kit.target.read_only
        openers = {"first": None, "second": None, "third" if read_only is None else "read-only": read_only}
        for attempt, opener in openers.items():
            handle = await kit.unready(opener=opener)
            try:
                await handle.bootstrap()
            except StoreVersionError:
                if opener is None:
                    what = naming(begin("other"))
                    await refused(handle.write(begin("other")), what, CheckpointError, "not-bootstrapped")
            except Exception as error:
                raise Violation(
                    f"bootstrap() of a {attempt} handle on a newer store raised {error_line(error)};"
                    " the contract wants StoreVersionError"
                ) from error
            else:
                raise Violation(
                    f"bootstrap() of a {attempt} handle on a newer store succeeded;"
                    " the contract wants StoreVersionError"
                )
            await handle.release()
    again = await kit.open()
    for checkpoint in steps:
        what = f"read_at_step('run', {checkpoint.step}) after a refused bootstrap()"
        same(checkpoint, await again.read_at_step("run", checkpoint.step), what)


@group.check(
    "unclosed_exits_silently",
    "A handle that was never closed neither keeps the interpreter alive nor prints anything at exit.",
    contract="capability.4",
    usual_cause="A worker thread that is not a daemon, or a connection whose finalizer complains.",
    needs=("durability.reopen",),
    processes=True,
    deadline=20,
)
async def unclosed_exits_silently(kit: Kit) -> None:
    child = await kit.child("unclosed", run_id="run")
    acknowledged = await child.expect("acked")
    code, stderr = await child.ended()
    expect(code == 0, f"a process that did not close its handle ended with exit code {code}: {stderr.strip()[-300:]}")
    expect(not stderr, f"a process that did not close its handle printed on stderr: {stderr.strip()[-300:]!r}")
    latest = await (await kit.open()).read_latest("run")
    expect(
        latest is not None and latest.digest == acknowledged["digest"],
        "what a process had written whose handle was not closed is not there",
    )
