"""The pages on ports in memory, and a browser that keeps nothing."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.support.dashboard_pages import Pages


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
async def browser(pages: Pages) -> AsyncIterator[httpx2.AsyncClient]:
    async with pages.browser() as client:
        yield client
