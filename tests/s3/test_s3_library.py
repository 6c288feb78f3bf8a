"""What this driver knows of the insides of the SDK: a test fails here if a new version of it does otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
from botocore.handlers import BUILTIN_HANDLERS, add_expect_header
from support.records import first
from support.s3.proxy import FaultProxy
from support.s3.stores import Stores


async def test_no_write_waits_for_leave_to_send_its_body(watched: Stores, proxy: FaultProxy) -> None:
    """`add_expect_header` is unregistered by its name, which does nothing if the SDK registers another function."""
    store = await watched.open()
    await store.write(first("run"))
    puts = [request for request in proxy.requests if request.method == "PUT"]
    assert len(puts) > 3
    assert not any(request.expecting for request in puts)


def test_the_sdk_asks_for_leave_by_the_function_that_is_unregistered() -> None:
    assert ("before-call.s3", add_expect_header) in [handler[:2] for handler in BUILTIN_HANDLERS]


@pytest.mark.parametrize("kind", [EndpointConnectionError, ConnectTimeoutError])
def test_an_error_of_the_sdk_keeps_its_cause(kind: type[Any]) -> None:
    cause = OSError(111, "refused")
    error = kind(endpoint_url="http://host", error=cause)
    assert error.kwargs == {"endpoint_url": "http://host", "error": cause}
