"""Whatever keeps terms, rights and committed cells: one contract for memory and Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from keyledger.grants import Lease, Want
from keyledger.server.postgres import open_pool
from services.usage.adapters.grants import PostgresGrants
from services.usage.domain.granting import Legacy, Range
from services.usage.domain.pool import Holding, Pool
from services.usage.domain.shares import Holder, Offer, Right
from services.usage.ports import Claim, GrantStore
from tests.support.memory_grants import MemoryGrants
from tests.support.usage_postgres import prepare

RIGHTS = [Right("v1", 2, 900), Right("v2", 3, 800)]


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, database: str) -> AsyncIterator[GrantStore]:
    if request.param == "memory":
        yield MemoryGrants()
        return
    pool = await open_pool(await prepare(database), name="test")
    try:
        yield PostgresGrants(pool)
    finally:
        await pool.close()


def cell(charged: int = 5, *, start: int = 100, window: int | str = "day", holder: str = "ws") -> Pool:
    return Pool(holder, window, start, start + 86_400, 1000, {"v1": Holding(charged, 3)})


async def test_there_is_no_claim_before_the_first_and_then_one(store: GrantStore) -> None:
    assert await store.claim() is None
    assert await store.take(None, 7, "a", 1000) == (None, [])
    assert await store.claim() == Claim(7, "a", 1000)
    # who was a moment late saw none either
    assert await store.take(None, 8, "b", 2000) is None


async def test_of_many_that_take_the_term_at_once_one_does(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    seen = await store.claim()
    taken = await asyncio.gather(*(store.take(seen, 8, f"b{number}", 2000) for number in range(8)))
    assert sum(each is not None for each in taken) == 1


async def test_a_claim_grows_only_in_its_own_term_and_never_shrinks(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    assert await store.extend(7, 1500)
    assert not await store.extend(6, 2000)
    assert not await store.extend(7, 1400)
    seen = await store.claim()
    assert seen == Claim(7, "a", 1500)
    # who saw the claim before it grew takes nothing
    assert await store.take(Claim(7, "a", 1000), 8, "b", 3000) is None
    assert await store.take(seen, 8, "b", 3000) is not None
    assert not await store.extend(7, 9000)


async def test_what_is_left_behind_is_had_once(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    holder = Holder(90, [Offer(Lease(60, 80, 2), accepted=True)], gone=95, inherited=RIGHTS[0])
    legacy = Legacy([Range(0, 1000)], [cell(window=60)], {"v1": holder}, 999)
    await store.release(6, 1000, legacy)
    assert await store.claim() == Claim(7, "a", 1000)
    await store.release(7, 1000, legacy)
    seen = await store.claim()
    assert seen == Claim(7, "a", 1000, left_over=True)
    assert await store.take(seen, 8, "b", 2000) == (legacy, [])
    seen = await store.claim()
    assert seen == Claim(8, "b", 2000)
    assert await store.take(seen, 9, "c", 3000) == (None, [])


async def test_rights_are_recorded_whole_and_by_the_term_alone(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    assert await store.record(7, RIGHTS)
    assert not await store.record(6, RIGHTS[:1])
    assert await store.take(await store.claim(), 8, "b", 2000) == (None, RIGHTS)
    assert await store.record(8, RIGHTS[1:])
    assert await store.take(await store.claim(), 9, "c", 3000) == (None, RIGHTS[1:])


async def test_a_cell_is_found_as_it_was_last_committed(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    cells = [cell(), cell(window=3600), cell(window="month", holder="key"), cell(start=200)]
    assert await store.commit(7, cells)
    assert await store.commit(7, [cell(9)])
    wants = [
        Want("ws", "day", 100, 1000, 0, 0),
        Want("key", "month", 100, 1, 0, 0),
        Want("ws", 60, 0, 1, 0, 0),
    ]
    found = {(each.holder, each.window): each for each in await store.cells(wants)}
    assert found == {("ws", "day"): cell(9), ("key", "month"): cell(window="month", holder="key")}
    of_holder = await store.of_holder("ws", 150)
    assert sorted(str(each.window) for each in of_holder) == ["3600", "day"]


async def test_nothing_is_committed_in_another_term(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    assert await store.commit(7, [cell(5)])
    await store.take(await store.claim(), 8, "b", 2000)
    assert not await store.commit(7, [cell(9)])
    assert await store.of_holder("ws", 150) == [cell(5)]


async def test_a_cell_that_ended_is_forgotten(store: GrantStore) -> None:
    await store.take(None, 7, "a", 1000)
    await store.commit(7, [cell(), cell(start=200)])
    await store.forget(100 + 86_400)
    assert await store.of_holder("ws", 150) == [cell()]
    await store.forget(101 + 86_400)
    assert await store.of_holder("ws", 150) == []
    assert await store.of_holder("ws", 250) == [cell(start=200)]
