"""Handles: before bootstrap, after close, on many loops, never closed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.records import chain, first, following
from support.s3.stores import Stores
from support.workspace import ROOT

from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.errors import CheckpointError

CALLS: dict[str, Callable[[S3Checkpointer], Any]] = {
    "write": lambda store: store.write(first()),
    "write_many": lambda store: store.write_many([first()]),
    "read_latest": lambda store: store.read_latest("run"),
    "read_at_step": lambda store: store.read_at_step("run", 0),
    "list_runs": lambda store: store.list_runs(),
    "search": lambda store: store.search(),
    "history": lambda store: anext(store.history("run")),
    "delete_run": lambda store: store.delete_run("run"),
    "prune": lambda store: store.prune(older_than=datetime.now(UTC)),
    "check_conditional_writes": lambda store: store.check_conditional_writes(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_calls_outside_of_open_handles_are_refused(stores: Stores, call: str) -> None:
    store = stores.handle()
    with pytest.raises(CheckpointError) as caught:
        await CALLS[call](store)
    assert caught.value.reason == "not-bootstrapped"
    await store.bootstrap()
    await store.close()
    await store.close()
    with pytest.raises(CheckpointError) as caught:
        await CALLS[call](store)
    assert caught.value.reason == "closed"
    await store.bootstrap()
    await store.write(first())


def test_the_registry_opens_it_by_its_url() -> None:
    store = open_checkpointer("s3://bucket/prefix?region=eu-west-1&unsafe_single_writer=true")
    assert isinstance(store, S3Checkpointer)
    assert repr(store) == "S3Checkpointer('s3://bucket/prefix')"


def test_a_handle_takes_options_as_arguments_alone() -> None:
    with pytest.raises(ValueError, match="from_url"):
        S3Checkpointer("s3://bucket/prefix?region=eu-west-1")


def test_one_handle_on_many_loops_one_after_another(moto: str) -> None:
    stores = Stores(moto, None)
    store = stores.handle()
    run = chain("run", 4)

    async def write(step: int) -> None:
        await store.bootstrap()
        await store.write(run[step])

    for step in range(3):
        asyncio.run(write(step))

    async def finish() -> None:
        await store.write(run[3])
        assert [checkpoint async for checkpoint in store.history("run")] == run
        await store.close()

    asyncio.run(finish())


def test_one_handle_on_many_loops_at_once(moto: str) -> None:
    stores = Stores(moto, None)
    store = stores.handle()
    asyncio.run(store.bootstrap())
    failures: list[BaseException] = []

    def work(name: str) -> None:
        async def play() -> None:
            await store.write_many(chain(name, 5, end="done"))

        try:
            asyncio.run(play())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

    async def count() -> int:
        async with store:
            return len(await store.list_runs())

    assert asyncio.run(count()) == 4


async def test_writes_of_one_run_by_many_tasks_of_one_handle(stores: Stores) -> None:
    store = await stores.open()
    begun = first("run")
    await store.write(begun)
    rivals = [following(begun, executor_id=f"{number:032x}") for number in range(10)]
    outcomes = await asyncio.gather(*(store.write(rival) for rival in rivals), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert await store.read_latest("run") == rivals[outcomes.index(None)]


async def test_writes_of_one_run_by_many_handles(stores: Stores) -> None:
    handles = [await stores.open() for _ in range(5)]
    begun = first("run")
    await handles[0].write(begun)
    rivals = [following(begun, executor_id=f"{number:032x}") for number in range(5)]
    outcomes = await asyncio.gather(
        *(handle.write(rival) for handle, rival in zip(handles, rivals, strict=True)), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    assert await handles[0].read_latest("run") == rivals[outcomes.index(None)]


UNCLOSED = """
import asyncio, sys
from stargraph.checkpoint.s3 import S3Checkpointer
from support.records import chain

async def main():
    store = S3Checkpointer({url!r}, endpoint_url={endpoint!r})
    await store.bootstrap()
    await store.write_many(chain("run", 3, end="done"))
    {last}

{run}
"""


@pytest.mark.parametrize(
    ("last", "run"),
    [
        ("globals()['kept'] = store", "asyncio.run(main())"),
        *(
            pytest.param(*code, marks=pytest.mark.thorough)
            for code in (
                ("", "asyncio.run(main())"),
                ("globals()['kept'] = store; raise SystemExit(0)", "asyncio.run(main())"),
                ("globals()['kept'] = store", "asyncio.new_event_loop().run_until_complete(main())"),
            )
        ),
    ],
)
async def test_a_handle_that_is_never_closed_prints_nothing(watched: Stores, last: str, run: str) -> None:
    code = UNCLOSED.format(url=watched.url, endpoint=watched.endpoint, last=last or "pass", run=run)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT / "tests"
    )
    stdout, stderr = await process.communicate()
    assert (process.returncode, stdout, stderr) == (0, b"", b"")


def test_importing_the_driver_imports_no_sdk() -> None:
    code = (
        "import sys, stargraph.checkpoint.s3;"
        "print([name for name in ('aioboto3', 'botocore', 'aiohttp', 'tenacity', 'aiosqlite') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
