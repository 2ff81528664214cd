"""When the load is over: read everything back, and hold it against the history and the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from keyledger.server import jetstream
from keyledger.server.log_stream import KEY_LOG
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import LIVE_SUBJECT, BusUnavailable, Message
from tests.faults import checker
from tests.faults.history import History, Log, read_log
from tests.faults.rig import Rig
from tests.support.waiting import until

BATCH = 200


async def hold(
    rig: Rig,
    history: History,
    *,
    slow: Sequence[checker.Interval] = (),
    seen_within: float = checker.SLOW_BOUND,
) -> Log:
    """Fail unless the log, every projection and the history agree; the log."""
    log = await read_log(rig.admin_dsn)
    await rig.caught_up(log.head_position)
    now = time.time_ns() // 1000
    keys = checker.fold(log)
    checker.hold(
        checker.log_violations(log),
        checker.command_violations(history, log),
        checker.late_acceptances(history, slow=slow),
        checker.false_refusals(history, within=seen_within),
        checker.verdict_violations(history, keys, await _verdicts(rig, history, log), now=now),
        checker.state_violations(keys, await _states(rig, log), now=now),
    )
    return log


async def hold_stream(rig: Rig, nats: str, *, within: float = 10.0) -> float:
    """Fail unless the stream ends with the log before `within` seconds are over; how long that took."""
    log = await read_log(rig.admin_dsn)
    name = f"{KEY_LOG.stream}_{log.lines[-1].line.hex()}"
    bus = await NatsBus.connect(nats, name="aftermath")
    began = time.monotonic()
    try:

        async def ends_with_the_log() -> bool:
            try:
                return (await jetstream.info(bus, name)).state.last_seq >= log.head_position
            except (BusUnavailable, jetstream.JetStreamError):
                return False

        await until(ends_with_the_log, within=within, describe="the stream has what the log has")
        took = time.monotonic() - began
        state = (await jetstream.info(bus, name)).state
        stored: dict[int, str] = {}
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await jetstream.message(bus, name, sequence)
            if message is not None:
                stored[sequence] = message.headers.get("Kl-Hash", "")
    finally:
        await bus.close()
    checker.hold(checker.stream_violations(log, stored, state.last_seq))
    return took


@asynccontextmanager
async def overheard(nats: str) -> AsyncGenerator[list[int]]:
    """The positions that are republished to subscribers meanwhile, in the order in which they arrive."""
    heard: list[int] = []

    async def note(message: Message) -> None:
        heard.append(int(message.headers["Kl-Position"]))

    bus = await NatsBus.connect(nats, name="overhears")
    try:
        await bus.subscribe(f"{LIVE_SUBJECT}.>", note)
        yield heard
    finally:
        await bus.close()


async def hold_uses(rig: Rig, history: History, workspace: str, *, lost: int = 0) -> int:
    """Fail unless every use that was answered (but for `lost`) is counted soon, and no other; how many.

    What the usage service counts must be what Postgres recorded, too.
    """
    wanted = sum(checker.uses_sent(history).values()) - lost

    async def counted() -> bool:
        uses = await uses_by_code(rig, workspace)
        return sum(count for code, count in uses.items() if code != "NOT_FOUND") >= wanted

    await until(counted, within=20, describe=f"{wanted} uses counted")

    async def settled() -> Mapping[str, int] | None:
        recorded = await recorded_uses(rig, workspace)
        return recorded if recorded == await uses_by_code(rig, workspace) else None

    uses = await until(settled, within=10, describe="what is counted is what was recorded")
    checker.hold(checker.usage_violations(history, uses, lost=lost))
    return sum(uses.values())


async def recorded_uses(rig: Rig, workspace: str) -> Mapping[str, int]:
    """The uses of this workspace in Postgres, by code: the truth that all counters are made of."""
    connection = await asyncpg.connect(rig.admin_dsn, timeout=5)
    try:
        rows = await connection.fetch(
            "SELECT outcome, sum(count)::bigint AS count FROM ledger.use_record "
            "WHERE workspace_id = $1 GROUP BY outcome",
            workspace,
        )
    finally:
        await connection.close()
    return Counter({row["outcome"]: row["count"] for row in rows})


async def uses_by_code(rig: Rig, workspace: str) -> Mapping[str, int]:
    """What the usage service counted in this workspace."""
    assert rig.usage is not None
    query = f"/v1/workspaces/{workspace}/usage?granularity=day&group_by=outcome"
    answer = await rig.http.get(f"{rig.usage.url}{query}", headers={"X-API-Key": rig.admin_key})
    assert answer.status_code == 200, answer.text
    counted = Counter[str]()
    for point in answer.json()["series"]:
        counted[point["outcome"]] += point["count"]
    return counted


async def _verdicts(rig: Rig, history: History, log: Log) -> dict[str, str]:
    """The verifier's code for every token ever made, at the head."""
    tokens = list(history.tokens())
    told: dict[str, str] = {}
    for at in range(0, len(tokens), BATCH):
        some = tokens[at : at + BATCH]
        requests = [{"key": token, "cost": 0} for token in some]
        requests[0]["min_position"] = log.head_position
        answer = await rig.http.post(f"{rig.verifier.url}/v1/verify/batch", json={"requests": requests})
        assert answer.status_code == 200, answer.text
        codes = [verdict["code"] for verdict in answer.json()["verdicts"]]
        told.update(zip(some, codes, strict=True))
    return told


async def _states(rig: Rig, log: Log) -> dict[str, Any]:
    """The key service's object of every key of every workspace, from its lists."""
    shown: dict[str, Any] = {}
    for workspace in sorted({event.workspace_id for event in log.events}):
        cursor = ""
        while cursor is not None:
            query = f"limit=200{cursor and f'&cursor={cursor}'}"
            page = await rig.ok("GET", f"/v1/workspaces/{workspace}/keys?{query}")
            shown |= {key["id"]: key for key in page["keys"]}
            cursor = page["next_cursor"]
    return shown
