"""F17: events that nobody can read, recorded or published: their key fails closed, all others go on."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import asyncpg
import uuid_utils

from keyledger.server.postgres import close_pool, open_pool
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import (
    APPLIED_SUBJECT,
    HEAD_SUBJECT,
    LIVE_SUBJECT,
    TICK_SUBJECT,
    USE_LIVE_SUBJECT,
    USES_SUBJECT,
)
from services.keys.adapters.log import PostgresLog
from services.keys.ports import Command, NewEvent
from tests.faults import aftermath, checker
from tests.faults.checker import BOUND
from tests.faults.conftest import Figures
from tests.faults.history import read_log
from tests.faults.lag import accepted, revocation_lag
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.keys import as_role

GARBAGE = (b"", b"\xc1", b"{", b"\x93\x01", b"\xff" * 100, b"\x9a" + b"\xc0" * 10)
SEALED_BY_NOBODY = b64encode(bytes(60))
POISON: Mapping[str, tuple[str, int, bytes]] = {
    "an unknown type": ("key_of_tomorrow", 1, b"{}"),
    "a version of the future": ("key_changed", 99, b'{"enabled":true}'),
    "no JSON": ("key_changed", 1, b"{"),
    "no text": ("key_changed", 1, b"\xff\xfe"),
    "no object": ("key_changed", 1, b"[1]"),
    "nested for ever": ("key_changed", 1, b"[" * 20_000),
    "another shape": ("key_changed", 1, b'{"scopes":7}'),
    "no sealed text": ("key_changed", 1, b'{"private":7}'),
    "text that was sealed by nobody": ("key_changed", 1, b'{"private":"' + SEALED_BY_NOBODY + b'"}'),
}


async def recorded(made: Rig, workspace: str, key_id: str, poison: tuple[str, int, bytes]) -> int:
    """Put the event into the log behind the key's last one; its position."""
    connection = await asyncpg.connect(made.admin_dsn, timeout=5)
    row = await connection.fetchrow("SELECT version, body FROM ledger.state WHERE stream_id = $1", key_id)
    await connection.close()
    assert row is not None
    tag, version, data = poison
    pool = await open_pool(as_role(made.admin_dsn), name="poison", most=1)
    try:
        async with PostgresLog(pool) as log:
            command = Command(
                command_id=UUID(int=uuid_utils.uuid7().int),
                stream_id=key_id,
                kind="key",
                workspace_id=workspace,
                expected_version=row["version"],
                now=time.time_ns() // 1000,
                events=(NewEvent(tag, version, "system", "poison", data),),
                body=json.dumps(json.loads(row["body"]) | {"version": row["version"] + 1}).encode(),
            )
            return (await log.append(command)).position
    finally:
        await close_pool(pool)


async def test_an_event_that_nobody_can_read_costs_its_key_and_no_other(
    database: str, nats_url: str, folder: Path, figures: Figures
) -> None:
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace = await made.workspace()
        load = Load(made, workspace, figures.dice)
        sound = await made.key(workspace)
        poisoned = {words: await made.key(workspace) for words in POISON}
        for key in (sound, *poisoned.values()):
            await accepted(made, key["key"])
        lags: list[float] = []
        async with load.running(workers=1, checkers=1):
            for words, key in poisoned.items():
                position = await recorded(made, workspace, key["id"], POISON[words])
                await made.caught_up(position)
                assert (words, await made.code(key["key"])) == (words, "NOT_FOUND")
                assert await made.code(sound["key"]) == "VALID"
                lags.append(await revocation_lag(made, workspace))
        await aftermath.hold_stream(made, nats_url)
        assert await made.metric(made.verifier, "keyledger_unreadable_events_total") == len(POISON)

        log = await aftermath.hold(made, load.history)
        uses = await aftermath.hold_uses(made, load.history, workspace)

        # one who begins from nothing comes to the same
        made.verifier.kill()
        await made.verifier.start()
        told = {words: await made.code(key["key"]) for words, key in poisoned.items()}
        assert told == dict.fromkeys(POISON, "NOT_FOUND")
        assert await made.code(sound["key"]) == "VALID"
        await shown_and_ended(made, workspace, [key["id"] for key in poisoned.values()])
        checker.hold(checker.log_violations(await read_log(made.admin_dsn)))
    figures(poisons=len(POISON), events=len(log.events), lag_max_ms=1000 * max(lags), uses_counted=uses)
    assert max(lags) <= BOUND


async def shown_and_ended(made: Rig, workspace: str, keys: list[str]) -> None:
    """The key service shows such keys and their history, and can revoke them."""
    path = f"/v1/workspaces/{workspace}"
    listed = await made.ok("GET", f"{path}/keys?limit=200")
    assert {key["id"] for key in listed["keys"]} >= set(keys)
    assert len((await made.ok("GET", f"{path}/events?limit=200"))["events"]) > len(keys)
    head = await made.head()
    for key in keys:
        assert (await made.ok("GET", f"{path}/keys/{key}"))["id"] == key
        assert (await made.ok("GET", f"{path}/keys/{key}?as_of={head}"))["id"] == key
        assert [
            event["version"] for event in (await made.ok("GET", f"{path}/keys/{key}/events"))["events"]
        ] == [
            1,
            2,
        ]
        assert (await made.revoke(workspace, key))["status"] == "revoked"


async def test_garbage_on_the_bus_changes_nothing(
    database: str, nats_url: str, folder: Path, figures: Figures
) -> None:
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace = await made.workspace()
        load = Load(made, workspace, figures.dice)
        sound = await made.key(workspace)
        await accepted(made, sound["key"])
        line = (await read_log(made.admin_dsn)).lines[-1].line.hex()
        bus = await NatsBus.connect(nats_url, name="garbage")
        lags: list[float] = []
        subjects = (
            f"{LIVE_SUBJECT}.{line}.{workspace}.key",
            f"{LIVE_SUBJECT}.0000000000000000.{workspace}.key",
            f"{LIVE_SUBJECT}.x",
            f"{USE_LIVE_SUBJECT}.{line}",
            TICK_SUBJECT,
            HEAD_SUBJECT,
            APPLIED_SUBJECT,
            USES_SUBJECT,
        )
        try:
            async with load.running(workers=1, checkers=1):
                for body in GARBAGE:
                    for subject in subjects:
                        await bus.publish(subject, body)
                    assert await made.code(sound["key"]) == "VALID"
                    lags.append(await revocation_lag(made, workspace))
        finally:
            await bus.close()
        assert (await made.readiness())[1]["status"] == "ready"
        assert await made.metric(made.verifier, "keyledger_rebuilds_total") == 0
        log = await aftermath.hold(made, load.history)
        uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        messages=len(subjects) * len(GARBAGE),
        events=len(log.events),
        lag_max_ms=1000 * max(lags),
        uses_counted=uses,
    )
    assert max(lags) <= BOUND
