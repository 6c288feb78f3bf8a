"""Short deadlines for handles of the PostgreSQL driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._connection import OwnConnections
from stargraph.checkpoint.postgres._errors import ATTEMPT_SHARE, Retries


@contextmanager
def hurried(handle: PostgresCheckpointer, seconds: float) -> Iterator[None]:
    """Give an open handle a short timeout for a while.

    A busy machine may be too slow for it with all that a test does before and after, and must not be in what it tests.
    """
    attached = handle._attach()
    assert isinstance(attached.connections, OwnConnections)
    retries = Retries(seconds, handle._advice)
    retries._reached = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attached.connections, "_timeout", seconds * ATTEMPT_SHARE)
        patch.setattr(attached.writer._group_commit, "_timeout", seconds * ATTEMPT_SHARE)
        patch.setattr(attached.writer, "_retries", retries)
        patch.setattr(handle, "_retries", retries)
        yield
