"""axe-core in a page: what it finds that somebody could not use."""

from __future__ import annotations

from functools import cache
from typing import Any

from playwright.async_api import Page

from tests.support.npm import modules
from tests.support.openid import FOLDER

_RUN = "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)"


@cache
def _source() -> str:
    return (modules(FOLDER) / "axe-core" / "axe.min.js").read_text()


async def violations(page: Page) -> list[str]:
    """Every violation of any of axe-core's rules, best practices too, with where it is."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(_source())
    found: list[dict[str, Any]] = await page.evaluate(_RUN)
    return [f"{rule['id']}: {rule['help']}: {node['target']}" for rule in found for node in rule["nodes"]]
