"""The driver in JavaScript as the kit opens it: `stargraph-conformance run target:target`, in this folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stargraph.checkpoint.conformance.stdio import stdio_target

HERE = Path(__file__).parent


class _StoredBytes:
    """Reads and edits the file of a step."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        return _file(location, run_id, step).read_bytes()

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        _file(location, run_id, step).write_bytes(data)


def _file(location: str, run_id: str, step: int) -> Path:
    return Path(location, "runs", hashlib.sha256(run_id.encode()).hexdigest(), str(step))


async def _lost_step(location: str, run_id: str, step: int) -> None:
    _file(location, run_id, step).unlink()


@asynccontextmanager
async def _newer_format(location: str) -> AsyncIterator[None]:
    _write_format(location, "stargraph-js 2\n")
    yield
    _write_format(location, "stargraph-js 1\n")


def _write_format(location: str, text: str) -> None:
    Path(location, "format").write_text(text)


target = stdio_target(
    [shutil.which("node") or "nodejs", str(HERE / "driver.mjs")],
    stored_bytes=_StoredBytes(),
    lost_step=_lost_step,
    newer_format=_newer_format,
)
