from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.workspace import ROOT


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
