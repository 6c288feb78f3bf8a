"""A disk that fills up under the server."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from support.mounts import mounted
from support.postgres_records import following, genesis
from support.postgres_server import ACCOUNT, DEBIAN_BINARIES, LocalServer, embedded_binaries

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import StoreUnavailableError

pytestmark = pytest.mark.thorough

Opener = Callable[..., PostgresCheckpointer]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """16 MB that the account of the server may write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with mounted(Path(folder) / "disk", "size=16m") as disk:
            shutil.chown(disk, ACCOUNT)
            yield disk


@pytest.fixture
def server() -> Iterator[str]:
    """A server of our own, which can use a directory of ours."""
    with LocalServer(embedded_binaries() or DEBIAN_BINARIES) as server:
        yield server.dsn


@pytest.fixture
async def sql(server: str, small_disk: Path) -> AsyncIterator[asyncpg.Connection]:
    """The superuser's connection, once the role `cramped` has its tables on the small disk."""
    sql = await asyncpg.connect(server)
    await sql.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    await sql.execute("CREATE ROLE cramped LOGIN SUPERUSER; ALTER ROLE cramped SET default_tablespace = 'small'")
    yield sql
    await sql.close()


@pytest.fixture
def dsn(server: str) -> str:
    return server.replace("//postgres@", "//cramped@", 1)


async def fill(checkpointer: PostgresCheckpointer) -> list[Checkpoint]:
    """Write until the disk is full; what was acknowledged, and last the step that was not."""
    run = [genesis(state={"n": 0, "blob": ""})]
    while len(run) < 100:
        try:
            await checkpointer.write(run[-1])
        except StoreUnavailableError as error:
            if error.reason == "timeout":
                continue  # the machine was too busy for the short deadline: the same write again is safe
            assert error.reason == "disk-full"  # noqa: PT017  # nobody knows which write it will be
            assert "pruning" in (error.hint or "")  # noqa: PT017
            assert (error.run_id, error.step) == (run[-1].run_id, run[-1].step)  # noqa: PT017
            return run
        run.append(following(run[-1], changes={"blob": secrets.token_hex(400_000)}))
    raise AssertionError("the disk was never full")


async def test_nothing_acknowledged_is_lost_and_writing_goes_on_when_there_is_room(
    opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    checkpointer = opened(timeout=6)
    await checkpointer.bootstrap()
    run = await fill(checkpointer)
    assert len(run) > 20
    assert [c async for c in checkpointer.history(run[0].run_id)] == run[:-1]
    patient = opened()
    await patient.bootstrap()
    write = asyncio.create_task(patient.write(run[-1]))
    await asyncio.sleep(0.3)
    assert not write.done()
    await sql.execute(f"ALTER TABLE {schema}.checkpoints SET TABLESPACE pg_default")
    await write
    assert await checkpointer.read_latest(run[0].run_id) == run[-1]
