"""F17: what nobody can read or count, recorded or published: it costs itself alone, all others go on."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
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
from keyledger.verification.use_rule import MINUTE
from keyledger.wire import Use, UseBatch
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.uses import PostgresUseLog
from services.keys.ports import Command, NewEvent
from services.usage.adapters import deriving
from tests.faults import aftermath, checker
from tests.faults.checker import BOUND
from tests.faults.conftest import Figures
from tests.faults.history import read_log
from tests.faults.lag import accepted, revocation_lag
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.keys import as_role
from tests.support.waiting import until

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


def poisoned(use: Use) -> tuple[Use, ...]:
    """The use as no verifier would tell it."""
    change = msgspec.structs.replace
    return change(use, count=2**62), change(use, count=-5), change(use, cost=2**62), change(use, minute=2**62)


async def test_uses_that_cannot_be_counted_cost_themselves_and_no_other(
    database: str, nats_url: str, folder: Path, figures: Figures
) -> None:
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace, other = await made.workspace(), await made.workspace()
        load = Load(made, workspace, figures.dice)
        await accepted(made, (await made.key(workspace))["key"])
        key = (await made.key(other))["id"]
        now = time.time_ns() // 1000
        minute = now // MINUTE * MINUTE
        sound = Use(other, key, "live", minute, "VALID", 1, 1, minute + 1)
        boot = f"{figures.dice.getrandbits(128):032x}"
        bus = await NatsBus.connect(nats_url, name="poison")
        pool = await open_pool(as_role(made.admin_dsn), name="poison", most=1)
        assert made.usage is not None
        try:
            async with load.running(workers=1, checkers=1):
                # sent: the recorder keeps what is sound, and the sender goes on
                for seq in range(4):
                    uses = (sound, poisoned(sound)[seq], sound)
                    body = msgspec.msgpack.encode(UseBatch(boot, seq, uses))
                    for _ in range(2):
                        answer = await bus.request(USES_SUBJECT, body, timeout=5)
                        assert msgspec.msgpack.decode(answer.body) == seq + 1
                # recorded, as by one who knew no rule: the fold passes it over
                for seq, bad in enumerate(poisoned(sound)):
                    batch = UseBatch(f"{boot[:-1]}z", seq, (sound, bad))
                    await PostgresUseLog(pool).record(batch, now=now)
                began = time.monotonic()

                async def passed_over() -> bool:
                    return (await made.readiness(made.usage))[1].get("parked") == len(poisoned(sound))

                await until(passed_over, within=20, describe="the poison passed over")
                took = time.monotonic() - began
        finally:
            await bus.close()
            await close_pool(pool)
        await aftermath.hold(made, load.history)
        uses = await aftermath.hold_uses(made, load.history, workspace)
        assert await aftermath.uses_by_code(made, other) == {"VALID": 8}
        status, said = await made.readiness(made.usage)
        assert (status, said["status"]) == (200, "degraded")
        assert await made.metric(made.usage, "keyledger_usage_parked_batches") == 4
        for field, count in {"count": 4, "cost": 2, "minute": 2}.items():
            name = f'keyledger_uses_refused_total{{field="{field}"}}'
            assert await made.metric(made.keys[0], name) == count
        assert made.usage.log.read_text().count("batch_parked") == 4
        async with deriving.reading(made.admin_dsn) as connection:
            for each, left_out in ((workspace, 0), (other, 7)):
                day = 86_400_000_000
                found = await deriving.derive(connection, each, minute // day * day - day, minute + 2 * day)
                assert (found.first, found.last_uses.differing, found.parked) == (None, 0, left_out)
        # one who begins anew knows it, and goes on
        made.usage.kill()
        await made.usage.start()
        assert (await made.readiness(made.usage))[1]["parked"] == 4
    figures(uses_counted=uses, parked=4, passed_over_seconds=round(took, 2))
