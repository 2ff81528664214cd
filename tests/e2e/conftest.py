"""One running system for all end-to-end tests that leave it whole."""

from collections.abc import AsyncIterator

import pytest

from tests.support.system import System, running, temporary_home


@pytest.fixture(scope="session")
async def system() -> AsyncIterator[System]:
    """The system as `make up` starts it. Tests share it, each in workspaces of its own."""
    with temporary_home() as home:
        async with running(home) as system:
            yield system
