"""The drivers have one shape: the same files, and the methods of the contract in the same order."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.workspace import ROOT

from stargraph.checkpoint.protocol import (
    BatchAppend,
    Checkpointer,
    Closing,
    KeyedSteps,
    PrunedStart,
    RunDeletion,
    RunHistory,
    RunSearch,
    RunTree,
)
from stargraph.checkpoint.registry import installed_drivers, open_checkpointer
from stargraph.errors import CheckpointError

DRIVERS = ("sqlite", "postgres", "s3")

FILES = (
    "__init__.py",
    "_append.py",
    "_checkpointer.py",
    "_connection.py",
    "_errors.py",
    "_options.py",
    "_prune.py",
    "_read.py",
    "_schema.py",
)

ORDER = (
    "__init__",
    "from_url",
    "diagnose",
    "__repr__",
    "bootstrap",
    "close",
    "__aenter__",
    "__aexit__",
    "write",
    "write_many",
    "start_pruned",
    "read_latest",
    "read_at_step",
    "history",
    "read_at_key",
    "step_keys",
    "list_runs",
    "search",
    "count_runs",
    "children",
    "delete_run",
    "prune",
)

CAPABILITIES = (
    Checkpointer,
    Closing,
    BatchAppend,
    PrunedStart,
    RunHistory,
    RunSearch,
    RunTree,
    KeyedSteps,
    RunDeletion,
)


def methods_of(driver: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((folder(driver) / "_checkpointer.py").read_text())
    (handle,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    yield from (node for node in handle.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def folder(driver: str) -> Path:
    return ROOT / "packages" / ("core" if driver == "memory" else driver) / "src/stargraph/checkpoint" / driver


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_has_the_files_of_the_others(driver: str) -> None:
    assert {found.name for found in folder(driver).glob("*.py")} >= set(FILES)


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_file_of_a_driver_is_too_long_to_read(driver: str) -> None:
    long = {
        found.name: lines
        for found in folder(driver).glob("*.py")
        if (lines := len(found.read_text().split("\n"))) > 450
    }
    assert long == {}


@pytest.mark.parametrize("driver", [*DRIVERS, "memory"])
def test_the_methods_of_the_contract_stand_in_its_order(driver: str) -> None:
    names = [method.name for method in methods_of(driver) if method.name in ORDER]
    assert names == [name for name in ORDER if name in names]
    assert set(ORDER) - set(names) <= {"diagnose"}


@pytest.mark.parametrize("driver", [*DRIVERS, "memory"])
def test_a_docstring_that_the_contract_has_is_not_copied(driver: str) -> None:
    contract = {name for capability in CAPABILITIES for name in vars(capability) if not name.startswith("_")}
    copied = [
        method.name
        for method in methods_of(driver)
        if method.name in contract and (text := ast.get_docstring(method)) is not None and copies(text, method.name)
    ]
    assert copied == []


def copies(text: str, name: str) -> bool:
    """Return whether a docstring says nothing that the contract does not say, or explains its arguments again."""
    (inherited,) = [inspect.getdoc(vars(capability)[name]) for capability in CAPABILITIES if name in vars(capability)]
    return "Args:" in text or set(text.split("\n")) <= set((inherited or "").split("\n"))


def handles() -> list[Any]:
    """One of each driver, which has not touched its store."""
    urls = {
        "sqlite": "sqlite:///no/such/run.sqlite",
        "postgres": "postgresql://nobody@localhost/none",
        "s3": "s3://none/none",
        "memory": "memory://",
    }
    return [open_checkpointer(url) for url in urls.values()]


@pytest.mark.parametrize("run_id", ["run-1", "", "no such id \ud800", "x" * 300])
async def test_before_bootstrap_every_method_says_so_whatever_it_is_given(run_id: str) -> None:
    naive = datetime(2026, 1, 31)  # noqa: DTZ001
    for handle in handles():
        calls = [
            handle.read_latest(run_id),
            handle.read_at_step(run_id, -1),
            anext(handle.history(run_id, from_step=5, to_step=1)),
            handle.list_runs(since=naive, limit=-1),
            handle.search(cursor="nonsense", limit=True),
            handle.count_runs(since=naive),
            handle.children(run_id),
            handle.read_at_key(run_id, ""),
            handle.step_keys(run_id, limit=-1),
            handle.write_many([]),
            handle.delete_run(run_id),
            handle.prune(older_than=naive, keep_last=-1),
        ]
        reasons = []
        for call in calls:
            with pytest.raises(CheckpointError) as caught:
                await call
            reasons.append(caught.value.reason)
        assert reasons == ["not-bootstrapped"] * len(calls), type(handle).__name__


async def test_a_handle_that_was_never_opened_can_be_closed() -> None:
    for handle in handles():
        await handle.close()
        with pytest.raises(CheckpointError) as caught:
            await handle.read_latest("run-1")
        assert caught.value.reason == "not-bootstrapped"
        assert handle.read_only is False
        assert handle.encrypted is False


def test_every_shipped_driver_is_held() -> None:
    found = {info.target.split(":")[0].rsplit(".", 1)[1] for info in installed_drivers()}
    assert found == {*DRIVERS, "memory"}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x.sqlite?synchronous=normal&synchronous=full",
        "postgresql://h/d?max_connections=1&max_connections=2",
        "host=h timeout=1 timeout=2",
        "s3://bucket/prefix?region=a&region=b",
    ],
)
def test_an_option_that_a_url_gives_twice_is_refused(url: str) -> None:
    driver = {"sqlite": "sqlite", "s3": "s3"}.get(url.partition(":")[0], "postgres")
    handle = next(handle for handle in handles() if type(handle).__module__.split(".")[2] == driver)
    with pytest.raises((CheckpointError, ValueError), match="is given twice"):
        type(handle).from_url(url)
