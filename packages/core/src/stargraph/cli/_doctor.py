"""`stargraph doctor`."""

from __future__ import annotations

import contextlib
import platform
from typing import TYPE_CHECKING, Any, Final

from stargraph.cli._options import DEFAULT_CHECKPOINT, STORE_ARGUMENT, JsonOption, KeysOption, StoreArgument
from stargraph.cli._output import clean, print_json, print_lines
from stargraph.errors import CheckpointCorruptedError, CheckpointNotFoundError, StargraphError, StoreVersionError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import RunSummary
    from stargraph.checkpoint.registry import DriverInfo
    from stargraph.cli._store import Access, StoreRef

_NO_WRITES: Final = {"access-denied", "permission-denied", "read-only"}
"""Why a store that can be read refuses to be opened for writing."""


_FORMATS: Final = {
    "older-format": "an older format, and was left as it is",
    "newer-format": "a newer format, and was left as it is",
}

_SHOWN: Final = 20
"""Repaired entries that are shown one by one; `--json` has all."""


def doctor(
    store: StoreArgument = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Report versions, drivers and known problems of this machine, and check that a store works.

    Missing or stale entries of the queue index are repaired, so that workers find the runs again. A store of an older
    format is reported, and left as it is: `stargraph migrate` brings it to the current one.
    """
    from stargraph.checkpoint.registry import installed_drivers
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef, keyring

    report: dict[str, Any] = {
        "stargraph": _version("stargraph-core"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "sealed": keyring() is not None,
        "drivers": [_examine(driver) for driver in installed_drivers()],
    }
    report["store"], error = run_async(_try_store(StoreRef(store, encryption_keys, STORE_ARGUMENT)))
    if json and error is None:
        print_json(report)
    elif not json:
        print_lines(_in_words(report))
    if error is not None:
        raise error


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution)


def _examine(driver: DriverInfo) -> dict[str, Any]:
    """What a driver says of itself; its class may have `diagnose()`, which returns known problems."""
    from importlib import import_module

    from stargraph.checkpoint.driver import Diagnosing

    module, _, name = driver.target.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        problems = [f"it cannot be imported: {error}"]
    else:
        problems = found.diagnose() if isinstance(found, Diagnosing) else []
    return {
        "scheme": driver.scheme,
        "distribution": driver.distribution,
        "version": driver.version,
        "problems": problems,
    }


async def _try_store(ref: StoreRef) -> tuple[dict[str, Any], StargraphError | None]:
    found: dict[str, Any] = {"url": str(ref)}
    try:
        async with ref.opened("read"):
            pass  # a handle that writes would migrate an older store
    except StoreVersionError as error:
        return {**found, "state": f"has {_FORMATS.get(error.reason or '', 'another format')}"}, error
    except StargraphError:
        pass  # what is wrong, or why it takes no reader alone, shows below
    try:
        return await _examined(ref, "write", found, "works")
    except CheckpointNotFoundError:
        return {**found, "state": "does not exist yet; the first run makes it"}, None
    except StargraphError as error:
        refused = error
    if refused.reason in _NO_WRITES:
        with contextlib.suppress(StargraphError):
            return await _examined(ref, "read", found, "works, for reading alone")
    return {**found, "state": "does not work"}, refused


async def _examined(
    ref: StoreRef, access: Access, found: dict[str, Any], state: str
) -> tuple[dict[str, Any], StargraphError | None]:
    """Return what a store says of itself; what is damaged of single runs or queues keeps nothing else from that."""
    from stargraph.checkpoint.driver import QueueRepair, SelfTest
    from stargraph.worker import damaged_runs

    damage: CheckpointCorruptedError | None = None
    newest: list[RunSummary] = []
    async with ref.opened(access) as store:
        try:
            newest = await store.list_runs(limit=1)
        except CheckpointCorruptedError as error:
            if error.reason != "corrupted-record":  # the store as a whole is damaged
                raise
            damage = error
        checks = await store.examine() if isinstance(store, SelfTest) else []
        repaired = await store.repair_queues() if access == "write" and isinstance(store, QueueRepair) else []
        try:
            left_aside = [run.error for run in await damaged_runs(store)]
        except CheckpointCorruptedError as error:
            if error.reason != "corrupted-record":
                raise
            left_aside, damage = [], damage or error
    examined = {"newest_run": newest[0].run_id if newest else None, "checks": checks, "repaired": repaired}
    if damage is None and left_aside:
        damage = CheckpointCorruptedError(left_aside[0], reason="corrupted-record")
    state = state if damage is None else f"{state}, but holds damage"
    return {**found, "state": state, **examined, "damaged": left_aside}, damage


def _in_words(report: dict[str, Any]) -> list[str]:
    store = report["store"]
    newest = f"; newest run {store['newest_run']}" if store.get("newest_run") else ""
    lines = [
        f"stargraph  {report['stargraph']}",
        f"python     {report['python']}, {report['platform']}",
        f"seals      {'on' if report['sealed'] else 'off'}",
    ]
    for driver in report["drivers"]:
        lines.append(f"driver     {driver['scheme']}://  {driver['distribution']} {driver['version']}")
        lines += [f"           problem: {clean(problem)}" for problem in driver["problems"]]
    lines.append(f"store      {store['url']}: {store['state']}{newest}")
    lines += [f"           checked: {clean(check)}" for check in store.get("checks", ())]
    lines += [f"           damaged: {clean(sentence)}" for sentence in store.get("damaged", [])[:_SHOWN]]
    repaired = store.get("repaired", [])
    lines += [f"           repaired: {clean(sentence)}" for sentence in repaired[:_SHOWN]]
    return [*lines, *([f"           repaired: {len(repaired) - _SHOWN:,} more"] if len(repaired) > _SHOWN else [])]
