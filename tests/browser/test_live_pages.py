"""What an open page shows moves by itself, all of it together, and under nobody's eyes."""

import json
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Locator, ViewportSize, expect

from tests.browser.conftest import Somebody
from tests.support.browsing import Person
from tests.support.system import System
from tests.support.waiting import until

KEYS = "/settings/api-keys"
SOON = 25_000
"""Milliseconds until what was done elsewhere is seen: uses are told and folded first."""


@pytest.fixture
async def eva(somebody: Somebody) -> AsyncIterator[Person]:
    async with somebody(
        locale="en-GB", timezone_id="Europe/Berlin", viewport=ViewportSize(width=1280, height=700)
    ) as arrived:
        await arrived.signs_in("ida")
        await arrived.makes_workspace("Alive")
        await arrived.page.evaluate("window.opened = true")
        yield arrived


async def was_not_loaded_again(somebody: Person) -> None:
    assert await somebody.page.evaluate("window.opened") is True


async def stays_open(somebody: Person, path: str) -> None:
    await somebody.goes_to(path)
    await somebody.page.evaluate("window.opened = true")


async def top_of(entry: Locator) -> float:
    return await entry.evaluate("(entry) => entry.getBoundingClientRect().top")


async def test_activity_is_told_as_it_happens(eva: Person, house: System) -> None:
    workspace = (await eva.claims())["ws"]
    await stays_open(eva, "/settings/activity")
    entries = eva.page.locator("#entries > li.link")
    begun = await entries.count()
    await expect(eva.page.get_by_text("No key has been created yet")).to_be_visible()
    status = eva.page.get_by_role("status").filter(has_text="new entr")
    for number in range(1, 4):
        await house.key(workspace, name=f"from elsewhere {number}")
        await expect(entries).to_have_count(begun + number, timeout=SOON)
        await expect(entries.first).to_contain_text(f"from elsewhere {number}")
        await expect(status).to_contain_text("1 new entry: Management key")
    await was_not_loaded_again(eva)
    # times are told in the reader's zone, as those that were there from the beginning
    assert "UTC" not in await eva.page.locator("#entries").inner_text()


async def test_what_comes_in_above_moves_nothing_that_is_being_read(eva: Person, house: System) -> None:
    workspace = (await eva.claims())["ws"]
    for number in range(30):
        await house.key(workspace, name=f"key {number}")
    await stays_open(eva, "/settings/activity")
    read = eva.page.locator("#entries > li.link").filter(has_text="“key 12”")
    await read.evaluate("(entry) => entry.scrollIntoView({block: 'center'})")
    link = read.get_by_role("link")
    await link.focus()
    before = await top_of(read)
    for name in ("one", "two"):
        await house.key(workspace, name=name)
        await expect(eva.page.locator("#entries > li.link").first).to_contain_text(name, timeout=SOON)
    assert abs(await top_of(read) - before) < 2
    await expect(link).to_be_focused()
    await was_not_loaded_again(eva)


async def test_a_key_s_history_goes_on_while_it_is_open(eva: Person, house: System) -> None:
    key = await house.key((await eva.claims())["ws"], name="watched")
    await stays_open(eva, f"{KEYS}/{key['id']}")
    entries = eva.page.locator("#entries > li.link")
    await expect(entries).to_have_count(1)
    address = house.url("keys", f"/v1/workspaces/{(await eva.claims())['ws']}/keys/{key['id']}")
    answer = await house.http.patch(
        address, json={"enabled": False}, headers={"Authorization": f"Bearer {await eva.jwt()}"}
    )
    assert answer.is_success
    await expect(entries).to_have_count(2, timeout=SOON)
    await expect(entries.first).to_contain_text("disabled this key")
    await was_not_loaded_again(eva)
    await eva.page.get_by_role("link", name="Show it as it is now").click()
    await expect(eva.page.locator(".key-line")).to_contain_text("Disabled")


async def figures(eva: Person) -> tuple[int, int, int]:
    """All uses as the totals, the table and the busiest keys have them."""
    text = eva.page.locator
    totals = await text("#totals .sum dd").inner_text()
    rows = await text("#as-table tbody tr td:last-child").all_text_contents()
    busiest = await text("td[data-label=Uses]").all_inner_texts()
    return (
        int(totals.replace(",", "")),
        sum(int(row.replace(",", "")) for row in rows),
        sum(int(each.replace(",", "")) for each in busiest),
    )


async def test_all_of_usage_moves_together(eva: Person, house: System) -> None:
    key = await house.key((await eva.claims())["ws"], name="busy")
    await stays_open(eva, "/settings/usage?range=1h")
    await expect(eva.page.get_by_role("heading", name="No uses in this period")).to_be_visible()
    for uses in (4, 9):
        for _ in range(uses):
            assert (await house.contacts(key["key"])).status_code == 200
        expected = 4 if uses == 4 else 13

        async def counted(expected: int = expected) -> bool:
            if await eva.page.locator("#totals").count() == 0:
                return False
            return await figures(eva) == (expected, expected, expected)

        await until(counted, within=SOON / 1000)
        chart = json.loads(await eva.page.locator("#told").get_attribute("data-chart") or "")
        assert sum(sum(line["counts"]) for line in chart["lines"]) == expected
        eva.watch.check()
        await expect(eva.page.locator("#chart canvas")).to_be_visible()
    await was_not_loaded_again(eva)
    await expect(eva.page.get_by_role("row").filter(has_text="busy")).to_contain_text("100 %")
    eva.watch.check()


async def test_a_drag_looks_closer_by_bars_that_can_be_seen(eva: Person, house: System) -> None:
    key = await house.key((await eva.claims())["ws"], name="dragged", scopes=["nothing:here"])
    assert (await house.verify(key["key"], min_position=key["position"]))["valid"] is True
    refused = await house.verify(key["key"], scopes=["orders:read"])
    assert refused["code"] == "INSUFFICIENT_PERMISSIONS"
    page = eva.page

    async def counted() -> bool:
        await eva.goes_to("/settings/usage?range=24h")
        return await page.locator("#totals dt").count() == 3

    await until(counted, within=SOON / 1000)
    buttons = page.locator(".legend-row button")
    await expect(buttons).to_have_text(await page.locator("#totals div:not(.sum) dt").all_inner_texts())
    await expect(page.locator(".reading")).to_contain_text("The shaded hour is still being counted.")
    box = await page.locator(".u-over").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 50)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60, steps=5)
    await page.mouse.up()
    await page.wait_for_url(re.compile("from=.*to="))
    await expect(page.get_by_role("link", name="Hours")).to_have_attribute("aria-current", "true")
    await expect(page.get_by_role("link", name="Custom")).to_have_attribute("aria-current", "true")


async def test_a_gauge_without_a_limit_leads_to_one_that_moves(eva: Person, house: System) -> None:
    key = await house.key((await eva.claims())["ws"], name="plain")
    await stays_open(eva, f"/settings/rate-limit?key={key['id']}")
    await expect(eva.page.locator("#gauge")).to_contain_text("no rate limit of its own")
    await eva.page.get_by_role("link", name=re.compile("Show the workspace")).click()
    await expect(eva.page.locator("#gauge .big")).to_have_text("0")
    await expect(eva.page.get_by_role("heading", name="No requests in this window yet")).to_be_visible()
    assert (await house.contacts(key["key"])).status_code == 200
    await expect(eva.page.locator("#gauge .big")).not_to_have_text("0", timeout=SOON)
