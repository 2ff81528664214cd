"""The README's pictures of the dashboard, light and dark, of a workspace as it looks after two weeks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from playwright.async_api import Page

from bench.report import RESULTS
from bench.stage import say
from tests.support import chromium
from tests.support.browsing import Person, person
from tests.support.furnishing import furnish
from tests.support.system import running, temporary_home

LARGEST = 200 * 1024
"""Bytes of a picture."""
SIZE = {"width": 1280, "height": 800}
PICTURES: tuple[tuple[str, str, Literal["light", "dark"]], ...] = (
    ("dashboard-keys", "/settings/api-keys", "light"),
    ("dashboard-usage", "/settings/usage?range=7d", "dark"),
)


async def main() -> None:
    """Take them, into bench/results."""
    with temporary_home() as folder:
        async with (
            running(folder) as system,
            chromium.browser() as browser,
            person(browser, system.url("dashboard"), viewport=SIZE, locale="en-GB") as somebody,
        ):
            await somebody.follows_the_link(system.output)
            await furnish(system, (await somebody.claims())["ws"], await somebody.jwt())
            for name, path, theme in PICTURES:
                await taken(somebody, RESULTS / f"{name}.png", path, theme)


async def taken(somebody: Person, file: Path, path: str, theme: Literal["light", "dark"]) -> None:
    """One picture, of what a window shows without scrolling."""
    await somebody.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    await somebody.goes_to(path)
    await settled(somebody.page)
    size = len(await somebody.page.screenshot(path=file, animations="disabled"))
    assert size <= LARGEST, f"{file.name} has {size:,} bytes"
    say(f"{file.name}: {size:,} bytes")


async def settled(page: Page) -> None:
    """Fonts are there, and nothing is asked for any more."""
    await page.wait_for_load_state("networkidle")
    await page.evaluate("document.fonts.ready")


if __name__ == "__main__":
    asyncio.run(main())
