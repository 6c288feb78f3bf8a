"""What the kit runs in child processes: `python -m stargraph.checkpoint.conformance._child ORDER`.

A script reports JSON lines on the stdout that the process was started with; whatever the driver prints goes to
stderr instead.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Final, NoReturn

from stargraph.checkpoint.conformance._clock import shift_clock
from stargraph.checkpoint.conformance._expect import HarnessError, error_line
from stargraph.checkpoint.conformance._fork_server import serve as serve_forks
from stargraph.checkpoint.conformance._interpreters import answers_on_stdout
from stargraph.checkpoint.conformance._neighbours import CLOCK
from stargraph.checkpoint.conformance._runs import begin, executor_id, follow, noise
from stargraph.checkpoint.conformance._scene import Scene
from stargraph.checkpoint.conformance._serve import serve
from stargraph.checkpoint.conformance._stage import stage
from stargraph.checkpoint.conformance._target import load_target, looks_like_driver, opened
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError

Script = Callable[[Scene], Coroutine[Any, Any, None]]


async def bootstrap(scene: Scene) -> None:
    """Bootstrap at a signal, write a run, report it."""
    async with opened(scene.target, scene.location) as driver:
        scene.report("ready")
        await scene.heard()
        await driver.bootstrap()
        checkpoint = begin(scene.arguments["run_id"])
        await driver.write(checkpoint)
        scene.acknowledged(checkpoint)


async def burst(scene: Scene) -> None:
    """Append steps to a run as fast as the store takes them, from where the run stands, until killed.

    With `room`, no file may grow beyond so many bytes: the system ends the process inside the write that would. It cuts
    the write before that one short, which a driver may notice, and give up: then the process ends there.
    """
    run_id, size = scene.arguments["run_id"], scene.arguments["size"]
    count, room = scene.arguments.get("count"), scene.arguments.get("room")
    chance = Random()  # noqa: S311  # no secret
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        latest = await driver.read_latest(run_id)
        if room is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            limit_files(room)
        while count is None or latest is None or latest.step < count:
            payload = {"payload": noise(chance, size)}
            latest = begin(run_id, state=payload) if latest is None else follow(latest, changes=payload)
            try:
                await driver.write(latest)
            except StoreUnavailableError:
                if room is None:
                    raise
                os.kill(os.getpid(), signal.SIGKILL)
            scene.acknowledged(latest)


def limit_files(room: int | None) -> None:
    """Let no file of this process grow beyond so many bytes; None takes the limit away."""
    import resource  # absent on Windows, where nobody asks for this

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if room is None else room, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


async def cramped(scene: Scene) -> None:
    """Append steps while no file may grow beyond `room` bytes; write again what failed, once there is room again."""
    run_id, size, count = scene.arguments["run_id"], scene.arguments["size"], scene.arguments["count"]
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        latest, chance = None, Random()  # noqa: S311  # no secret
        limit_files(scene.arguments["room"])
        for step in range(count):
            payload = {"payload": noise(chance, size)}
            latest = begin(run_id, state=payload) if latest is None else follow(latest, changes=payload)
            try:
                await driver.write(latest)
            except StoreUnavailableError:
                limit_files(None)
                found = await driver.read_latest(run_id)
                scene.report("unavailable", step=step, latest=-1 if found is None else found.step)
                await driver.write(latest)
            except Exception as error:  # noqa: BLE001  # reported to the parent, which judges it
                scene.report("raised", step=step, error=error_line(error))
                return
            scene.acknowledged(latest)


async def idle(scene: Scene) -> None:
    """Open the store, write one run, and hold the handle until killed."""
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        checkpoint = begin(scene.arguments["run_id"])
        await driver.write(checkpoint)
        scene.acknowledged(checkpoint)
        await scene.heard()


async def race(scene: Scene) -> None:
    """Try to append every step of a run; others try too."""
    run_id, last, number = scene.arguments["run_id"], scene.arguments["last"], scene.arguments["number"]
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        scene.report("ready")
        await scene.heard()
        attempts = 0
        while True:
            latest = await driver.read_latest(run_id)
            if latest is not None and latest.step >= last:
                return
            attempts += 1
            # It grows, so that a step that is stored as a difference from the one before depends on who wrote that.
            path = [] if latest is None else latest.fresh_state()["path"]
            content = {"path": [*path, [number, attempts]]}
            mine = (
                begin(run_id, executor_id=executor_id(number), state=content)
                if latest is None
                else follow(latest, executor_id=executor_id(number), changes=content)
            )
            try:
                await driver.write(mine)
            except CheckpointConflictError:
                continue
            except StoreUnavailableError:
                await _settle(driver, mine, scene)
                continue
            scene.acknowledged(mine)


async def _settle(driver: Checkpointer, mine: Checkpoint, scene: Scene) -> None:
    """Settle an unknown outcome as the contract says: by writing the same checkpoint again."""
    while True:
        await asyncio.sleep(0.05)
        try:
            await driver.write(mine)
        except StoreUnavailableError:
            continue
        except CheckpointConflictError:
            return
        scene.acknowledged(mine)
        return


async def executor_run(scene: Scene) -> None:
    """Write the first steps of a run; then, at a signal, the next one, and report how it went."""
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        latest = begin(scene.arguments["run_id"], executor_id=executor_id(1))
        await driver.write(latest)
        scene.acknowledged(latest)
        for _ in range(scene.arguments["steps"] - 1):
            latest = follow(latest)
            await driver.write(latest)
            scene.acknowledged(latest)
        scene.report("ready")
        await scene.heard()
        for _ in range(2):
            latest = follow(latest, changes={"written_by": "the one that was stopped"})
            try:
                await driver.write(latest)
            except CheckpointError as error:
                scene.report("refused", step=latest.step, kind=type(error).__name__, error=error_line(error))
            else:
                scene.acknowledged(latest)
        scene.report("finished")


async def read(scene: Scene) -> None:
    """Report the digests of a run's steps, then append one more."""
    run_id = scene.arguments["run_id"]
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        latest = await driver.read_latest(run_id)
        if latest is None:
            scene.report("read", digests=None, runs=[])
            return
        steps = [await driver.read_at_step(run_id, step) for step in range(latest.step + 1)]
        runs = [summary.run_id for summary in await driver.list_runs()]
        scene.report("read", digests=[step and step.digest for step in steps], runs=runs)
        following = follow(latest, changes={"written_by": "another process"})
        await driver.write(following)
        scene.acknowledged(following)


