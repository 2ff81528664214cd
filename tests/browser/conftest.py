"""One system with a provider for all browser tests, one browser, and people who are somebody new each."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from infra.local.settings import PORT_OFFSETS
from tests.support import chromium, openid
from tests.support.browsing import Person, person
from tests.support.debian import ProgramMissingError
from tests.support.openid import Provider
from tests.support.system import System, free_base, running, temporary_home

ROOT = Path(__file__).parents[2]

Somebody = Callable[..., AbstractAsyncContextManager[Person]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    try:
        async with chromium.browser() as started:
            yield started
    except ProgramMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def base() -> int:
    return free_base()


@pytest.fixture(scope="session")
async def provider(base: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    """A real OpenID provider, whose one client is the dashboard."""
    callback = f"http://127.0.0.1:{base + PORT_OFFSETS['dashboard']}/sign-in/callback"
    async with openid.running(tmp_path_factory.mktemp("provider"), callback=callback) as started:
        yield started


@pytest.fixture(scope="session")
async def house(
    base: int, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    """The whole system, signing in with that provider."""
    environment = provider.environment(tmp_path_factory.mktemp("dashboard"))
    with temporary_home() as home:
        async with running(home, base=base, **environment) as system:
            yield system


@pytest.fixture(scope="session")
def somebody(browser: Browser, house: System, provider: Provider) -> Somebody:
    """Somebody new with a browser of their own: `async with somebody() as ada`."""

    def new(**options: Any) -> AbstractAsyncContextManager[Person]:
        return person(browser, house.url("dashboard"), provider.issuer, **options)

    return new


@pytest.fixture
async def crowd(somebody: Somebody) -> AsyncIterator[Callable[..., Any]]:
    """As many people as a test wants: `ada = await crowd()`. What they did is checked at its end."""
    async with AsyncExitStack() as stack:

        async def comes(**options: Any) -> Person:
            return await stack.enter_async_context(somebody(**options))

        yield comes


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where how the pages look is kept."""
    return ROOT / ".artifacts" / "screenshots"
