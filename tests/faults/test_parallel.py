"""F20, F21, F22: a hundred at once on one key, two migrators at once, a transaction that is held open."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
import uuid_utils

from keyledger.clock import SystemClock
from services.keys.adapters.log import command_row
from services.keys.ports import Command, NewEvent
from tests.faults import aftermath, checker
from tests.faults.conftest import Figures
from tests.faults.history import History, Kind, Operation, read_log
from tests.faults.lag import accepted
from tests.faults.rig import Rig, rig
from tests.support.keys import as_role
from tests.support.processes import Process
from tests.support.waiting import until

AT_ONCE = 100
MIGRATION_LOCK = 0x6B65796C
WAITING = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def attempt(
    made: Rig, history: History, path: str, kind: Kind, number: int, headers: dict[str, str]
) -> httpx2.Response:
    """One of many commands on a key, on the books."""
    name = f"{path[-6:]}-{number}"
    bodies: dict[Kind, tuple[str, str, Any]] = {
        "patch": ("PATCH", "", {"scopes": [f"n:{number}"]}),
        "rotate": ("POST", "/rotate", {}),
        "revoke": ("POST", "/revoke", {}),
    }
    method, rest, body = bodies[kind]
    began = time.monotonic()
    answer: httpx2.Response = await made.call(
        method, path + rest, body, at=number % 2, X_Request_Id=name, **headers
    )
    told, acked = answer.json(), answer.status_code in (200, 201)
    history.add(
        Operation(
            kind=kind,
            name=name,
            started=began,
            ended=time.monotonic(),
            outcome="acked" if acked else "refused",
            key_id=told.get("id", ""),
            token=told.get("key", ""),
            position=told.get("position", 0),
            version=told.get("version", 0),
        )
    )
    return answer


async def test_of_a_hundred_on_one_key_one_wins_each_version(
    database: str, nats_url: str, folder: Path, figures: Figures
) -> None:
    statuses = Counter[int]()
    async with rig(database, nats_url, folder, key_services=2) as made:
        workspace = await made.workspace()
        key = await made.key(workspace)
        path = f"/v1/workspaces/{workspace}/keys/{key['id']}"
        history = History()
        kinds: list[Kind] = ["patch", "rotate"]
        for at in range(3):
            version = (await made.ok("GET", path))["version"]
            possible: list[Kind] = [*kinds, "revoke"] if at == 2 else kinds
            some: list[Kind] = [figures.dice.choice(possible) for _ in range(AT_ONCE)]
            answers = await asyncio.gather(
                *(
                    attempt(made, history, path, each, 1000 * at + number, {"If-Match": f'"{version}"'})
                    for number, each in enumerate(some)
                )
            )
            counted = Counter(answer.status_code for answer in answers)
            assert counted[200] + counted[201] == 1, counted
            assert set(counted) <= {200, 201, 409, 412}, counted
            assert (await made.ok("GET", path))["version"] == version + 1
            statuses += counted
        other = await made.key(workspace)
        path = f"/v1/workspaces/{workspace}/keys/{other['id']}"
        answers = await asyncio.gather(
            *(
                attempt(made, history, path, figures.dice.choice(kinds), number, {})
                for number in range(AT_ONCE)
            )
        )
        free = Counter(answer.status_code for answer in answers)
        assert set(free) <= {200, 201, 409}, free
        assert (await made.ok("GET", path))["version"] == 1 + free[200] + free[201]
        log = await aftermath.hold(made, history)
    figures(
        at_once=AT_ONCE,
        with_if_match="/".join(f"{status}×{count}" for status, count in sorted(statuses.items())),
        without="/".join(f"{status}×{count}" for status, count in sorted(free.items())),
        events=len(log.events),
    )


async def test_two_migrators_at_once_do_the_work_once(database: str, folder: Path, figures: Figures) -> None:
    argv = [sys.executable, "-m", "services.cli", "migrate"]
    env = {"PATH": os.environ["PATH"], "KEYLEDGER_POSTGRES": database}
    admin = await asyncpg.connect(database, timeout=5)
    # as a first one that takes its time
    await admin.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    began = time.monotonic()
    migrators = [Process(argv, log=folder / f"{number}.log", env=env) for number in range(3)]

    async def all_wait() -> bool:
        return await admin.fetchval(WAITING) == len(migrators)

    await until(all_wait, within=60, describe="all of them wait for the first")
    assert await admin.fetchval("SELECT to_regclass('public.keyledger_migration')") is None
    await admin.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)

    async def done() -> bool:
        return all(each.returncode is not None for each in migrators)

    await until(done, within=60, describe="all migrators have ended")
    assert [each.returncode for each in migrators] == [0, 0, 0], [each.tail() for each in migrators]
    names = [row[0] for row in await admin.fetch("SELECT name FROM public.keyledger_migration")]
    await admin.close()
    assert len(names) == len(set(names)) > 2
    figures(migrators=3, files=len(names), seconds=time.monotonic() - began)


class Held:
    """An append in a transaction of its own, not committed yet."""

    def __init__(self, connection: asyncpg.Connection, transaction: Any, stream: str) -> None:
        self.connection = connection
        self.stream = stream
        self._transaction = transaction

    @classmethod
    async def begin(cls, dsn: str, workspace: str, stream: str, version: int, body: bytes) -> Held:
        connection = await asyncpg.connect(as_role(dsn), timeout=5)
        transaction = connection.transaction()
        await transaction.start()
        command = Command(
            command_id=UUID(int=uuid_utils.uuid7().int),
            stream_id=stream,
            kind="key",
            workspace_id=workspace,
            expected_version=version,
            now=SystemClock().now(),
            events=(NewEvent("key_revoked", 1, "system", "held", b"{}"),),
            body=body,
        )
        rows = [(1, event.type, 1, event.actor, event.request_id, event.data) for event in command.events]
        outcome = await connection.fetchrow(
            "SELECT * FROM ledger.append($1, $2)", [command_row(1, command)], rows
        )
        assert outcome is not None
        assert outcome["outcome"] == "done"
        return cls(connection, transaction, stream)

    async def end(self, *, commit: bool) -> None:
        await (self._transaction.commit() if commit else self._transaction.rollback())
        await self.connection.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("longest", "within"), [pytest.param(1.0, 5.0, id="short"), pytest.param(25.0, 30.0, id="long")]
)
async def test_a_transaction_that_is_left_open_is_alarmed_about(
    database: str, nats_url: str, folder: Path, figures: Figures, longest: float, within: float
) -> None:
    async with rig(database, nats_url, folder, longest_transaction=longest) as made:
        service = made.keys[0]

        async def says(status: str) -> bool:
            code, told = await made.readiness(service)
            return (code, told["status"]) == (200, status)

        assert await says("ready")
        forgotten = await asyncpg.connect(
            made.admin_dsn, timeout=5, server_settings={"application_name": "a forgotten shell"}
        )
        began = time.monotonic()
        await forgotten.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger.event")
        try:
            await until(lambda: says("degraded"), within=within, describe="the alarm is up")
            alarmed = time.monotonic() - began
            open_for = await made.metric(service, "keyledger_postgres_oldest_transaction_seconds")
            assert longest < open_for <= time.monotonic() - began
        finally:
            await forgotten.close()
        await until(lambda: says("ready"), within=5, describe="the alarm is over")
        (line,) = [each for each in service.log.read_text().splitlines() if "transaction_open" in each]
        assert json.loads(line)["name"] == "a forgotten shell"
        assert json.loads(line)["level"] == "warning"
    figures(longest_s=longest, alarmed_after_s=alarmed)


async def test_a_transaction_that_is_held_open_hides_no_event(
    database: str, nats_url: str, folder: Path, figures: Figures
) -> None:
    waits: list[float] = []
    async with rig(database, nats_url, folder) as made:
        workspace = await made.workspace()
        for commit in (True, False, True):
            key = await made.key(workspace)
            await accepted(made, key["key"])
            head = await made.head()
            connection = await asyncpg.connect(made.admin_dsn, timeout=5)
            body = await connection.fetchval("SELECT body FROM ledger.state WHERE stream_id = $1", key["id"])
            await connection.close()
            held = await Held.begin(made.admin_dsn, workspace, key["id"], 1, body.encode())
            began = time.monotonic()
            others = [asyncio.create_task(made.key(workspace)) for _ in range(8)]
            await asyncio.sleep(1)
            # who reads meanwhile sees neither the one nor those that wait behind it
            assert not any(each.done() for each in others)
            assert await made.head() == head
            assert (await made.readiness())[1]["position"] == head
            await held.end(commit=commit)
            positions = {(await each)["position"] for each in others}
            waits.append(time.monotonic() - began)
            first = head + 1 + commit
            assert positions == set(range(first, first + 8))
            await made.caught_up(first + 7)
            assert await made.code(key["key"]) == ("REVOKED" if commit else "VALID")
        log = await read_log(made.admin_dsn)
        checker.hold(checker.log_violations(log))
        await aftermath.hold_stream(made, nats_url)
    figures(held_s=1.0, others_waited_s=max(waits), events=len(log.events))
