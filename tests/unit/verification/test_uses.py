"""Uses: summed, spooled, sent under one identity until they are committed, and never lost unseen."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from keyledger.verification.ports import USES_SUBJECT, Message
from keyledger.verification.projection import KeyRecord
from keyledger.verification.spool import Batch, Spool
from keyledger.verification.uses import FIRST_AGAIN, MINUTE, Uses
from keyledger.wire import Use, UseBatch
from tests.support.followed_log import START, WORKSPACE, key_id
from tests.support.memory_bus import MemoryBus
from tests.support.waiting import until

BOOT = "b" * 32
KEY = KeyRecord(key_id(1), WORKSPACE, "live", "web", (), ())
FIRST_MINUTE = START - START % MINUTE


class Recorder:
    """What the key service does with batches: each once, then the answer."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.next: dict[str, int] = {}
        self.uses: list[Use] = []
        self.first_uses: list[tuple[str, int]] = []
        self.order: list[tuple[str, int]] = []
        self.deaf = False
        self.lose_answers = 0

    async def listen(self) -> None:
        await self.bus.subscribe(USES_SUBJECT, self.record, queue="keys")

    async def record(self, message: Message) -> None:
        if self.deaf:
            return
        batch = msgspec.msgpack.decode(message.body, type=UseBatch)
        self.order.append((batch.boot, batch.seq))
        if batch.seq >= self.next.get(batch.boot, 0):
            self.next[batch.boot] = batch.seq + 1
            self.uses += batch.uses
            self.first_uses += batch.first_uses
        if self.lose_answers:
            self.lose_answers -= 1
            return
        await self.bus.publish(message.reply, msgspec.msgpack.encode(self.next[batch.boot]))


async def recorded(bus: MemoryBus) -> Recorder:
    recorder = Recorder(bus)
    await recorder.listen()
    return recorder


