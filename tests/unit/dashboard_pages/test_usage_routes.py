"""Usage and rate limit, by their addresses."""

import csv
import html
import io
import json
import re
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest

from keyledger.client.records import GrantedPart, UsagePoint
from keyledger.errors import unavailable
from keyledger.events import RateLimit
from tests.support.dashboard_backend import EMPTY, made_id
from tests.support.dashboard_pages import PART, Pages

USAGE = "/settings/usage"


def chart_of(text: str) -> dict[str, Any]:
    """What the page's chart is drawn from."""
    found = re.search(r'id="told" hidden data-chart="([^"]*)"', text)
    assert found is not None
    return json.loads(html.unescape(found[1]))


async def used(pages: Pages) -> str:
    key = await pages.key("billing")
    start = pages.backend.now.replace(minute=0, second=0) - timedelta(hours=2)
    for outcome, count in (("VALID", 1200), ("RATE_LIMITED", 30)):
        pages.backend.points.append(
            UsagePoint(start=start, count=count, cost=count, outcome=outcome, environment="live", key=key)
        )
    return key


async def test_usage_is_told_in_totals_a_chart_and_a_table(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await used(pages)
    for home, top in ((USAGE, True), (f"/settings/api-keys/{key}/usage", False)):
        text = (await browser.get(home)).text
        assert "<dd>1,230</dd>" in text
        assert "Over the rate limit" in text
        assert "The same as a table" in text
        assert ("/settings/usage/top?" in text) is top
        assert f'hx-get="{home}/now?range=24h&amp;granularity=hour&amp;shown=counts"' in text
        chart = chart_of(text)
        assert {line["code"]: sum(line["counts"]) for line in chart["lines"]} == {
            "VALID": 1200, "RATE_LIMITED": 30,
        }  # fmt: skip
        assert len(chart["starts"]) in (24, 25)
        assert all(len(line["counts"]) == len(chart["starts"]) for line in chart["lines"])


async def test_totals_table_and_chart_move_together(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await used(pages)
    for home in (USAGE, f"/settings/api-keys/{key}/usage"):
        before = await browser.get(f"{home}/now?range=24h&shown=counts", headers=PART)
        assert "<dd>1,230</dd>" in before.text
    pages.backend.points.append(msgspec.structs.replace(pages.backend.points[0], count=70))
    for home in (USAGE, f"/settings/api-keys/{key}/usage"):
        text = (await browser.get(f"{home}/now?range=24h&shown=counts", headers=PART)).text
        assert "<dd>1,300</dd>" in text
        assert re.findall(r'id="(\w[\w-]*)"[^>]* hx-swap-oob', text) == ["span", "totals", "rows", "told"]
        assert '<td class="number">1,300</td>' in text
        assert sum(sum(line["counts"]) for line in chart_of(text)["lines"]) == 1300


async def test_an_empty_page_fills_itself_at_the_first_use(pages: Pages, browser: httpx2.AsyncClient) -> None:
    assert (
        "/settings/usage/now?range=24h&amp;granularity=hour&amp;shown=nothing"
        in (await browser.get(USAGE)).text
    )
    nothing = await browser.get(f"{USAGE}/now?range=24h&shown=nothing", headers=PART)
    assert (nothing.status_code, nothing.text) == (204, "")
    await used(pages)
    text = (await browser.get(f"{USAGE}/now?range=24h&shown=nothing", headers=PART)).text
    assert '<div id="usage" hx-swap-oob="true">' in text
    assert 'id="chart"' in text
    assert "shown=counts" in text


async def test_a_period_that_is_over_is_not_asked_for_again(browser: httpx2.AsyncClient) -> None:
    over = "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z"
    assert "/settings/usage/now" not in (await browser.get(f"{USAGE}?{over}")).text


async def test_usage_is_taken_away_as_a_sheet(pages: Pages, browser: httpx2.AsyncClient) -> None:
    await used(pages)
    answer = await browser.get(f"{USAGE}.csv?range=24h")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["outcome"], row["count"], row["environment"]) for row in rows] == [
        ("VALID", "1200", "live"), ("RATE_LIMITED", "30", "live"),
    ]  # fmt: skip


async def test_the_busiest_keys_are_named(pages: Pages, browser: httpx2.AsyncClient) -> None:
    key = await used(pages)
    text = (await browser.get(f"{USAGE}/top?range=24h", headers=PART)).text
    assert f'href="/settings/api-keys/{key}/usage?' in text
    assert ">billing</a>" in text
    assert "1,230" in text
    pages.backend.fails["usage"] = unavailable("unavailable", "away")
    assert "not known just now" in (await browser.get(f"{USAGE}/top", headers=PART)).text


