"""Short deadlines for handles of the PostgreSQL driver."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._connection import OwnConnections
from stargraph.checkpoint.postgres._errors import ATTEMPT_SHARE, Retries
from stargraph.errors import StoreUnavailableError


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


async def reported(call: Callable[[], Awaitable[object]]) -> StoreUnavailableError:
    """Return the error of a call with a short deadline that says what the server has answered.

    On a busy machine the deadline may pass before the server has answered at all: then the call is made again.

    Args:
        call: makes it; it must fail, and be safe to make again.
    """
    while True:
        with pytest.raises(StoreUnavailableError) as caught:
            await call()
        if caught.value.reason != "timeout":
            return caught.value