async def test_uses_are_summed_by_key_minute_and_outcome(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    uses.count(KEY, "VALID", cost=1, now=START)
    uses.count(KEY, "VALID", cost=3, now=START + 5)
    uses.count(KEY, "RATE_LIMITED", cost=0, now=START)
    uses.count(KEY, "VALID", cost=1, now=START + MINUTE)
    await uses.flush()
    assert await uses.send()
    assert recorder.uses == [
        Use(WORKSPACE, KEY.key_id, "live", FIRST_MINUTE, "VALID", 2, 4, START + 5),
        Use(WORKSPACE, KEY.key_id, "live", FIRST_MINUTE, "RATE_LIMITED", 1, 0, START),
        Use(WORKSPACE, KEY.key_id, "live", FIRST_MINUTE + MINUTE, "VALID", 1, 1, START + MINUTE),
    ]
    assert not list(tmp_path.iterdir())


async def test_uses_stay_with_the_external_id_of_their_time(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    for owner in ("u1", "u2", None, "u1"):
        uses.count(msgspec.structs.replace(KEY, external_id=owner), "VALID", cost=1, now=START)
    await uses.flush()
    assert await uses.send()
    assert {(use.external_id, use.count) for use in recorder.uses} == {("u1", 2), ("u2", 1), ("", 1)}
    assert "u1" not in repr(recorder.uses)


async def test_nothing_is_forgotten_before_it_is_acknowledged(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    recorder.deaf = True
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    for at in range(3):
        uses.count(KEY, "VALID", cost=1, now=START + at)
        await uses.flush()
    assert not await uses.send()
    assert len(list(tmp_path.iterdir())) == 3
    recorder.deaf = False
    assert await uses.send()
    assert sum(use.count for use in recorder.uses) == 3
    assert recorder.order == [(BOOT, 0), (BOOT, 1), (BOOT, 2)]


async def test_a_lost_answer_counts_nothing_twice(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    recorder.lose_answers = 1
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.flush()
    assert not await uses.send()
    assert await uses.send()
    assert recorder.order == [(BOOT, 0), (BOOT, 0)]
    assert sum(use.count for use in recorder.uses) == 1


async def test_a_dead_boots_batches_are_sent_first_and_under_their_own_name(tmp_path: Path) -> None:
    bus = MemoryBus()
    dead = Uses(Spool(tmp_path), bus, boot="d" * 32)
    for at in range(12):
        dead.count(KEY, "VALID", cost=1, now=START + at)
        await dead.flush()
    (tmp_path / f"{'d' * 32}-000000000012.uses.part").write_bytes(b"half a batch")
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.flush()
    assert await uses.send()
    assert recorder.order == [*(("d" * 32, seq) for seq in range(12)), (BOOT, 0)]
    assert not list(tmp_path.iterdir())


async def test_a_broken_file_holds_up_nobody(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    (tmp_path / Batch("d" * 32, 0).file).write_bytes(b"\xc1 broken")
    renamed = msgspec.msgpack.encode(UseBatch("d" * 32, 7, ()))
    (tmp_path / Batch("d" * 32, 9).file).write_bytes(renamed)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.flush()
    assert await uses.send()
    assert recorder.order == [(BOOT, 0)]
    assert uses.dropped == 2, "nobody knows how many they held"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["cut", "gone"])
async def test_the_uses_of_an_own_file_that_cannot_be_read_are_counted_as_dropped(
    tmp_path: Path, harm: str
) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    told: list[int] = []
    uses.when_dropped = told.append
    for outcome in ("VALID", "VALID", "REVOKED"):
        uses.count(KEY, outcome, cost=1, now=START)
    await uses.flush()
    (file,) = tmp_path.iterdir()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.flush()
    assert await uses.send()
    assert recorder.order == [(BOOT, 1)]
    assert (uses.dropped, told) == (3, [3])


async def test_what_no_bound_has_room_for_is_counted(tmp_path: Path) -> None:
    uses = Uses(Spool(tmp_path, max_files=1), MemoryBus(), boot=BOOT, max_sums=1)
    uses.count(KEY, "VALID", cost=1, now=START)
    uses.count(KEY, "REVOKED", cost=1, now=START)
    assert uses.dropped == 1
    await uses.flush()
    uses.count(KEY, "VALID", cost=1, now=START)
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.flush()
    assert uses.dropped == 3


async def test_a_number_is_not_spent_on_what_was_dropped(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path, max_files=1), bus, boot=BOOT)
    for _ in range(3):
        uses.count(KEY, "VALID", cost=1, now=START)
        await uses.flush()
    assert await uses.send()
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.flush()
    assert await uses.send()
    assert recorder.order == [(BOOT, 0), (BOOT, 1)]


async def test_stopping_gets_the_last_uses_out(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    await uses.start()
    uses.count(KEY, "VALID", cost=1, now=START)
    await uses.stop()
    assert sum(use.count for use in recorder.uses) == 1


async def test_running_sends_by_itself(tmp_path: Path) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    await uses.start()
    uses.count(KEY, "VALID", cost=1, now=START)

    async def arrived() -> bool:
        return bool(recorder.uses)

    await until(arrived)
    await uses.stop()


def test_spooled_files_are_for_the_owner_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write(Batch(BOOT, 0), b"x")
    (file,) = (tmp_path / "spool").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert not spool.room(64 * 1024 * 1024)


async def test_a_first_use_is_told_at_once_with_the_batch_and_again_only_if_it_is_not_heeded(
    tmp_path: Path,
) -> None:
    bus = MemoryBus()
    recorder = await recorded(bus)
    uses = Uses(Spool(tmp_path), bus, boot=BOOT)
    await uses.start()
    try:
        for _ in range(3):
            uses.first_use(KEY.key_id, 2, now=START)

        async def told() -> bool:
            return recorder.first_uses == [(KEY.key_id, 2)]

        # well before the next batch would be due
        await until(told, within=0.8, describe="the first use")
        uses.first_use(KEY.key_id, 2, now=START + FIRST_AGAIN - 1)
        await uses.flush()
        await uses.send()
        assert recorder.first_uses == [(KEY.key_id, 2)]
        uses.first_use(KEY.key_id, 2, now=START + FIRST_AGAIN)
        await uses.flush()
        await uses.send()
        assert recorder.first_uses == [(KEY.key_id, 2)] * 2
    finally:
        await uses.stop()
