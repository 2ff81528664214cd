"""What a stream with holes still tells of a restored log: a deletion outlives all else of its workspace."""

from __future__ import annotations

import msgspec
import pytest

from keyledger.events import (
    GENESIS,
    Epoch,
    KeyRevoked,
    LostDenial,
    WorkspaceChanged,
    WorkspaceDeleted,
)
from keyledger.server import jetstream
from keyledger.server.log_stream import KEY_LOG, LogStream, Outgoing, SourceHead, StreamLimits
from services.keys.adapters.lost_tail import LostTail, later_lines, read_lost_tail
from tests.support.followed_log import FollowedLog, key_created, key_id
from tests.support.followed_log import workspace_created as created
from tests.support.memory_jetstream import MemoryJetStream
from tests.support.restored_log import RestoredLog

GONE, STAYS = "ws_0000000000000000000009", "ws_0000000000000000000008"
FIRST, SECOND, OTHER = key_id(1), key_id(2), key_id(3)


class Told:
    """A log, and what the relay and the eraser left of it on the broker."""

    def __init__(self) -> None:
        self.bus = MemoryJetStream()
        self.log = FollowedLog()
        self.stream = self.line(self.log.epoch)

    def line(self, epoch: Epoch) -> LogStream:
        return LogStream(self.bus, KEY_LOG, epoch, StreamLimits())

    async def publish(self) -> None:
        assert await self.stream.create(SourceHead(self.log.epoch, 0, GENESIS))
        told = [
            Outgoing(
                event.position,
                event.hash,
                f"{event.workspace_id}.{event.stream_id}",
                msgspec.msgpack.encode(event),
            )
            for event in self.log.events
        ]
        await self.stream.append(told, after=0, timeout=1)

    async def purge(self, workspace_id: str, before: int | None = None) -> None:
        subject = KEY_LOG.subject_of_any_line(f"{workspace_id}.>")
        assert await jetstream.purge(self.bus, self.stream.name, subject, before=before)

    async def lost(self, position: int) -> LostTail:
        restored = RestoredLog(self.log.events, position)
        return await read_lost_tail(self.bus, self.stream.name, await self.stream.end(), restored, position)


@pytest.fixture
async def told() -> Told:
    """Restored to 6, everything is lost that the two workspaces were denied; to 2, one is all there is."""
    made = Told()
    log = made.log
    log.append(STAYS, created(), workspace=STAYS)
    log.append(OTHER, key_created(3), workspace=STAYS)
    log.append(GONE, created(), workspace=GONE)
    log.append(FIRST, key_created(1), workspace=GONE)
    log.append(SECOND, key_created(2), workspace=GONE)
    log.append(SECOND, KeyRevoked(), workspace=GONE)
    log.append(FIRST, KeyRevoked(), workspace=GONE)
    log.append(OTHER, KeyRevoked(), workspace=STAYS)
    log.append(GONE, WorkspaceDeleted(), workspace=GONE)
    await made.publish()
    return made


@pytest.mark.parametrize("position", [3, 4, 5, 6, 7])
async def test_a_deletion_is_found_when_nothing_else_of_its_workspace_is_left(
    told: Told, position: int
) -> None:
    await told.purge(GONE, before=9)
    lost = await told.lost(position)
    assert set(lost.denials) == {LostDenial(GONE, "deleted"), LostDenial(STAYS, "revoked", OTHER)}
    assert lost.end.position == 9
    # no further on than the log is, and no further back than the last event that both can show
    assert 2 <= lost.shared <= position


async def test_a_workspace_that_the_restored_log_never_knew_is_nobody_s_loss(told: Told) -> None:
    await told.purge(GONE, before=9)
    assert (await told.lost(2)).denials == (LostDenial(STAYS, "revoked", OTHER),)


async def test_a_deletion_that_both_have_is_not_lost(told: Told) -> None:
    told.log.append(STAYS, WorkspaceChanged(suspended=True), workspace=STAYS)
    await told.stream.append(
        [Outgoing(10, told.log.hash, f"{STAYS}.{STAYS}", msgspec.msgpack.encode(told.log.events[-1]))],
        after=9,
        timeout=1,
    )
    await told.purge(GONE, before=9)
    lost = await told.lost(9)
    assert (lost.denials, lost.shared) == ((LostDenial(STAYS, "suspended"),), 9)


async def test_before_the_purge_the_keys_own_denials_are_told_as_well(told: Told) -> None:
    assert set((await told.lost(6)).denials) == {
        LostDenial(GONE, "deleted"),
        LostDenial(GONE, "revoked", FIRST),
        LostDenial(STAYS, "revoked", OTHER),
    }


async def test_a_later_line_is_found_though_the_event_it_began_behind_is_purged(told: Told) -> None:
    base, parted = told.log.events[5], Epoch(2, b"\x02" * 8)
    head = SourceHead(parted, base.position, base.hash)
    assert await told.line(parted).create(head, previous=told.log.epoch.line)
    # by their hash alone, as a relay makes it anew, and somebody else's log
    again, foreign = Epoch(3, b"\x03" * 8), Epoch(4, b"\x04" * 8)
    assert await told.line(again).create(SourceHead(again, base.position, base.hash))
    assert await told.line(foreign).create(SourceHead(foreign, 6, b"\x05" * 32), previous=b"\x09" * 8)

    async def later(position: int, *known: bytes) -> list[Epoch]:
        restored = RestoredLog(told.log.events, position)
        return await later_lines(told.bus, told.log.epoch, known, restored)

    assert await later(3) == [parted, again]
    assert await later(3, parted.line) == [again]
    await told.purge(GONE, before=9)
    assert await later(3) == [parted]
    # from a line that went on from the lost one, too
    third = Epoch(3, b"\x06" * 8)
    assert await told.line(third).create(SourceHead(third, 5, b"\x07" * 32), previous=parted.line)
    assert await later(3) == [parted, third]
