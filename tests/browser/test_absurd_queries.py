"""What nobody would ask for is answered with a page or a refusal, by the real services behind them."""

from collections.abc import AsyncIterator

import pytest

from tests.browser.conftest import Somebody
from tests.support.browsing import Person
from tests.support.system import System

ABSURD = (
    "",
    "0",
    "-1",
    "9" * 40,
    "1e999",
    "NaN",
    "%00",
    "%ff%fe",
    "%F0%9F%94%91",
    "a" * 3000,
    "<script>",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.9Z",
    "9999-12-31T23:59:59-23:59",
    "+1000000-01-01",
)
ASKED = {
    "/settings/api-keys": ("search", "environment", "status", "cursor"),
    "/settings/api-keys/last-used": ("keys",),
    "/settings/api-keys/{key}": ("as_of",),
    "/settings/api-keys/{key}/history": ("cursor",),
    "/settings/api-keys/{key}/history/newer": ("after",),
    "/settings/usage": ("range", "from", "to", "granularity"),
    "/settings/usage/now": ("from", "to", "shown"),
    "/settings/usage/top": ("from", "to"),
    "/settings/usage.csv": ("from", "to"),
    "/settings/api-keys/{key}/usage": ("from", "to"),
    "/settings/rate-limit": ("key",),
    "/settings/rate-limit/gauge": ("key",),
    "/settings/activity": ("cursor",),
    "/settings/activity/newer": ("after",),
    "/settings/members": ("cursor",),
    "/sign-in": ("to", "next"),
}


@pytest.fixture(scope="module")
async def ole(somebody: Somebody) -> AsyncIterator[Person]:
    async with somebody(locale="en-GB") as arrived:
        await arrived.signs_in("ida")
        await arrived.makes_workspace("Absurd")
        yield arrived


@pytest.mark.parametrize("path", ASKED)
async def test_no_query_is_an_error_of_ours(ole: Person, house: System, path: str) -> None:
    key = await house.key((await ole.claims())["ws"], name="plain")
    failed: list[str] = []
    for name in ASKED[path]:
        for value in ABSURD:
            # a bound of its own is read only with the other one
            other = {"from": "&to=9999-12-31T23:59:59Z", "to": "&from=0001-01-01T00:00:00Z"}.get(name, "")
            address = f"{path.format(key=key['id'])}?{name}={value}{other}"
            answer = await ole.context.request.get(ole.home + address, max_redirects=0)
            if answer.status >= 500:
                failed.append(f"{answer.status} {address[:120]}")
    assert not failed, "\n".join(failed)
