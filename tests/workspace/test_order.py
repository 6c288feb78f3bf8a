"""The long tests begin first, in each of the processes that xdist hands the tests out to."""

from __future__ import annotations

from typing import Any

import pytest
from support.workspace import ROOT

COUNT = 40


class Item:
    """What the order depends on."""

    def __init__(self, seconds: float) -> None:
        self._mark = pytest.mark.timeout(seconds).mark

    def get_closest_marker(self, name: str) -> Any:
        return self._mark if name == "timeout" else None


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("long", [0, 1, 5, 10, 25])
def test_each_process_begins_with_its_share_of_the_long_tests(
    long: int, workers: int, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(workers))
    before = [Item(300 if number * long % COUNT < long else 240) for number in range(COUNT)]
    are_long = [item for item in before if item.get_closest_marker("timeout").args == (300,)]
    assert len(are_long) == long
    items: list[Any] = list(before)
    conftest: Any = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests/conftest.py"))
    conftest.pytest_collection_modifyitems(items)
    assert sorted(items, key=before.index) == before
    assert [item for item in items if item in are_long] == are_long, "those that use the same server stay together"
    begin = 0
    for worker in range(workers):
        size = (COUNT - begin) // (workers - worker)
        share = [item in are_long for item in items[begin : begin + size]]
        assert share == sorted(share, reverse=True)
        assert long // workers <= sum(share) <= -(-long // workers)
        begin += size