async def unclosed(scene: Scene) -> None:
    """Use a handle, and let it go without closing it."""
    thing: Any = scene.target.open(scene.location)
    driver: Checkpointer = thing if looks_like_driver(thing) else await _enter_for_good(thing)
    await driver.bootstrap()
    checkpoint = begin(scene.arguments["run_id"])
    await driver.write(checkpoint)
    await driver.read_latest(checkpoint.run_id)
    scene.acknowledged(checkpoint)


async def engine(scene: Scene) -> None:
    """Run a graph with the engine, and stay in one of its nodes until killed."""
    from stargraph.checkpoint.conformance import _graphs

    async def hold(node: str) -> None:
        if node == scene.arguments["hold"]:
            scene.report("held", node=node)
            await scene.heard()
            os._exit(1)

    run_id = scene.arguments["run_id"]
    _graphs.BEFORE[run_id] = hold
    async with opened(scene.target, scene.location) as driver:
        await driver.bootstrap()
        run = await _graphs.sequence().start(checkpointer=driver, run_id=run_id)
        await run.start()


async def answer(scene: Scene) -> None:
    """Answer calls of the driver protocol, on many handles and stores, until there are no more."""
    await serve(scene.target, scene.send)


FORK_PATIENCE: Final = 5
"""Seconds that a call in a forked process may take."""


def forked(scene: Scene) -> None:
    """Open a handle, fork, let the fork use the handle, and go on with it."""
    with asyncio.Runner() as runner:
        closing = AsyncExitStack()
        driver = runner.run(closing.enter_async_context(opened(scene.target, scene.location)))
        runner.run(driver.bootstrap())
        latest = begin(scene.arguments["run_id"])
        runner.run(driver.write(latest))
        scene.acknowledged(latest)
        process = os.fork()
        if process == 0:
            _use_inherited(scene, driver, latest)
        _, status = os.waitpid(process, 0)
        if os.waitstatus_to_exitcode(status) == -signal.SIGALRM:
            scene.report("hung", call="a call", seconds=FORK_PATIENCE)
        for _ in range(3):
            latest = follow(latest)
            runner.run(driver.write(latest))
            scene.acknowledged(latest)
        runner.run(closing.aclose())


def _use_inherited(scene: Scene, driver: Checkpointer, latest: Checkpoint) -> NoReturn:
    """Call each method in a fork of the process that opened the handle, and leave without any cleaning up."""

    async def written() -> None:
        first = begin("forked")
        await driver.write(first)
        scene.acknowledged(first)

    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "read_latest": lambda: driver.read_latest(latest.run_id),
        "list_runs": driver.list_runs,
        "write": written,
    }
    for name, call in calls.items():
        # A call that blocks the thread is ended by the signal, and this process with it.
        signal.alarm(FORK_PATIENCE + 1)
        try:
            asyncio.run(asyncio.wait_for(call(), FORK_PATIENCE))
        except TimeoutError:
            scene.report("hung", call=name, seconds=FORK_PATIENCE)
        except StoreUnavailableError:
            scene.report("refused", call=name)
        except BaseException as error:  # noqa: BLE001  # reported to the parent, whose verdict it becomes
            scene.report("raised", call=name, error=error_line(error))
    os._exit(0)


async def _enter_for_good(context: Any) -> Any:
    """Enter a target's context manager so that nothing ever leaves it, not even the end of the loop."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        handle = await context.__aenter__()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
    return handle


SCRIPTS: dict[str, Script] = {
    "bootstrap": bootstrap,
    "burst": burst,
    "cramped": cramped,
    "idle": idle,
    "race": race,
    "engine": engine,
    "executor_id": executor_run,
    "read": read,
    "serve": answer,
    "unclosed": unclosed,
}


SYNCHRONOUS: dict[str, Callable[[Scene], None]] = {"forked": forked, "stage": stage}
"""Scripts that fork, and so must not be called from an event loop."""


def main(order: dict[str, Any]) -> int:
    """Run the script that an order names; return the exit code."""
    channel = answers_on_stdout(order["path"])
    shift_clock(float(os.environ.get(CLOCK, "0")))
    try:
        scene = Scene(load_target(order["target"]), order["location"], order["arguments"], channel)
    except HarnessError as error:
        channel.write(json.dumps({"event": "harness-error", "message": str(error)}) + "\n")
        channel.flush()
        return 3
    try:
        if order["script"] in SYNCHRONOUS:
            SYNCHRONOUS[order["script"]](scene)
        else:
            asyncio.run(SCRIPTS[order["script"]](scene))
    except Exception as error:  # noqa: BLE001  # reported to the parent, which judges it
        kind = "harness-error" if isinstance(error, HarnessError) else "driver-error"
        scene.report(kind, message=error_line(error))
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--fork-server":
        sys.exit(serve_forks(socket.socket(fileno=int(sys.argv[2])), main, sys.argv[3:]))
    sys.exit(main(json.loads(sys.argv[1])))
