"""How many requests each call takes."""

from __future__ import annotations

from datetime import timedelta

from support.records import STARTED_AT, chain, following
from support.s3.proxy import FaultProxy
from support.s3.stores import Stores


async def test_a_write_is_one_put_and_the_first_is_two(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    proxy.reset()
    begun = begin("run")
    await store.write(begun)
    assert proxy.kinds() == ["PUT", "PUT"]
    proxy.reset()
    await store.write(following(begun))
    assert proxy.kinds() == ["PUT"]
    assert proxy.requests[0].conditional


async def test_a_handle_that_has_read_the_latest_writes_with_one_put(watched: Stores, proxy: FaultProxy) -> None:
    begun = begin("run")
    await (await watched.open()).write(begun)
    other = await watched.open()
    assert await other.read_latest("run") == begun
    proxy.reset()
    await other.write(following(begun))
    assert proxy.kinds() == ["PUT"]


async def test_a_handle_that_knows_nothing_reads_the_tail_first(watched: Stores, proxy: FaultProxy) -> None:
    begun = begin("run")
    await (await watched.open()).write(begun)
    other = await watched.open()
    proxy.reset()
    await other.write(following(begun))
    assert proxy.kinds() == ["LIST", "GET", "PUT"]
    assert proxy.requests[1].ranged


async def test_a_cold_read_of_the_latest_and_of_one_step(watched: Stores, proxy: FaultProxy) -> None:
    run = chain("run", 30)
    await (await watched.open()).write_many(run)
    other = await watched.open()
    proxy.reset()
    assert await other.read_latest("run") == run[-1]
    assert proxy.kinds() == ["LIST", "GET"]
    assert "max-keys=2" in proxy.requests[0].query
    proxy.reset()
    assert await other.read_at_step("run", 15) == run[15]
    assert proxy.kinds() == ["GET"]


async def test_a_read_of_what_is_in_the_cache_is_one_listing(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 5)
    await store.write_many(run)
    for read, expected in ((lambda: store.read_latest("run"), run[-1]), (lambda: store.read_at_step("run", 2), run[2])):
        proxy.reset()
        assert await read() == expected
        assert proxy.kinds() == ["LIST"]
    proxy.reset()
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert proxy.kinds() == ["LIST", "LIST"]


async def test_the_last_write_of_a_run_is_two_puts(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 4, end="done")
    await store.write_many(run[:-1])
    proxy.reset()
    await store.write(run[-1])
    assert proxy.kinds() == ["PUT", "PUT"]
    assert proxy.requests[1].path.endswith("-run,3.sqlite")
    assert proxy.requests[1].conditional


async def test_bootstrap_of_a_store_that_exists(watched: Stores, proxy: FaultProxy) -> None:
    await watched.open()
    proxy.reset()
    await watched.open()
    assert proxy.kinds() == ["GET", "PUT"]


async def test_a_list_of_live_runs(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    for number in range(30):
        await store.write(begin(f"run-{number}", started_at=STARTED_AT + timedelta(seconds=number)))
    other = await watched.open()
    proxy.reset()
    runs = await other.list_runs(limit=20)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(29, 9, -1)]
    assert len(proxy.requests) == 41
    assert proxy.kinds().count("GET") == 20
    assert proxy.most_at_once > 4


async def test_a_list_of_runs_that_ended(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    for number in range(30):
        await store.write_many(chain(f"run-{number}", 2, end="done", started_at=STARTED_AT + timedelta(hours=number)))
    other = await watched.open()
    proxy.reset()
    runs = await other.list_runs(limit=20)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(29, 9, -1)]
    assert {run.status for run in runs} == {"done"}
    assert len(proxy.requests) == 21


class MillionRuns:
    """The index of a million live runs, and nothing that has to be kept in memory."""

    COUNT = 1_000_000

    def __init__(self) -> None:
        self.keys = KeyLayout("prefix")
        self.requests: list[str] = []

    def _entry(self, position: int) -> str:
        number = self.COUNT - 1 - position
        return self.keys.entry(f"run-{number}", STARTED_AT + timedelta(seconds=number))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        self.requests.append("LIST")
        if prefix == self.keys.runs:
            begun = bisect_right(range(self.COUNT), after, key=self._entry) if after else 0
            keys = [self._entry(position) for position in range(begun, min(begun + limit, self.COUNT))]
            return [ObjectInfo(key, 0, "", STARTED_AT) for key in keys]
        return [ObjectInfo(f"{prefix}{10**16 - 1}", 1000, "", STARTED_AT)]

    async def get(self, key: str, *, first: int | None = None) -> bytes:
        self.requests.append("GET")
        run_id = key.split("/")[-2]
        number = int(run_id.partition("-")[2])
        checkpoint = begin(run_id, started_at=STARTED_AT + timedelta(seconds=number))
        return pack(checkpoint, encode(checkpoint))[:first]

    async def create(self, key: str, body: object) -> str | None:
        raise NotImplementedError

    async def overwrite(self, keys: object, body: bytes) -> None:
        raise NotImplementedError

    async def remove(self, keys: object) -> None:
        raise NotImplementedError


async def test_a_list_of_the_newest_of_a_million_runs() -> None:
    store = MillionRuns()
    index = RunIndex(store, store.keys, RunLog(store, store.keys))
    runs = await first_runs(index, since=None, limit=50)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(999_999, 999_949, -1)]
    assert Counter(store.requests) == {"LIST": 51, "GET": 50}


async def test_a_list_from_an_instant_on_stops_there_among_a_million_runs() -> None:
    store = MillionRuns()
    index = RunIndex(store, store.keys, RunLog(store, store.keys))
    since = STARTED_AT + timedelta(seconds=999_997)
    assert len(await first_runs(index, since=since, limit=100)) == 3
    assert Counter(store.requests) == {"LIST": 4, "GET": 3}
