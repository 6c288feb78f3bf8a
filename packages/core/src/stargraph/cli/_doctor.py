"""`stargraph doctor`."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stargraph.cli._options import CHECKPOINT_VARIABLE, DEFAULT_CHECKPOINT, JsonOption, KeysOption
from stargraph.cli._output import clean, print_json, print_lines
from stargraph.errors import CheckpointNotFoundError, StargraphError

if TYPE_CHECKING:
    from stargraph.checkpoint.registry import DriverInfo


def doctor(
    url: Annotated[
        str, typer.Argument(metavar="PATH_OR_URL", envvar=CHECKPOINT_VARIABLE, show_envvar=False, help="A store.")
    ] = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Report versions, drivers and known problems of this machine, and open a store to see that it works."""
    from stargraph.checkpoint.registry import installed_drivers
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import keyring

    report: dict[str, Any] = {
        "stargraph": _version("stargraph-core"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "sealed": keyring() is not None,
        "drivers": [_examine(driver) for driver in installed_drivers()],
    }
    report["store"], error = run_async(_try_store(url))
    if json and error is None:
        print_json(report)
    elif not json:
        print_lines(_told(report))
    if error is not None:
        raise error


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution)


def _examine(driver: DriverInfo) -> dict[str, Any]:
    """What a driver tells of itself; its class may have `diagnose()`, which returns known problems."""
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


async def _try_store(url: str) -> tuple[dict[str, Any], StargraphError | None]:
    from stargraph.checkpoint.driver import SelfTest
    from stargraph.cli._store import opened, shown

    told: dict[str, Any] = {"url": shown(url)}
    try:
        async with opened(url, must_exist=True) as store:
            newest = await store.list_runs(limit=1)
            checks = await store.examine() if isinstance(store, SelfTest) else []
    except CheckpointNotFoundError:
        return {**told, "state": "not made yet; the first run makes it"}, None
    except StargraphError as error:
        return {**told, "state": "does not work"}, error
    return {**told, "state": "works", "newest_run": newest[0].run_id if newest else None, "checks": checks}, None


def _told(report: dict[str, Any]) -> list[str]:
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
    return [*lines, *(f"           checked: {clean(check)}" for check in store.get("checks", ()))]
