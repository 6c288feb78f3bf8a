"""A folder of its own for each test of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    known, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STARGRAPH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Folder(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - known:
        # The next test has another module of the same name.
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]
