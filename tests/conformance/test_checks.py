"""What single checks say of drivers that are in no table: their own clocks, their own waits, files of the machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from stargraph.checkpoint.conformance import Check, HarnessError, Result, Session, run
from stargraph.checkpoint.conformance._checks.clocks import wrong_clock, wrong_clock_prunes
from stargraph.checkpoint.conformance._checks.frozen import frozen_in_read

pytestmark = pytest.mark.thorough


def result_of(body: Any, spec: str) -> Result:
    check = Check("test.body", "A reason.", "a contract", "A cause.", body)
    with Session(spec) as session:
        return session._execute(check)


CLOCKED = """
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from support.conformance_targets import sqlite

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import StoreUnavailableError


class Clocked(SQLiteCheckpointer):
    async def bootstrap(self):
        Path({stamp!r}).touch()  # by the clock of the machine, as a server would tell the time
        if abs(time.time() - Path({stamp!r}).stat().st_mtime) > 15 * 60:
            raise StoreUnavailableError("the clock of this process is wrong", reason="clock-skew")
        await super().bootstrap()


class Expiring(SQLiteCheckpointer):
    async def bootstrap(self):
        Path({stamp!r}).touch()
        await super().bootstrap()

    async def read_latest(self, run_id):
        is_expired = time.time() - Path({stamp!r}).stat().st_mtime > 3600
        return None if is_expired else await super().read_latest(run_id)


strict = replace(sqlite, open=Clocked)
declared = replace(strict, clock_tolerance=timedelta(minutes=14))
excused = replace(sqlite, open=Expiring, clock_tolerance=timedelta(minutes=14))
careless = replace(sqlite, clock_tolerance=timedelta(0))
"""


def test_no_clock_is_off_by_more_than_the_target_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clocked_target.py").write_text(CLOCKED.format(stamp=str(tmp_path / "stamp")))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HarnessError, match="clock_tolerance is 0:00:00; it must be at least a minute"):
        result_of(wrong_clock, "clocked_target:careless")
    for body in (wrong_clock, wrong_clock_prunes):
        declared = result_of(body, "clocked_target:declared")
        assert declared.verdict == "pass", declared.message
        assert [value for _, value, _ in declared.measurements] == [14 * 60]
        assert result_of(body, "clocked_target:strict").verdict == "fail"
    assert "whose clock is 400 days ahead" in result_of(wrong_clock, "clocked_target:excused").message


IMPATIENT = """
import sqlite3
from contextlib import contextmanager

from support.broken_drivers.indexed import Indexed

from stargraph.checkpoint.conformance import Target
from stargraph.errors import StoreUnavailableError


class Impatient(Indexed):
    @contextmanager
    def _connected(self):
        database = sqlite3.connect(self._path, timeout=0.05, isolation_level=None)
        try:
            yield database
        except sqlite3.OperationalError as error:
            raise StoreUnavailableError(f"SQLite failed: {error}") from error
        finally:
            database.close()

    async def read_latest(self, run_id):
        self._ensure_ready()
        with self._connected() as database:
            database.execute("BEGIN")  # readers keep out the writers, without a write-ahead log
            return self._latest(database, run_id)


target = Target(open=Impatient)
"""


def test_a_frozen_read_may_keep_out_writers_for_longer_than_these_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "impatient_target.py").write_text(IMPATIENT)
    monkeypatch.syspath_prepend(tmp_path)
    result = result_of(frozen_in_read, "impatient_target:target")
    assert result.verdict == "pass", result.message


def test_an_inode_that_is_used_again_tells_nothing_of_a_file(tmp_path: Path) -> None:
    found = set()
    for _ in range(4):
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(tmp_path / "file")
        found.add((tmp_path / "file").stat().st_ino)
    if len(found) == 4 or os.stat(tempfile.gettempdir()).st_dev != tmp_path.stat().st_dev:
        pytest.skip("temporary files are where no inode is used again soon")
    report = run("support.broken_drivers.documents:RemembersByInode", only=["deletion.pruned_as_it_goes"])
    assert [result.check.id for result in report.results if result.verdict == "fail"] == ["deletion.pruned_as_it_goes"]
