"""A person at the pages: one browser context of their own, and what they do there."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, Response, expect

from tests.support import tokens
from tests.support.chromium import Watch

SESSION = "__Host-keyledger"
REFRESH = "__Host-keyledger-refresh"
WRITES = {"X-Keyledger-Request": "1"}
"""The header that every write carries."""
PATIENCE = 10_000
"""Milliseconds that a step may take; a machine that runs other tests beside is slow."""

_NUMBERS = itertools.count(1)
_CALL = """
async ([method, address, headers, body]) => {
    const answer = await fetch(address, {method, headers, body, redirect: "manual"});
    return [answer.status, await answer.text()];
}
"""


class Person:
    """Somebody with a browser. Paths are the dashboard's."""

    def __init__(self, context: BrowserContext, page: Page, home: str, watch: Watch) -> None:
        self.context = context
        self.page = page
        self.home = home
        self.watch = watch
        self.workspace = ""

    async def goes_to(self, path: str) -> Response:
        """Open a page as if its address were typed."""
        answer = await self.page.goto(self.home + path)
        assert answer is not None
        return answer

    async def signs_in(self, account: str, *, path: str = "/settings/api-keys") -> None:
        """From the page they want, by the provider, back to that page."""
        await self.goes_to(path)
        await expect(self.page).to_have_url(re.compile(r"/sign-in\b"))
        await self.page.get_by_role("link", name=re.compile("sign in|continue", re.IGNORECASE)).first.click()
        await self.tells_the_provider(account)
        await self.page.wait_for_url(f"{self.home}/**")

    async def tells_the_provider(self, account: str) -> None:
        """Fill in the provider's form."""
        await self.page.get_by_label("Account").fill(account)
        await self.page.get_by_role("button", name="Continue").click()

    async def follows_the_link(self, told: str) -> None:
        """Sign in by the one-time link in what the supervisor has told."""
        found = re.search(r"http://\S+/sign-in/link\?token=\S+", told)
        assert found is not None, f"there is no link in {told!r}"
        await self.page.goto(found[0])
        await self.page.wait_for_url(re.compile("/(settings|workspaces)"))

    async def makes_workspace(self, name: str) -> str:
        """By the page, and open it; its id. `workspace` is then its name, which no other one has."""
        self.workspace = f"{name} {next(_NUMBERS)}"
        await self.goes_to("/workspaces")
        await self.page.get_by_label(re.compile("name", re.IGNORECASE)).first.fill(self.workspace)
        await self.page.get_by_role("button", name=re.compile("create", re.IGNORECASE)).click()
        await self.page.wait_for_url(re.compile("/settings/"))
        return (await self.claims())["ws"]

    async def signs_out(self) -> None:
        """By the page's own button, until the page says so."""
        button = self.page.get_by_role("button", name=re.compile("sign out", re.IGNORECASE))
        if not await button.first.is_visible():
            await self.page.get_by_role("button", name=re.compile("account|menu", re.IGNORECASE)).click()
        await button.first.click()
        await self.page.wait_for_url(re.compile(r"/sign-in\b"))

    async def call(
        self, method: str, path: str, headers: Mapping[str, str] = WRITES, body: str | None = None
    ) -> tuple[int, str]:
        """What a script in the page would be answered: the status and the text."""
        status, text = await self.page.evaluate(_CALL, [method, path, dict(headers), body])
        return status, text

    async def cookie(self, name: str = SESSION) -> str | None:
        """A cookie's value, as the browser holds it."""
        found = [cookie for cookie in await self.context.cookies(self.home) if cookie.get("name") == name]
        return found[0].get("value") if found else None

    async def jwt(self) -> str:
        """The session's JWT, as only the browser holds it."""
        token = await self.cookie()
        assert token is not None, "there is no session"
        return token

    async def claims(self) -> dict[str, Any]:
        """What the session's JWT says."""
        return tokens.claims(await self.jwt())

    async def forgets_jwt(self) -> None:
        """The JWT's cookie has run out; the refresh cookie has not."""
        await self.context.clear_cookies(name=SESSION)

    async def photographs(self, folder: Path, name: str) -> None:
        """Keep how the page looks, from top to bottom."""
        folder.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")


@asynccontextmanager
async def person(browser: Browser, home: str, *others: str, **options: Any) -> AsyncGenerator[Person]:
    """Somebody new, who knows the dashboard at `home` and asks nobody but it and these others.

    At the end the watch over their browser is checked.
    """
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    watch = Watch(frozenset((home, *others)))
    await watch.over(context)
    try:
        page = await context.new_page()
        yield Person(context, page, home, watch)
        watch.check()
    finally:
        await context.close()
