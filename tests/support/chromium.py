"""Debian's Chromium, driven by Playwright, and a watch over all that a browser does.

Playwright's own builds are not used: they are downloaded from elsewhere than a package registry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Request, WebError, async_playwright

from tests.support.debian import from_debian

INSTALLING = 110
"""Seconds that the installation of a browser may take."""
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation",
    (event) => tellViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile ?? ""}`));
"""


@asynccontextmanager
async def browser() -> AsyncGenerator[Browser]:
    """A browser without a window. `ProgramMissingError` where there is none."""
    path = from_debian("chromium", "chromium", within=INSTALLING)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=list(_QUIET))
        try:
            yield started
        finally:
            await started.close()


@dataclass
class Watch:
    """What a browser did that it should not have done, gathered while it is used."""

    origins: frozenset[str]
    foreign: list[str] = field(default_factory=list[str])
    violations: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])

    async def over(self, context: BrowserContext) -> None:
        """Look at everything that this context does from now on."""
        await context.expose_binding("tellViolation", self._told)
        await context.add_init_script(_TELL_VIOLATIONS)
        context.on("request", self._requested)
        context.on("console", self._said)
        context.on("weberror", self._failed)

    def check(self) -> None:
        """Nothing asked of anybody else, nothing against the policy, no error in a script."""
        assert not self.foreign, f"asked of others: {self.foreign}"
        assert not self.violations, f"against the Content-Security-Policy: {self.violations}"
        assert not self.errors, f"errors in the pages: {self.errors}"

    def _requested(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and f"{parts.scheme}://{parts.netloc}" not in self.origins:
            self.foreign.append(request.url)

    def _told(self, source: Any, text: str) -> None:
        del source
        self.violations.append(text)

    def _said(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.violations.append(message.text)
        # that an answer was 404 is what a test may want to see
        elif message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def _failed(self, error: WebError) -> None:
        self.errors.append(str(error.error))
