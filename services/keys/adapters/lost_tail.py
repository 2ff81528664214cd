"""What a stream still holds of a telling that Postgres has lost: where they part, and what is denied there.

Read before anything is locked, for it may be long; whoever acts on it looks at the stream's end once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from keyledger.events import Epoch, LostDenial
from keyledger.server import jetstream
from keyledger.server.jetstream import StoredMessage
from keyledger.server.log_stream import KEY_LOG, StreamEnd
from keyledger.verification.ports import Bus
from keyledger.wire import Followed
from services.keys.domain.tellings import Tellings

AT_ONCE = 50
"""Messages asked for at the same time."""
_log = structlog.get_logger("keyledger.epochs")


class LogNow(Protocol):
    """The restored log."""

    async def hash_at(self, position: int) -> bytes | None:
        """The hash of the event at this position."""
        ...

    async def of_streams(self, stream_ids: Sequence[str], *, after: int, upto: int) -> list[Followed]:
        """The events of these streams at the positions after `after` up to `upto`, in order."""
        ...


class LostTail(Struct, frozen=True):
    """`shared` is the last position that both tellings have, `end` where the stream ended when read."""

    shared: int
    end: StreamEnd
    denials: tuple[LostDenial, ...]


async def read_lost_tail(bus: Bus, stream: str, end: StreamEnd, log: LogNow, head_position: int) -> LostTail:
    """Read what lies behind the parting. Raises what the bus, the stream and the log raise."""
    held_from = (await jetstream.info(bus, stream)).state.first_seq
    shared = await _shared(bus, stream, range(held_from, end.position + 1), log, head_position)
    if held_from > shared + 1:
        _log.error("lost_events_unknown", stream=stream, after=shared, before=held_from)
    tellings = Tellings()
    known: set[str] = set()
    unreadable = 0
    for first in range(max(shared + 1, held_from), end.position + 1, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, end.position + 1))
        messages = await asyncio.gather(*(jetstream.message(bus, stream, number) for number in numbers))
        events = [followed(message) for message in messages if message is not None]
        unreadable += events.count(None)
        lost = [event for event in events if event is not None]
        new = {event.stream_id for event in lost} - known
        known |= new
        tellings.shared(await log.of_streams(sorted(new), after=0, upto=shared))
        for event in lost:
            tellings.lost(event)
    for at in range(0, len(known), 1000):
        some = sorted(known)[at : at + 1000]
        tellings.own(await log.of_streams(some, after=shared, upto=head_position))
    if unreadable:
        _log.error("lost_events_unreadable", stream=stream, count=unreadable)
    return LostTail(shared, end, tuple(tellings.denials()))


async def later_lines(bus: Bus, old: Epoch, known: Collection[bytes], log: LogNow) -> list[Epoch]:
    """Tellings that came after `old` and that a log restored to before them does not know any more.

    Other logs may be on the same broker: a telling of this one names the line it went on from, or begins
    where this one, or a lost one, was.
    """
    found = [old]
    streams = {
        name: await jetstream.info(bus, name) for name in await jetstream.names(bus, f"{KEY_LOG.stream}_")
    }
    lines = [(_epoch(info.metadata), info.metadata) for info in streams.values()]
    for epoch, metadata in sorted(
        ((epoch, metadata) for epoch, metadata in lines if epoch is not None), key=lambda line: line[0].number
    ):
        if epoch.number <= old.number or epoch.line in known:
            continue
        # where it began may be a hole by now, so its own word comes first
        named = metadata.get("previous_line") in [line.line.hex() for line in found]
        if named or await _begins_in(bus, metadata, found, log):
            found.append(epoch)
    return found[1:]


async def _begins_in(bus: Bus, metadata: Mapping[str, str], lines: Iterable[Epoch], log: LogNow) -> bool:
    """Whether the log, or the stream of one of these lines, has the hash that a stream begins behind."""
    base = int(metadata.get("base_position", "0"))
    if not base:
        return False
    hashes = [(await log.hash_at(base) or b"").hex()]
    for line in lines:
        message = await jetstream.message(bus, KEY_LOG.stream_of(line), base)
        hashes.append(message.headers.get("Kl-Hash", "") if message is not None else "")
    return metadata.get("base_hash") in hashes


def _epoch(metadata: Mapping[str, str]) -> Epoch | None:
    try:
        return Epoch(int(metadata["epoch_number"]), bytes.fromhex(metadata["epoch_line"]))
    except (KeyError, ValueError):
        return None


async def _shared(bus: Bus, stream: str, held: range, log: LogNow, head_position: int) -> int:
    """The last position at which stream and log agree: they agree before it, and nowhere after."""
    low, high = held.start - 1, min(head_position, held.stop - 1)
    while low < high:
        half = (low + high + 1) // 2
        # an erased workspace leaves holes: the next message tells as much
        message = await jetstream.message_from(bus, stream, half)
        if message is None or message.sequence > high:
            high = half - 1
        elif message.headers.get("Kl-Hash", "") == (await log.hash_at(message.sequence) or b"").hex():
            low = message.sequence
        else:
            high = half - 1
    return min(low, head_position)


def followed(message: StoredMessage) -> Followed | None:
    """The event that this message of a stream of the key log tells, None when it cannot be read."""
    try:
        return msgspec.msgpack.decode(message.body, type=Followed)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
