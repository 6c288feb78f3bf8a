"""A process that makes calls of a driver in forks of itself, and kills or freezes them at a chosen moment.

A fork costs milliseconds where a new interpreter costs tenths of a second. It is made before the driver is opened
and before there is an event loop or a thread, so what runs in it is what would run in a new process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance._doings import TICK, Doings
from stargraph.checkpoint.conformance._expect import error_line
from stargraph.checkpoint.conformance._moments import Moment, MomentRecorder, Watch, code_of
from stargraph.checkpoint.conformance._runs import (
    BEATS,
    INDEXED,
    LATER,
    LIMITS,
    SCHEDULES,
    begin,
    chain,
    follow,
    noise,
    payload_step,
)
from stargraph.checkpoint.conformance._scene import Scene
from stargraph.checkpoint.conformance._target import opened
from stargraph.checkpoint.protocol import PruneReport, RunSummary
from stargraph.errors import CheckpointError

WAKE: Final = "wake"

_Call: TypeAlias = Callable[[], Awaitable[object]]
_Preparation: TypeAlias = Callable[[Any, Any, dict[str, Any]], Awaitable[_Call]]


def build_models() -> None:
    """Build what is built at its first use: once before a process forks instead of in every fork."""
    first = decode(encode(begin()), run_id="run", step=0)
    decode(encode(follow(first)), run_id="run", step=1)
    RunSummary.from_checkpoint(first)
    PruneReport(runs=0, checkpoints=0, dry_run=False)


def stage(scene: Scene) -> None:
    """Play what the parent orders, one call after the other, until it has nothing more to say."""
    build_models()
    scene.report("ready")
    while line := sys.stdin.readline():
        # Said to a process that had woken by itself meanwhile.
        if line.strip() == WAKE:
            continue
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            os._exit(_play(scene, order))
        _attend(scene, process, order)


def _attend(scene: Scene, process: int, order: dict[str, Any]) -> None:
    """Wait for the end of a fork; if it froze, wake it when the parent says so, or waits for what the fork holds."""
    while True:
        _, status = os.waitpid(process, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        scene.report("frozen")
        told = _told_to_wake(order)
        if told:
            sys.stdin.readline()
        scene.report("woken", told=told)
        os.kill(process, signal.SIGCONT)
    scene.report("ended", killed=os.WIFSIGNALED(status), code=os.waitstatus_to_exitcode(status))


def _told_to_wake(order: dict[str, Any]) -> bool:
    """Wait until the parent lets a frozen process go on, or its rivals seem to wait for it; return whether it did.

    However busy the machine is, they seem to wait only if they have nothing to do, or turn round in a loop.
    """
    rivals = Doings(*order["rivals"])
    while rivals.waited < order["patience"] and rivals.worked < order["effort"]:
        if select.select([sys.stdin], [], [], TICK)[0]:
            return True
        rivals.look()
    return False


def _play(scene: Scene, order: dict[str, Any]) -> int:
    watch = Watch(None if order["moment"] is None else Moment(*order["moment"]).file)
    watch.install()
    try:
        asyncio.run(_perform(scene, order, watch))
    except BaseException as error:  # noqa: BLE001  # reported to the parent, which judges it
        watch.disarm()
        scene.report("driver-error", message=error_line(error))
        return 1
    return 0


async def _perform(scene: Scene, order: dict[str, Any], watch: Watch) -> None:
    async with opened(scene.target, order["location"]) as driver:
        call = await _CALLS[order["call"]](scene, driver, order)
        recorder = MomentRecorder(order["location"], code_of(driver)) if order["moment"] is None else None
        watch.arm(recorder or _at(Moment(*order["moment"]), order["signal"]))
        try:
            await call()
        except CheckpointError as error:
            watch.disarm()
            scene.report("refused", kind=type(error).__name__, error=error_line(error))
        else:
            watch.disarm()
            scene.report("acked")
        if recorder is not None:
            chance = random.Random(order["seed"])  # noqa: S311  # reproducible on purpose
            if order["call"].startswith("read_"):
                # What may come in between is the same at each turn of a line.
                lines = {moment[:3]: moment for moment in reversed(recorder.own or recorder.others)}
                found = chance.sample(list(lines.values()), min(len(lines), order["own"]))
                scene.report("recorded", changed=[], others=found, before=[])
                return
            changed = chance.sample(recorder.changed, min(len(recorder.changed), order["most"]))
            # Where no file tells what changes the store, moments of the driver's own code stand in for those that do:
            # most lines of a call that goes to a server are those of its client, between which nothing happens.
            pool, most = (
                (recorder.others, order["others"]) if changed else (recorder.own or recorder.others, order["own"])
            )
            others = chance.sample(pool, min(len(pool), most))
            decided = [moment for moment in recorder.decided if moment not in others]
            before = _spread(recorder.before[1:], order["before"]) or _spread(recorder.own, order["before"])
            scene.report("recorded", changed=changed, others=[*decided, *others], before=before)


def _spread(moments: list[Moment], most: int) -> list[Moment]:
    """Some of these moments, as far from each other as they can be."""
    count = min(len(moments), most)
    return [moments[len(moments) * part // count] for part in range(count)]


def _at(wanted: Moment, number: int) -> Callable[[Moment], None]:
    def tell(moment: Moment) -> None:
        if moment == wanted:
            os.kill(os.getpid(), number)

    return tell


async def _write(scene: Scene, driver: Any, order: dict[str, Any]) -> _Call:
    (checkpoint,) = await _next_steps(scene, driver, order, 1)
    return lambda: driver.write(checkpoint)


async def _write_many(scene: Scene, driver: Any, order: dict[str, Any]) -> _Call:
    steps = await _next_steps(scene, driver, order, 4)
    return lambda: driver.write_many(steps)


async def _next_steps(scene: Scene, driver: Any, order: dict[str, Any], count: int) -> list[Any]:
    """The next steps of the run, which are announced to the parent before they are written."""
    await driver.bootstrap()
    latest = await driver.read_latest(order["run_id"])
    chance = random.Random(order["seed"])  # noqa: S311  # the same content each time it is played
    steps = []
    for _ in range(count):
        latest = payload_step(latest, order["run_id"], noise(chance, order["size"]), 1)
        steps.append(latest)
    scene.report("begins", digests=[checkpoint.digest for checkpoint in steps])
    return steps


async def _start_pruned(scene: Scene, driver: Any, order: dict[str, Any]) -> _Call:
    await driver.bootstrap()
    steps = chain(order["run_id"], 10, keys=("a", "b"), **INDEXED)
    return lambda: driver.start_pruned([steps[step] for step in (2, 5, 8)])


async def _bootstrap(scene: Scene, driver: Any, order: dict[str, Any]) -> _Call:
    call: _Call = driver.bootstrap
    return call


def _on_store(call: Callable[[Any, dict[str, Any]], Awaitable[object]]) -> _Preparation:
    """Prepare a call that needs nothing but a store."""

    async def prepare(scene: Scene, driver: Any, order: dict[str, Any]) -> _Call:
        await driver.bootstrap()
        return lambda: call(driver, order)

    return prepare


async def _read(scene: Scene, driver: Any, order: dict[str, Any]) -> _Call:
    """Read the run once, as a handle that is warm, and then again; what that finds is told to the parent."""
    await driver.bootstrap()
    run_id = order["run_id"]
    latest = await driver.read_latest(run_id)

    async def read() -> None:
        if order["call"] == "read_latest":
            found = await driver.read_latest(run_id)
        else:
            found = await driver.read_at_step(run_id, latest.step + (order["call"] == "read_next"))
        scene.report("found", digest="" if found is None else found.digest)

    return read


_CALLS: Final[dict[str, _Preparation]] = {
    "bootstrap": _bootstrap,
    "write": _write,
    "write_many": _write_many,
    "start_pruned": _start_pruned,
    "delete_run": _on_store(lambda driver, order: driver.delete_run(order["run_id"])),
    "prune": _on_store(lambda driver, _: driver.prune(older_than=LATER, keep_last=2)),
    "prune_failed": _on_store(lambda driver, _: driver.prune(older_than=LATER, statuses=("failed",), keep_last=0)),
    "read_latest": _read,
    "read_at_step": _read,
    "read_next": _read,
    "put_schedule": _on_store(lambda driver, _: driver.put_schedule(SCHEDULES[1])),
    "set_limits": _on_store(lambda driver, _: driver.set_limits("default", LIMITS[1])),
    "beat": _on_store(lambda driver, _: driver.beat(BEATS[1])),
    "leave": _on_store(lambda driver, _: driver.leave(BEATS[0].id)),
}
