"""Every page: whoever reads it can, it asks nobody else, it is light; and how it looks is kept."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Response, ViewportSize

from tests.browser.conftest import Somebody
from tests.support.accessibility import violations
from tests.support.browsing import Person
from tests.support.furnishing import furnish, import_keys
from tests.support.system import System

LARGEST = 200 * 1024
"""Bytes of a page with everything it brings along, as they travel."""
DESK = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=360, height=740)
KEY = "/settings/api-keys/{key}"
PAGES = {
    "keys": "/settings/api-keys",
    "keys-none-fits": "/settings/api-keys?search=no+such+key",
    "create": "/settings/api-keys/new",
    "key": KEY,
    "rotate": f"{KEY}/rotate",
    "revoke": f"{KEY}/revoke",
    "key-usage": f"{KEY}/usage",
    "usage": "/settings/usage?range=7d",
    "rate-limit": "/settings/rate-limit",
    "activity": "/settings/activity",
    "workspace": "/settings/workspace",
    "members": "/settings/members",
    "workspaces": "/workspaces",
    "not-found": "/settings/api-keys/key_1111111111111111111111",
}
EMPTY = {f"empty-{name}": PAGES[name] for name in ("keys", "usage", "rate-limit", "activity", "members")}


@dataclass(frozen=True)
class Furnished:
    """Somebody with a workspace that looks used, and one of its keys."""

    somebody: Person
    key: str

    answers: list[Response]
    """What was answered since the last page was opened."""

    async def opens(self, name: str) -> Response:
        """As a browser that has kept nothing."""
        self.answers.clear()
        answer = await self.somebody.goes_to(PAGES[name].format(key=self.key))
        await settled(self.somebody)
        return answer

    async def weights(self) -> dict[str, int]:
        """Bytes of each answer, as they travelled."""
        found: dict[str, int] = {}
        for answer in self.answers:
            sizes = await answer.request.sizes()
            found[answer.url] = sizes["responseBodySize"] + sizes["responseHeadersSize"]
        return found


@pytest.fixture(scope="module")
async def furnished(house: System, somebody: Somebody) -> AsyncIterator[Furnished]:
    async with somebody(viewport=DESK, locale="en-GB", timezone_id="Europe/Berlin") as ida:
        await ida.signs_in("ida")
        workspace = await ida.makes_workspace("Nordlicht")
        keys = await furnish(house, workspace, await ida.jwt())
        await import_keys(house, workspace, 60)
        network = await ida.context.new_cdp_session(ida.page)
        await network.send("Network.setCacheDisabled", {"cacheDisabled": True})
        answers: list[Response] = []

        def answered(answer: Response) -> None:
            answers.append(answer)

        ida.page.on("response", answered)
        yield Furnished(ida, keys[0]["id"], answers)


@pytest.fixture(scope="module")
async def newcomer(somebody: Somebody) -> AsyncIterator[Person]:
    async with somebody(viewport=DESK, locale="en-GB") as jo:
        await jo.signs_in("jo")
        await jo.makes_workspace("Empty")
        yield jo


async def settled(somebody: Person) -> None:
    """Fonts are there, and nothing that the page begins with is being asked for."""
    await somebody.page.wait_for_load_state("networkidle")
    await somebody.page.evaluate("document.fonts.ready")


async def is_sound(somebody: Person, name: str, screenshots: Path) -> None:
    """In light and dark, on a desk and on a phone: readable by all, nothing beyond the edge; photographed."""
    looks: tuple[tuple[Literal["light", "dark"], ViewportSize, str], ...] = (
        ("light", DESK, "desk"), ("dark", DESK, "desk"), ("light", PHONE, "phone"),
    )  # fmt: skip
    found: list[str] = []
    for theme, size, device in looks:
        await somebody.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        await somebody.page.set_viewport_size(size)
        found += [f"{theme}, {device}: {line}" for line in await violations(somebody.page)]
        wide = await somebody.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            found.append(f"{theme}, {device}: {wide} px wider than the window")
        await somebody.photographs(screenshots, f"{name}-{device}-{theme}")
    await somebody.page.set_viewport_size(DESK)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_for_everybody(furnished: Furnished, name: str, screenshots: Path) -> None:
    answer = await furnished.opens(name)
    assert answer.status == (404 if name == "not-found" else 200)
    weights = await furnished.weights()
    assert len(weights) > 5
    assert sum(weights.values()) <= LARGEST, weights
    assert re.fullmatch(r"[^·]+ · Keyledger", await furnished.somebody.page.title())
    assert await furnished.somebody.page.locator("h1").count() == 1
    await is_sound(furnished.somebody, name, screenshots)
    furnished.somebody.watch.check()


@pytest.mark.parametrize("name", EMPTY)
async def test_an_empty_page_says_what_to_do(newcomer: Person, name: str, screenshots: Path) -> None:
    await newcomer.goes_to(EMPTY[name])
    await settled(newcomer)
    await is_sound(newcomer, name, screenshots)
    newcomer.watch.check()


async def test_the_empty_list_shows_a_call_to_paste(newcomer: Person, house: System) -> None:
    await newcomer.goes_to(PAGES["keys"])
    text = await newcomer.page.inner_text("main")
    assert "curl" in text
    assert house.url("contacts") in text or house.url("verifier") in text
    assert "X-API-Key" in text
    assert "TypeScript" in text


@pytest.mark.parametrize("path", ["/sign-in", "/nowhere", "/invitations/unknown"])
async def test_an_open_page_is_for_everybody(somebody: Somebody, path: str, screenshots: Path) -> None:
    async with somebody(viewport=DESK) as stranger:
        await stranger.goes_to(path)
        await settled(stranger)
        await is_sound(stranger, path.strip("/").replace("/", "-"), screenshots)


async def test_what_a_page_brings_along_is_kept(furnished: Furnished, house: System) -> None:
    """Named by what it holds, so a browser never asks again; a page itself is kept nowhere."""
    answer = await furnished.opens("keys")
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    html = await answer.text()
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)
    brought = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', html))
    assert brought
    for path in brought:
        found = await house.http.get(furnished.somebody.home + path)
        assert found.status_code == 200
        assert "immutable" in found.headers["cache-control"]
        assert re.search(r"\.[0-9a-f]{12}\.", path)


async def test_a_theme_that_is_chosen_stays(furnished: Furnished) -> None:
    page = furnished.somebody.page
    await furnished.opens("keys")
    await page.emulate_media(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.get_by_role("button", name=re.compile("theme", re.IGNORECASE)).click()
    dark = await page.evaluate(ground)
    assert dark != light
    await page.reload()
    assert await page.evaluate(ground) == dark
    await page.evaluate("localStorage.clear()")
