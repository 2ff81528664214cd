"""H7: uses count once, though their recorder dies before it answers and all of it is sent again later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import pytest

from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import USE_LIVE_SUBJECT, USES_SUBJECT, Bus, Message
from keyledger.wire import UseBatch
from tests.faults import aftermath
from tests.faults.checker import SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.waiting import until

TIMES = 3
AT_ONCE = 16
NEXT_SEQ = "SELECT next_seq FROM ledger.use_source WHERE boot = $1"


@asynccontextmanager
async def overheard(bus: Bus) -> AsyncGenerator[tuple[list[Message], list[Message]]]:
    """The batches that verifiers send, and those that are republished as recorded."""
    sent: list[Message] = []
    recorded: list[Message] = []

    async def note_sent(message: Message) -> None:
        sent.append(message)

    async def note_recorded(message: Message) -> None:
        recorded.append(message)

    await bus.subscribe(USES_SUBJECT, note_sent)
    await bus.subscribe(f"{USE_LIVE_SUBJECT}.>", note_recorded)
    yield sent, recorded


async def fetchval(made: Rig, statement: str, *arguments: str) -> int:
    connection = await asyncpg.connect(made.admin_dsn, timeout=5)
    try:
        return await connection.fetchval(statement, *arguments) or 0
    finally:
        await connection.close()


async def batches_recorded(made: Rig) -> int:
    return await fetchval(made, "SELECT position FROM ledger.use_head")


async def killed_before_it_answers(made: Rig, sent: list[Message]) -> None:
    """All key services commit what they hear and cannot say so; then they are killed, and begin anew."""
    before = await batches_recorded(made)

    async def recording() -> bool:
        return await batches_recorded(made) > before

    # a verifier that was not answered before sends again after a pause, and a bus that is dumb is given up
    await until(recording, within=20, describe="batches are recorded again")
    gates = [gate for each in made.key_nats for gate in each]
    for gate in gates:
        gate.freeze(only_sent=True)
    so_far = len(sent)

    async def unheard() -> bool:
        """What is sent from now on is not answered; whether any of it is committed."""
        for message in sent[so_far:]:
            batch = msgspec.msgpack.decode(message.body, type=UseBatch)
            if batch.seq < await fetchval(made, NEXT_SEQ, batch.boot):
                return True
        return False

    await until(unheard, within=20, describe="a batch is committed that nobody hears of")
    for service in made.keys:
        service.kill()
    for gate in gates:
        await gate.cut()
        gate.thaw()
        await gate.open()
    for service in made.keys:
        await service.start()


async def sent_again(bus: Bus, batches: Sequence[Message]) -> None:
    """Each is acknowledged as what was recorded long ago."""
    places = asyncio.Semaphore(AT_ONCE)

    async def send(message: Message) -> None:
        batch = msgspec.msgpack.decode(message.body, type=UseBatch)
        async with places:
            answer = await bus.request(USES_SUBJECT, message.body, timeout=5)
        assert msgspec.msgpack.decode(answer.body, type=int) > batch.seq

    async with asyncio.TaskGroup() as tasks:
        for message in batches:
            tasks.create_task(send(message))


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, id="short"),
        pytest.param(3, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_uses_that_were_committed_and_not_answered_are_counted_once(
    database: str, nats_url: str, folder: Path, figures: Figures, rounds: int
) -> None:
    slow: list[Interval] = []
    bus = await NatsBus.connect(nats_url, name="overhears uses")
    try:
        async with (
            rig(database, nats_url, folder, key_services=2, usage=True) as made,
            overheard(bus) as (sent, recorded),
        ):
            loop = asyncio.get_running_loop()
            workspace = await made.workspace()
            load = Load(made, workspace, figures.dice, services=(0, 1))
            async with load.running(workers=3, checkers=4):
                for _ in range(rounds):
                    await asyncio.sleep(figures.dice.uniform(0.5, 1.5))
                    began = loop.time()
                    await killed_before_it_answers(made, sent)
                    back = loop.time()
                    slow.append(Interval(began - 1, back + SLOW_BOUND, back - began + SLOW_BOUND))
            seen = max(each.bound for each in slow)
            log = await aftermath.hold(made, load.history, slow=slow, seen_within=seen)
            counted = await aftermath.hold_uses(made, load.history, workspace)
            batches = await batches_recorded(made)
            unanswered = len(sent) - batches

            # long afterwards: by then no broker remembers anything, nor do the services
            for service in made.keys:
                service.kill()
                await service.start()
            again = TIMES * sent
            figures.dice.shuffle(again)
            await sent_again(bus, again)
            published = list(recorded)
            figures.dice.shuffle(published)
            for message in published:
                await bus.publish(message.subject, message.body, message.headers)
            assert await batches_recorded(made) == batches
            # one more use shows that all of it has been looked at
            key = await made.key(workspace)
            async with Load(made, workspace, figures.dice).running(workers=0, checkers=0) as last:
                await made.caught_up(key["position"])
                await last.check(key["key"])
            load.history.operations += last.history.operations
            assert await aftermath.hold_uses(made, load.history, workspace) == counted + 1
    finally:
        await bus.close()
    figures(
        kills=2 * rounds,
        events=len(log.events),
        uses_counted=counted,
        batches=batches,
        sent_in_vain=unanswered,
        sent_again=len(again),
        published_again=len(published),
    )
    assert unanswered >= rounds
