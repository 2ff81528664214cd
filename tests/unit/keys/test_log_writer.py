"""The log's writer outlives whatever a commit may raise."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from keyledger.errors import Refusal
from keyledger.server.postgres import AWAY
from services.keys.adapters.log import TRIES, PostgresLog
from services.keys.ports import Command

COMMAND = Command(UUID(int=1), "key_1", "key", "ws_1", 0, 1, (), b"{}")
ROW = {"outcome": "done", "version": 1, "position": 7, "at": 1, "epoch_number": 1, "epoch_line": b"8 bytes."}


class Pool:
    """Connections whose statements raise what is left in `errors`, then answer."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def acquire(self, *, timeout: float | None = None) -> Pool:
        del timeout
        return self

    async def release(self, connection: object, *, timeout: float | None = None) -> None:
        del connection, timeout

    def terminate(self) -> None:
        pass

    def is_closed(self) -> bool:
        return False

    async def fetch(self, *_: object, **__: object) -> list[dict[str, Any]]:
        if self.errors:
            raise self.errors.pop(0)
        return [ROW]


async def test_an_unexpected_error_costs_its_own_command_and_not_the_next() -> None:
    async with PostgresLog(cast("Any", Pool(RuntimeError("a defect"), RuntimeError("another")))) as log:
        with pytest.raises(Refusal, match="outcome_unknown"):
            await log.append(COMMAND)
        assert (await log.append(COMMAND)).position == 7


async def test_a_connection_that_was_killed_with_the_first_says_nothing_about_a_command() -> None:
    pool = Pool(*[ConnectionResetError()] * TRIES)
    async with PostgresLog(cast("Any", pool)) as log:
        assert (await log.append(COMMAND)).position == 7
    assert pool.errors == []


@pytest.mark.parametrize(
    "errors",
    [[ConnectionResetError()] * (1 + TRIES), [ConnectionResetError(), TimeoutError()]],
    ids=["killed each time", "silent"],
)
async def test_what_became_of_a_command_is_asked_so_often_and_not_of_a_silent_server(
    errors: list[Exception],
) -> None:
    pool = Pool(*errors)
    async with PostgresLog(cast("Any", pool)) as log:
        with pytest.raises(Refusal, match="outcome_unknown"):
            await log.append(COMMAND)
    assert pool.errors == []


@pytest.mark.parametrize("kind", [asyncpg.InternalClientError, ConnectionResetError])
def test_a_killed_backend_counts_as_postgres_away(kind: type[Exception]) -> None:
    assert issubclass(kind, AWAY)
