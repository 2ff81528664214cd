"""`GET …/rate-limit`: the service's own granter shown to whoever may read usage."""

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from keyledger.errors import insufficient_permissions, not_found
from keyledger.events import RateLimit
from keyledger.grants import GRANT_SUBJECT, Ask, Grants, Want
from services.usage.ports import Limited
from tests.support.usage_house import KEY_A, WS, House, alive
from tests.support.waiting import until

URL = f"/v1/workspaces/{WS}/rate-limit"
OF_KEY = f"/v1/workspaces/{WS}/keys/{KEY_A}/rate-limit"
NOTHING = {
    "limit": None,
    "window_seconds": None,
    "admitted": 0,
    "granted": 0,
    "remaining": None,
    "reset": None,
    "verifiers": [],
    "quota": None,
}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with alive(House()) as house:
        house.access.limited[WS] = Limited(RateLimit(100, 60))
        yield house


async def ask(house: House, term: int, seq: int, *wants: Want) -> Grants:
    body = msgspec.msgpack.encode(Ask("verifier-1", term, seq, wants))
    answer = await house.bus.request(GRANT_SUBJECT, body, timeout=2)
    return msgspec.msgpack.decode(answer.body, type=Grants)


async def granted(house: House, holder: str, *, limit: int, spent: int, need: int) -> tuple[int, int]:
    """Ask for tokens of the running minute until some are granted: the cell's start, and how many."""

    async def some() -> tuple[int, int] | None:
        term = (await ask(house, 0, 0)).term
        start = int(time.time()) // 60 * 60
        seq = time.monotonic_ns()
        answer = await ask(house, term, seq, Want(holder, 60, start, limit, spent, 0, need))
        found = [grant for grant in answer.grants if grant.amount]
        return (start, found[0].amount) if found else None

    return await until(some, within=10, describe="a grant")


async def test_the_cell_of_a_workspace_shows_what_is_granted_and_to_whom(house: House) -> None:
    start, amount = await granted(house, WS, limit=100, spent=7, need=3)
    body = (await house.http.get(URL)).json()
    assert body == {
        "limit": 100,
        "window_seconds": 60,
        "admitted": 7,
        "granted": 7 + amount,
        "remaining": 93,
        "reset": start + 60,
        "verifiers": [{"verifier": "verifier-1", "granted": 7 + amount, "spent": 7}],
        "quota": None,
    }
    assert (await house.http.get(OF_KEY)).json() == NOTHING, "the key has no limit of its own"


async def test_a_key_has_a_cell_of_its_own(house: House) -> None:
    house.access.limited[KEY_A] = Limited(RateLimit(10, 60))
    await granted(house, KEY_A, limit=10, spent=4, need=1)
    body = (await house.http.get(OF_KEY)).json()
    assert (body["limit"], body["admitted"]) == (10, 4)


async def test_a_limit_of_which_nothing_was_spent_is_shown_whole(house: House) -> None:
    body = (await house.http.get(URL)).json()
    assert (body["limit"], body["window_seconds"], body["remaining"], body["admitted"]) == (100, 60, 100, 0)
    assert 0 < body["reset"] - time.time() <= 60


@pytest.mark.parametrize(("url", "holder"), [(URL, WS), (OF_KEY, KEY_A)])
async def test_the_position_is_that_of_the_log_the_limits_were_read_at(
    house: House, url: str, holder: str
) -> None:
    assert "X-Keyledger-Position" not in (await house.http.get(url)).headers, "nobody told it"
    house.access.limited[holder] = Limited(RateLimit(100, 60), position=41)
    assert (await house.http.get(url)).headers["X-Keyledger-Position"] == "41"


@pytest.mark.parametrize("url", [URL, OF_KEY])
async def test_the_order_of_refusals_is_the_contracts(house: House, url: str) -> None:
    assert (await house.http.get(f"{url}?colour=red")).json()["field"] == "colour"
    house.access.refusal = insufficient_permissions("The key lacks a scope.")
    assert (await house.http.get(f"{url}?colour=red")).status_code == 403
    house.access.refusal = not_found()
    assert (await house.http.get(url)).status_code == 404
    malformed: Any = await house.http.get(url.replace(WS, "ws_1"))
    assert malformed.status_code == 404
    del house.http.headers["X-API-Key"]
    assert (await house.http.get(url)).json()["error"] == "missing_api_key"
