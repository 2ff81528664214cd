"""Postgres or NATS away: refused at once and honestly, and well again without anyone's help."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyledger.server import jetstream
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import HEAD_SUBJECT, USES_SUBJECT, BusUnavailable
from keyledger.wire import Head, HeadQuestion, Use, UseBatch
from tests.support import servers_fresh as fresh
from tests.support.broker import Broker
from tests.support.gate import Gate
from tests.support.keys import Home, House, Keys, as_role, migrated, refused, running
from tests.support.waiting import until

BODY = {"name": "k", "environment": "live"}
AT_MOST = 3.0
"""Seconds in which a caller is told that Postgres is away."""


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    with Broker(tmp_path_factory.mktemp("nats")) as broker:
        await broker.start()
        yield broker


@pytest.fixture(scope="module")
async def gate(postgres_server: str) -> AsyncIterator[Gate]:
    async with Gate(postgres_server) as gate:
        yield gate


@pytest.fixture(scope="module")
async def here(
    postgres_server: str, broker: Broker, gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A service that reaches its Postgres through the gate, on a broker of its own."""
    async with fresh.database(postgres_server) as admin_dsn:
        home = Home.new(Path(tmp_path_factory.mktemp("home")))
        await home.bootstrap(await migrated(admin_dsn))
        through = as_role(admin_dsn, port=gate.port)
        async with running(home, admin_dsn, through, broker.url) as found:
            yield found


@pytest.fixture
async def keys(here: House) -> Keys:
    return Keys(await here.workspace())


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect(broker.url, name="test", inbox_prefix="_INBOX_test")
    yield bus
    await bus.close()


async def ask_head(bus: NatsBus) -> Head | None:
    try:
        question = msgspec.msgpack.encode(HeadQuestion("n", ""))
        return msgspec.msgpack.decode((await bus.request(HEAD_SUBJECT, question, timeout=1)).body, type=Head)
    except BusUnavailable:
        return None


async def within(seconds: float, coroutine: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await coroutine


async def well_again(here: House, keys: Keys) -> None:
    async def writes() -> bool:
        return (await here.admin("POST", keys.all, BODY)).status_code == 201

    async def ready() -> bool:
        return (await here.nobody("GET", "/readyz")).json()["status"] == "ready"

    await until(writes, within=10)
    await until(ready, within=10)


@pytest.mark.parametrize("how", ["cut", "frozen"])
async def test_without_postgres_callers_are_told_at_once_and_the_head_is_held(
    here: House, keys: Keys, gate: Gate, bus: NatsBus, how: str
) -> None:
    made = await here.admin.ok("POST", keys.all, BODY)
    known = await ask_head(bus)
    assert known is not None
    assert (known.position, known.writable) == (made["position"], True)
    # so that the pool holds idle connections, which hang without being known to
    await asyncio.gather(*(here.admin.ok("GET", keys.all) for _ in range(20)))
    if how == "cut":
        await gate.cut()
    else:
        gate.freeze()
    try:
        calls = [
            ("POST", keys.all, BODY),
            ("PATCH", keys.one(made["id"]), {"name": "n"}),
            ("GET", keys.all, None),
            ("POST", keys.one(made["id"], "revoke"), {}),
            ("GET", "/v1/feed", None),
            ("POST", "/v1/workspaces", {"name": "w"}),
        ]
        answers = await asyncio.gather(*(within(AT_MOST, here.admin(*call)) for call in calls))
        for answer in answers:
            refused(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        held = await ask_head(bus)
        assert held is not None, "a verifier that asks must learn that nothing can be written"
        assert (held.position, held.hash, held.writable) == (known.position, known.hash, False)
        assert held.epoch_line == known.epoch_line
        ready = await within(AT_MOST, here.nobody("GET", "/readyz"))
        assert (ready.status_code, ready.json()) == (503, {"status": "postgres is away"})
        assert (await here.nobody("GET", "/healthz")).status_code == 200
        with pytest.raises(BusUnavailable):
            batch = UseBatch(f"boot-{how}", 0, (Use("ws_1", "key_1", "live", 0, "VALID", 1, 1, 0),))
            await bus.request(USES_SUBJECT, msgspec.msgpack.encode(batch), timeout=0.5)
    finally:
        if how == "cut":
            await gate.open()
        else:
            gate.thaw()
    await well_again(here, keys)

    async def writable() -> bool:
        # the question that hung holds up the others until its own time is over
        head = await ask_head(bus)
        return head is not None and head.writable

    await until(writable, within=10)
    positions = [event["position"] for event in (await here.admin.ok("GET", keys.events))["events"]]
    assert positions == sorted(set(positions))


async def test_a_connection_that_breaks_between_requests_is_not_noticed(
    here: House, keys: Keys, gate: Gate
) -> None:
    await gate.cut()
    await gate.open()
    answers = await asyncio.gather(*(here.admin("POST", keys.all, BODY) for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {201, 503}
    await well_again(here, keys)


async def test_an_answer_lost_at_commit_is_looked_up_and_never_doubled(
    here: House, keys: Keys, gate: Gate
) -> None:
    async def created() -> int:
        return (await here.admin("POST", keys.all, BODY)).status_code

    statuses: list[int] = []
    for _ in range(5):
        creating = [asyncio.create_task(created()) for _ in range(10)]
        await asyncio.wait(creating, return_when=asyncio.FIRST_COMPLETED)
        await gate.cut()
        await gate.open()
        statuses += await asyncio.gather(*creating)
    assert set(statuses) <= {201, 503}
    await well_again(here, keys)
    listed = (await here.admin.ok("GET", f"{keys.all}?limit=200"))["keys"]
    # what was answered was recorded, once; what was not may have been
    assert statuses.count(201) + 1 <= len(listed) <= len(statuses) + 1
    events = (await here.admin.ok("GET", f"{keys.events}?limit=200"))["events"]
    assert [event["type"] for event in events].count("key_created") == len(listed)


async def test_without_nats_commands_still_work_and_are_published_later(
    here: House, keys: Keys, broker: Broker, bus: NatsBus
) -> None:
    broker.kill()

    async def degraded() -> bool:
        ready = await here.nobody("GET", "/readyz")
        return (ready.status_code, ready.json()["status"]) == (200, "degraded")

    await until(degraded)
    made = await within(AT_MOST, here.admin.ok("POST", keys.all, BODY))
    await within(AT_MOST, here.admin.ok("POST", keys.one(made["id"], "revoke"), {"wait": 0.1}))
    await broker.start()
    await well_again(here, keys)
    line = (await here.admin.ok("GET", "/v1/head"))["epoch"]["line"]

    async def published() -> bool:
        try:
            return await jetstream.message(bus, f"KEYS_{line}", made["position"] + 1) is not None
        except (BusUnavailable, jetstream.JetStreamError):
            return False

    await until(published, within=10)
