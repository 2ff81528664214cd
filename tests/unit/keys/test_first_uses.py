"""A first use that a verifier tells: heeded once the batch is recorded, and told again while it cannot be."""

from collections.abc import Sequence

import msgspec
import pytest

from keyledger.errors import unavailable
from keyledger.server.seal import Sealer
from keyledger.verification.ports import USES_SUBJECT, BusUnavailable
from keyledger.wire import UseBatch
from services.keys.consumer import Consumer
from services.keys.domain.key import Key, decide, evolve
from services.keys.domain.workspace import CreateWorkspace
from services.keys.handlers.first_uses import FirstUses
from services.keys.handlers.keys import Asked
from services.keys.handlers.receipts import Receipts
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Plan, Writer
from services.keys.ports import Follower
from tests.support.followed_log import HandClock
from tests.support.memory_bus import MemoryBus
from tests.support.memory_keys import MemoryKeys
from tests.unit.keys.examples import KEY, OPERATOR, create, rotate

BATCH = UseBatch("b" * 32, 0, (), ((KEY, 2), ("key_" + "6" * 22, 2)))


class Nobody:
    """`Followers` without any."""

    async def all(self) -> Sequence[Follower]:
        return []

    async def note(self, heard: Sequence[Follower], *, now: int) -> None:
        del heard, now

    async def forget(self, name: str) -> None:
        del name


async def rotated(memory: MemoryKeys, clock: HandClock) -> Writer:
    """A key that was rotated and waits for the first use of its new secret."""
    writer = Writer(memory, memory, Sealer(b"s" * 32), clock)
    asked = Asked(OPERATOR, "", "r")
    made = await Workspaces(writer).create(asked, CreateWorkspace(OPERATOR, "Acme"))
    commands = (create(by=OPERATOR), rotate(by=OPERATOR, overlap_seconds=3600, retire="on_first_use"))
    for command in commands:
        plan = Plan(
            KEY, "key", made.state.id, "key_x", "r", Key,
            lambda key, now, command=command: decide(command, key, now=now), evolve,
        )  # fmt: skip
        await writer.run(plan)
    return writer


async def good(memory: MemoryKeys, now: int) -> list[bool]:
    """Which of the key's secrets may be presented now."""
    stored, _ = await memory.get(KEY)
    assert stored is not None
    return [secret.valid(now) for secret in msgspec.json.decode(stored.body, type=Key).secrets]


async def test_a_first_use_ends_the_secret_before_and_only_then_is_the_batch_acknowledged() -> None:
    memory, clock, bus = MemoryKeys(), HandClock(), MemoryBus()
    uses = FirstUses(memory, await rotated(memory, clock))
    away = True

    async def used(key_id: str, secret: int) -> None:
        if away:
            raise unavailable("unavailable", "The database does not answer just now.")
        await uses.used(key_id, secret)

    receipts = Receipts(clock, Nobody())
    await Consumer(bus, memory, memory, receipts, clock, first_use=used).start()
    body = msgspec.msgpack.encode(BATCH)
    with pytest.raises(BusUnavailable):
        await bus.request(USES_SUBJECT, body, timeout=1)
    assert await good(memory, clock.now()) == [True, True]
    away = False
    clock.advance(1)
    for _ in range(2):
        answer = await bus.request(USES_SUBJECT, body, timeout=1)
        assert msgspec.msgpack.decode(answer.body) == 1
    assert await good(memory, clock.now()) == [False, True]
    assert [event.type for event in memory.log[2:]] == ["key_rotated", "secret_retired"]
    assert memory.log[-1].actor == KEY
    assert memory.batches == [BATCH], "recorded once, a key that is not there holds nothing up"


async def test_a_use_that_ends_nothing_is_no_reason_to_write() -> None:
    memory, clock = MemoryKeys(), HandClock()
    uses = FirstUses(memory, await rotated(memory, clock))
    head = len(memory.log)
    await uses.used(KEY, 1)
    clock.advance(3601)
    await uses.used(KEY, 2)
    assert len(memory.log) == head