async def test_the_busiest_keys_are_of_exactly_the_period_shown(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    """Whatever the range: a use of the same hour or day, but outside of it, is in neither."""
    key, now = await pages.key("billing"), pages.backend.now
    for minutes in (
        0,
        1,
        59,
        61,
        62,
        119,
        121,
        1430,
        1441,
        1500,
        10_070,
        10_081,
        43_190,
        44_000,
        129_500,
        200_000,
        500_000,
    ):
        for outcome in ("VALID", "REVOKED"):
            start = (now - timedelta(minutes=minutes)).replace(second=0, microsecond=0)
            pages.backend.points.append(
                UsagePoint(start=start, count=1, cost=1, outcome=outcome, environment="live", key=key)
            )
    year = f"from={(now - timedelta(days=365)):%Y-%m-%dT%H:%M:%SZ}&to={now:%Y-%m-%dT%H:%M:%SZ}"
    hour = f"from={(now - timedelta(minutes=70)):%Y-%m-%dT%H:%M:%SZ}&to={now:%Y-%m-%dT%H:%M:%SZ}"
    for query in ("range=1h", "range=24h", "range=7d", "range=30d", "range=90d", year, hour):
        whole = re.search(r"<dt>All uses</dt><dd>(\d+)</dd>", (await browser.get(f"{USAGE}?{query}")).text)
        top = re.search(r'data-label="Uses">(\d+)<', (await browser.get(f"{USAGE}/top?{query}")).text)
        assert whole is not None, query
        assert top is not None, query
        assert int(top[1]) == int(whole[1]) > 0, query


async def test_an_unused_workspace_is_told_how_to_begin(browser: httpx2.AsyncClient) -> None:
    """And is shown nothing that is empty above it."""
    text = (await browser.get(USAGE)).text
    assert "No uses in this period" in text
    assert "curl -i" in text
    assert 'id="chart"' not in text
    assert "Busiest keys" not in text


@pytest.mark.parametrize("path", ["", "/now", ".csv", "/top"])
async def test_the_ends_of_time_are_no_error(browser: httpx2.AsyncClient, path: str) -> None:
    bounds = (
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.9Z",
        "0001-01-01T00:00:00Z",
        "1e999",
        "+1000000-01-01",
    )
    for start in bounds:
        for end in bounds:
            query = {"from": start, "to": end, "granularity": "day"}
            assert (await browser.get(f"{USAGE}{path}", params=query)).status_code < 300


@pytest.mark.parametrize(
    "query", ["range=x", "from=a&to=b", "granularity=second", "from=2026-01-01T00:00Z&to=2020-01-01T00:00Z"]
)
async def test_a_period_that_cannot_be_read_is_the_last_day(browser: httpx2.AsyncClient, query: str) -> None:
    text = (await browser.get(f"{USAGE}?{query}")).text
    assert 'href="/settings/usage?range=24h" aria-current="true"' in text


async def test_the_gauge_shows_the_running_window(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.cell = msgspec.structs.replace(
        EMPTY, limit=1000, window_seconds=60, admitted=640, granted=700, remaining=360, reset=2_000_000_000,
        verifiers=(GrantedPart("verifier-<a>", 700, 640),),
    )  # fmt: skip
    for path in ("/settings/rate-limit", "/settings/rate-limit/gauge"):
        text = (await browser.get(path)).text
        assert "640</span>" in text
        assert "verifier-&lt;a&gt;" in text
    assert 'hx-get="/settings/rate-limit/gauge"' in (await browser.get("/settings/rate-limit")).text


async def test_a_key_with_a_limit_of_its_own_has_its_own_gauge(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("partner", rate_limit=RateLimit(5, 60))
    assert f"/settings/rate-limit?key={key}" in (await browser.get("/settings/rate-limit")).text
    text = (await browser.get("/settings/rate-limit", params={"key": key})).text
    assert "5 per minute" in text
    assert f'hx-get="/settings/rate-limit/gauge?key={key}"' in text
    for path in ("/settings/rate-limit", "/settings/rate-limit/gauge"):
        assert (await browser.get(path, params={"key": made_id("key", 99)})).status_code == 404


async def test_a_key_without_a_limit_of_its_own_leads_to_the_workspace_s(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    key = await pages.key("plain")
    for path in ("/settings/rate-limit", "/settings/rate-limit/gauge"):
        text = (await browser.get(path, params={"key": key})).text
        assert "This key has no rate limit of its own." in text
        assert 'href="/settings/rate-limit"' in text
        assert "no limit" not in text
        assert "0 %" not in text


async def test_a_gauge_that_stands_still_says_how_to_move_it(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    text = (await browser.get("/settings/rate-limit")).text
    assert "No requests in this window yet" in text
    assert "curl -i" in text
    pages.backend.cell = msgspec.structs.replace(
        EMPTY, limit=1000, window_seconds=60, admitted=1, granted=9, remaining=999, reset=2_000_000_000
    )
    assert "curl -i" not in (await browser.get("/settings/rate-limit")).text


async def test_a_granter_that_is_away_is_no_lost_page(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.backend.fails["rate_limit"] = unavailable("unavailable", "Not known here.")
    answer = await browser.get("/settings/rate-limit")
    assert answer.status_code == 200
    assert "Not known here." in answer.text
