"""The 200s of one cell never exceed the limit: real verifiers and usage services, and what befalls them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.limit_load import Limited, Seen, burst, heard, limited, load, told
from tests.faults.rig import rig
from tests.support.servers import Servers
from tests.support.waiting import until

LIMIT, WINDOW = 100, 10
RATE = 5 * LIMIT / WINDOW


async def run(
    house: Limited, token: str, seconds: float, *, limit: int = LIMIT, weights: list[float] | None = None
) -> tuple[Seen, list[int]]:
    """Five times the limit for so long; what was seen, and the cells that were loaded from end to end."""
    seen, loop = Seen(WINDOW), asyncio.get_running_loop()
    begin, end = time.time(), loop.time() + seconds
    await load(house.verifiers, token, seen, rate=RATE, weights=weights, going=lambda: loop.time() < end)
    cells = seen.whole(begin, time.time())
    print(told(seen, cells))
    assert not seen.wrong
    assert not seen.grew
    assert all(count <= limit for count in seen.admitted.values()), seen.admitted
    return seen, cells


@pytest.mark.long
@pytest.mark.parametrize("verifiers", [1, 2, 4])
async def test_five_times_the_limit_gets_nearly_all_of_it_and_never_more(
    verifiers: int, database: str, servers: Servers, tmp_path: Path
) -> None:
    async with (
        rig(database, servers.nats, tmp_path, start=False) as made,
        limited(made, tmp_path, verifiers=verifiers) as house,
    ):
        key = await house.key(LIMIT, WINDOW)
        seen, cells = await run(house, key["key"], 32)
        assert len(cells) >= 2
        assert all(seen.admitted[cell] >= 0.95 * LIMIT for cell in cells)


@pytest.mark.long
async def test_it_holds_while_a_verifier_and_the_granter_are_killed(
    database: str, servers: Servers, tmp_path: Path
) -> None:
    async with (
        rig(database, servers.nats, tmp_path, start=False) as made,
        limited(made, tmp_path, verifiers=2, usages=2) as house,
    ):
        key = await house.key(LIMIT, WINDOW)

        async def trouble() -> None:
            await asyncio.sleep(12)
            house.verifiers[1].kill()
            house.verifiers[1].launch()
            await asyncio.sleep(8)
            house.usages[0].kill()
            await asyncio.sleep(12)
            house.usages[0].launch()

        troubled = asyncio.create_task(trouble())
        seen, cells = await run(house, key["key"], 75)
        await troubled
        # what nobody disturbs any more is whole again
        assert seen.admitted[cells[-1]] >= 0.95 * LIMIT


@pytest.mark.parametrize("verifiers", [pytest.param(2, marks=pytest.mark.long), 4])
async def test_what_comes_all_at_once_gets_nearly_all_of_it_and_never_more(
    verifiers: int, database: str, servers: Servers, tmp_path: Path
) -> None:
    async with (
        rig(database, servers.nats, tmp_path, start=False) as made,
        limited(made, tmp_path, verifiers=verifiers) as house,
    ):
        key = await house.key(200, WINDOW)

        async def begins() -> bool:
            return 0.05 < time.time() % WINDOW < 0.5

        await until(begins, within=2 * WINDOW, describe="the next cell")
        began = time.monotonic()
        seen = await burst(house.verifiers, key["key"], 1000)
        print(f"{dict(seen)} in {time.monotonic() - began:.3f} s")
        assert 190 <= seen[200] <= 200
        assert seen[200] + seen[429] == 1000


@pytest.mark.long
@pytest.mark.parametrize("weights", [[9.0, 1.0], [1.0, 0.0]])
async def test_a_client_that_sticks_to_a_verifier_gets_the_whole_limit(
    weights: list[float], database: str, servers: Servers, tmp_path: Path
) -> None:
    async with (
        rig(database, servers.nats, tmp_path, start=False) as made,
        limited(made, tmp_path, verifiers=2) as house,
    ):
        key = await house.key(LIMIT, WINDOW)
        seen, cells = await run(house, key["key"], 25, weights=weights)
        assert cells
        assert all(seen.admitted[cell] >= 0.95 * LIMIT for cell in cells)


@pytest.mark.long
async def test_it_holds_while_a_verifier_is_cut_off_and_while_nobody_hears_anybody(
    database: str, servers: Servers, tmp_path: Path
) -> None:
    async with (
        rig(database, servers.nats, tmp_path, start=False) as made,
        limited(made, tmp_path, verifiers=2, gated=1) as house,
    ):
        key = await house.key(LIMIT, WINDOW)

        async def trouble() -> None:
            # over the end of a cell, and long enough to be leased before
            await asyncio.sleep(45)
            await made.verifier_nats[0].cut()
            await asyncio.sleep(15)
            await made.verifier_nats[0].open()
            await asyncio.sleep(5)
            made.verifier_nats[0].freeze()
            await asyncio.sleep(3)
            made.verifier_nats[0].thaw()

        troubled = asyncio.create_task(trouble())
        seen, cells = await run(house, key["key"], 95)
        await troubled
        assert seen.admitted[cells[-1]] >= 0.95 * LIMIT


async def test_a_quota_is_exact_and_outlives_everything_but_what_the_killed_held(
    database: str, servers: Servers, tmp_path: Path
) -> None:
    quota = 400
    async with (
        rig(database, servers.nats, tmp_path, start=False) as made,
        limited(made, tmp_path, verifiers=2) as house,
    ):
        # cells of a killed granter have none any more: these are over soon
        key = await house.key(1_000_000, 1)
        changed = await made.ok(
            "PATCH", f"/v1/workspaces/{key['ws']}", {"quota": {"limit": quota, "period": "month"}}
        )
        for verifier in house.verifiers:
            asked = {"key": key["key"], "cost": 0, "min_position": changed["position"]}
            await made.http.post(f"{verifier.url}/v1/verify", json=asked)
        admitted = await house.spent(key["key"], 150)
        assert 145 <= admitted <= 150
        for daemon in (*house.verifiers, *house.usages):
            daemon.kill()
        for daemon in (*house.usages, *house.verifiers):
            daemon.launch()
        for daemon in (*house.usages, *house.verifiers):
            await daemon.ready()

        async def granted_again() -> bool:
            nonlocal admitted
            let_in = await house.spent(key["key"], 2)
            admitted += let_in
            return let_in == 2

        await until(granted_again, within=15, describe="grants of the quota")
        admitted += await house.spent(key["key"], 2 * quota)
        print(f"{admitted} of {quota}")
        # two holders were killed
        assert quota * 0.98 <= admitted <= quota
        answer = await made.http.get(
            f"{house.verifiers[0].url}/v1/gateway", headers={"X-API-Key": key["key"]}
        )
        assert (answer.status_code, answer.json()) == (429, {"error": "quota_exceeded"})
        assert answer.headers["x-ratelimit-limit"] == str(quota)
        for usage in house.usages:
            usage.kill()

        async def away() -> bool:
            return not await heard(made, house.verifiers[0])

        await until(away, within=15, describe="the metric of an absent granter")
