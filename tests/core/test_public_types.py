"""What the type checker tells an author of a driver and a user."""

from __future__ import annotations

import fcntl
import subprocess
import sys

import pytest
from support.workspace import ROOT

pytestmark = pytest.mark.thorough

CACHE = ROOT / ".mypy_cache/user"

HEAD = """
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Unpack
from pathlib import Path

from stargraph.checkpoint.codec import Keyring, decode, encode
from stargraph.checkpoint.protocol import *
from stargraph.checkpoint.registry import installed_drivers, open_checkpointer
from stargraph.errors import CheckpointConflictError, CheckpointError, StargraphError
"""

DRIVER = """
class Store:
    @classmethod
    def from_url(cls, url: str, /) -> "Store": return cls()
    async def close(self) -> None: ...
    async def __aenter__(self) -> "Store": return self
    async def __aexit__(self, *raised: object) -> None: ...
    async def bootstrap(self) -> None: ...
    async def write(self, checkpoint: Checkpoint) -> None: ...
    async def read_latest(self, run_id: str) -> Checkpoint | None: return None
    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None: return None
    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]: return []

_: type[Checkpointer] = Store
"""

CAPABLE = """
class Capable(Store):
    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        for checkpoint in list[Checkpoint]():
            yield checkpoint

    async def search(
        self, *, limit: int = 100, cursor: str | None = None, order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage: return RunPage(items=())

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]: return {}

    async def children(self, run_id: str) -> list[RunSummary]: return []

    async def delete_run(self, run_id: str) -> bool: return False

    async def prune(
        self, *, older_than: datetime, statuses: Collection[Status] = PRUNED_BY_DEFAULT, keep_last: int = 1,
        run_id: str | None = None, dry_run: bool = False,
    ) -> PruneReport: return PruneReport(runs=0, checkpoints=0, dry_run=dry_run)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None: ...
    async def close(self) -> None: ...
    async def __aenter__(self) -> "Capable": return self
    async def __aexit__(self, *exc_info: object) -> None: ...

history: type[RunHistory] = Capable
search: type[RunSearch] = Capable
tree: type[RunTree] = Capable
deletion: type[RunDeletion] = Capable
batch: type[BatchAppend] = Capable
closing: type[Closing] = Capable
"""

USE = """
from typing import assert_type

async def use(store: Checkpointer, path: Path) -> None:
    latest = await store.read_latest("run-1")
    assert_type(latest, Checkpoint | None)
    assert latest is not None
    assert_type(latest.step, int)
    assert_type(latest.status, Status)
    assert_type(latest.frontier, tuple[Task | FanOut, ...])
    assert_type(latest.metadata, dict[str, str])
    assert_type(await store.list_runs(), list[RunSummary])
    assert_type(encode(latest), bytes)
    assert_type(decode(b"", run_id="run-1", step=0), Checkpoint)
    assert_type(Keyring.from_environment(), Keyring | None)
    assert_type(open_checkpointer(path), ClosingCheckpointer)
    async with open_checkpointer(path) as opened:
        assert_type(opened, ClosingCheckpointer)
    assert_type(RunSummary.from_checkpoint(latest).raise_for_status(), RunSummary)
    following = latest.next(event="completed", executor_id="0" * 32, timestamp=datetime.now(), status="done")
    assert_type(following, Checkpoint)
    if isinstance(store, RunHistory):
        async for step in store.history("run-1", newest_first=True):
            assert_type(step, Checkpoint)
    try:
        await store.write(following)
    except CheckpointConflictError as conflict:
        assert_type(conflict.reason, str | None)
        base: StargraphError = conflict
"""

WRONG = {
    "a missing method": DRIVER.replace("async def read_latest", "async def read_last"),
    "a sync method": DRIVER.replace("async def write(", "def write("),
    "a positional limit": DRIVER.replace("self, *, since", "self, since_when"),
    "a wrong type": DRIVER.replace("step: int", "step: str"),
    "a wrong result": DRIVER.replace("list[RunSummary]: return []", "tuple[RunSummary, ...]: return ()"),
    "a capability without its argument": DRIVER
    + CAPABLE.replace(", dry_run: bool = False,\n", ",\n").replace("=dry_run", "=True"),
    "an async def that returns an iterator": DRIVER
    + CAPABLE.replace(
        "for checkpoint in list[Checkpoint]():\n            yield checkpoint", "raise NotImplementedError"
    ),
    "an unknown event": "def f(c: Checkpoint, t: Any) -> None: c.next(event='finished', executor_id='', timestamp=t)",
    "an unknown status": "status: Status = 'finished'",
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each file, as a user would call it: strict, against what is installed."""
    folder = tmp_path_factory.mktemp("user")
    files = {"right.py": DRIVER + CAPABLE + USE, **{_file(name): source for name, source in WRONG.items()}}
    for file, source in files.items():
        (folder / file).write_text(HEAD + source)
    options = ["--strict", "--config-file=", "--no-error-summary", f"--cache-dir={CACHE}"]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the tests may need the same cache
        done = subprocess.run(
            [sys.executable, "-m", "mypy", *options, *files], cwd=folder, capture_output=True, text=True, check=False
        )
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert "import-" not in done.stdout, "the packages were not found, so nothing was checked"
    return {file: [line for line in lines if line.startswith(f"{file}:") and " error: " in line] for file in files}


def _file(name: str) -> str:
    return f"{name.replace(' ', '_')}.py"


def test_right_code_passes(errors: dict[str, list[str]]) -> None:
    assert errors["right.py"] == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong_code_does_not(errors: dict[str, list[str]], name: str) -> None:
    assert errors[_file(name)]
