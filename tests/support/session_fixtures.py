"""What is made once for a process of the tests, whichever folders its tests are in.

Only tests/conftest.py imports these: a fixture that several conftest files import is made once for each of them.
Their imports are inside, since the process that only hands out the tests reads that file too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.workspace import ROOT


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a server for what runs on every store; the tests of the driver have servers of their own."""
    from support.postgres_server import any_server

    with any_server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of moto for what runs on every store; the tests of the driver have one of their own."""
    from support.places import s3_server

    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every distribution as a wheel that was built from its own sdist."""
    out = tmp_path_factory.mktemp("wheels")
    uv = str(Path(sys.executable).with_name("uv"))
    # No isolation: hatchling is a development dependency, so that nothing is fetched while tests run.
    command = [uv, "build", "--offline", "--all-packages", "--no-build-isolation", "--python", sys.executable]
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(
        [*command, "--out-dir", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(out.glob("*.whl"))
