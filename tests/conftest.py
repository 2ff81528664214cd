"""Fixtures of every test: servers once per session, a database of its own per test.

The servers start when the first test asks for one and come from the source that the environment names
(tests/support/servers.py). Databases are separate; roles belong to the whole server and stay.
"""

import os
from collections.abc import AsyncIterator

import pytest

from tests.support import servers as sources
from tests.support import servers_fresh as fresh
from tests.support.servers import Servers
from tests.support.system import System, running, temporary_home


@pytest.fixture(scope="session")
async def postgres_server() -> AsyncIterator[str]:
    """The admin's DSN of this session's Postgres, database `postgres`."""
    async with sources.postgres(os.environ) as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def nats_url() -> AsyncIterator[str]:
    """The URL of this session's NATS, with JetStream. Streams have unique names, so tests share it."""
    async with sources.nats(os.environ) as url:
        yield url


@pytest.fixture(scope="session")
async def servers(postgres_server: str, nats_url: str) -> Servers:
    """Both servers of this session."""
    return Servers(postgres=postgres_server, nats=nats_url)


@pytest.fixture(scope="session")
async def system() -> AsyncIterator[System]:
    """The system as `make up` starts it, for all tests that leave it whole, each in workspaces of its own."""
    with temporary_home() as home:
        async with running(home) as system:
            yield system


@pytest.fixture
async def database(postgres_server: str) -> AsyncIterator[str]:
    """The admin's DSN of a new, empty database, dropped afterwards whoever is still connected."""
    async with fresh.database(postgres_server) as dsn:
        yield dsn


@pytest.fixture
async def clean_streams(nats_url: str) -> AsyncIterator[None]:
    """Deletes afterwards every JetStream stream that came into being during the test."""
    async with fresh.streams(nats_url):
        yield
