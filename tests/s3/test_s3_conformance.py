"""The whole conformance kit against this driver, on moto."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from support.s3.stores import Stores

TESTS = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_it_conforms_in_full(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stores.endpoint)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "stargraph-conformance"),
        "run",
        "support.s3.conformance_target:target",
        "--deadline=5",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "level full" in output.decode()
