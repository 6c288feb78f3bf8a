"""A next version of the tables and of the layout: it notes every run, and can be made to stop half-way to be killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from stargraph.checkpoint.postgres import _schema as postgres_schema
from stargraph.checkpoint.s3 import _schema as s3_schema
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.checkpoint.sqlite import _schema as sqlite_schema


def _say_half() -> None:
    """Tell the parent that half of the migration is done, and wait to be killed."""
    print("half", flush=True)
    time.sleep(120)


class _Stopping(dict[int, str]):
    """Migrations that stop when all of them are done, and none is committed."""

    def items(self) -> Iterator[tuple[int, str]]:  # type: ignore[override]
        yield from super().items()
        _say_half()


@contextmanager
def planted(*, stops: bool = False) -> Iterator[None]:
    """Make version 2 the current one of every driver.

    Args:
        stops: say `half` on stdout when a part of the migration is done, and go no further.
    """

    async def note(store: ObjectStore, keys: KeyLayout) -> None:
        root = keys.marker.removesuffix("stargraph.json")
        for number, info in enumerate(await store.list(keys.runs)):
            run = keys.run_of(info.key)
            if run is not None and run.ended_at_step is None:
                await store.create(f"{root}notes/{run.run_id}", b"noted\n")
            if stops and number == 2:
                _say_half()

    def statements() -> Iterator[str]:
        yield "CREATE TABLE notes (run TEXT)"
        yield "INSERT INTO notes SELECT run_id FROM runs"
        if stops:
            _say_half()

    class Statements:
        """Read again by each migration."""

        def __iter__(self) -> Iterator[str]:
            return statements()

    sql = "CREATE TABLE {schema}.notes AS SELECT run_id FROM {schema}.runs"
    migrations = postgres_schema.MIGRATIONS
    defaults = postgres_schema.bootstrap.__kwdefaults__
    with (
        patch.dict(sqlite_schema.MIGRATIONS, {2: Statements()}),
        patch.dict(migrations, {2: sql}),
        patch.dict(defaults, {"migrations": _Stopping({**migrations, 2: sql}) if stops else migrations}),
        patch.dict(s3_schema.MIGRATIONS, {2: note}),
    ):
        yield
