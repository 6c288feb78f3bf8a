from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.workspace import ROOT

if TYPE_CHECKING:  # importing it takes a second, also for those who run no test here
    from distributed import Client, LocalCluster


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'run.sqlite'}"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """Two worker processes with two threads each, which find the nodes of the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("STARGRAPH_TEST_FOLDER", str(tmp_path))
    monkeypatch.delenv("STARGRAPH_CHECKPOINT", raising=False)
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        processes=True,
        dashboard_address=":0",
        local_directory=str(tmp_path / "dask"),
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        yield client
