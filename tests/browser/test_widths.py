"""No page is ever wider than its window, whatever it holds that the contract allows."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Error, ViewportSize

from tests.browser.conftest import Somebody
from tests.support.browsing import Person
from tests.support.system import System

WIDTHS = (
    320,
    360,
    414,
    480,
    600,
    736,
    737,
    768,
    820,
    864,
    865,
    960,
    1024,
    1104,
    1105,
    1152,
    1280,
    1440,
    1920,
)
KEY = "/settings/api-keys/{key}"
PAGES = (
    "/settings/api-keys", "/settings/api-keys/new", KEY, f"{KEY}?as_of={{position}}", f"{KEY}?as_of=1",
    f"{KEY}/rotate", f"{KEY}/revoke", f"{KEY}/edit", f"{KEY}/usage", "/settings/usage",
    "/settings/rate-limit", "/settings/rate-limit?key={key}", "/settings/activity", "/settings/workspace",
    "/settings/members", "/workspaces", "/account",
)  # fmt: skip
STICKS_OUT = """
() => {
    const root = document.documentElement;
    const kinds = "main, .card, dialog[open], .chain, .facts dd, .note, td, .side";
    const boxes = [...document.querySelectorAll(kinds)];
    const wide = boxes.filter((box) => box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0
        && getComputedStyle(box).display !== "inline");
    const beyond = root.scrollWidth - innerWidth;
    return beyond <= 0 && wide.length === 0 ? ""
        : `${beyond} px beyond the window; ${wide.map((box) => box.className || box.tagName)}`;
}
"""


@pytest.fixture(scope="module")
async def crammed(house: System, somebody: Somebody) -> AsyncIterator[tuple[Person, dict[str, str]]]:
    """A workspace whose every value is as long as it may be, and without a blank."""
    async with somebody(viewport=ViewportSize(width=1280, height=800), locale="en-GB") as lou:
        await lou.signs_in("long")
        workspace = await lou.makes_workspace("W" * 190)
        headers = {"Authorization": f"Bearer {await lou.jwt()}"}
        keys = house.url("keys", f"/v1/workspaces/{workspace}/keys")
        body = {
            "environment": "live",
            "scopes": [f"{number:02}{'s' * 62}" for number in range(50)],
            "allowed_ips": [f"2001:db8:ffff:ffff:ffff:ffff:ffff:{number:04x}/128" for number in range(100)],
            "external_id": "e" * 255,
            "metadata": {"k" * 100: "v" * 900},
            "rate_limit": {"limit": 1_000_000_000, "window_seconds": 86_400},
        }
        made = {}
        for number in range(3):
            answer = await house.http.post(
                keys, json={**body, "name": f"{number}{'N' * 199}"}, headers=headers
            )
            made = answer.json()
            assert answer.is_success, made
        change = {"name": "M" * 200, "external_id": "x" * 255}
        changed = await house.http.patch(f"{keys}/{made['id']}", json=change, headers=headers)
        assert changed.is_success, changed.text
        rotated = await house.http.post(
            f"{keys}/{made['id']}/rotate", json={"overlap_seconds": 86_400}, headers=headers
        )
        assert rotated.is_success, rotated.text
        await lou.goes_to("/settings/members")
        sent = await lou.call(
            "POST", "/settings/members/invitations",
            {"X-Keyledger-Request": "1", "Content-Type": "application/x-www-form-urlencoded"},
            f"role=viewer&note={'I' * 200}",
        )  # fmt: skip
        assert sent[0] == 200, sent
        yield lou, {"key": made["id"], "position": str(made["position"])}


@pytest.mark.parametrize("path", PAGES)
async def test_no_page_is_wider_than_its_window(crammed: tuple[Person, dict[str, str]], path: str) -> None:
    lou, ids = crammed
    page = lou.page
    await page.set_viewport_size(ViewportSize(width=1280, height=800))
    await lou.goes_to(path.format(**ids))
    await page.wait_for_load_state("networkidle")
    found: list[str] = []
    for width in WIDTHS:
        await page.set_viewport_size(ViewportSize(width=width, height=800))
        try:
            # a chart takes its new width a moment later
            await page.wait_for_function(f"({STICKS_OUT})() === ''", timeout=2_000)
        except Error:
            found.append(f"{width}: {await page.evaluate(STICKS_OUT)}")
    assert not found, "\n".join(found)
