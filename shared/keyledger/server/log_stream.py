"""One line of a log as JetStream holds it: its names, where it ends, and how it grows.

The stream's sequence *is* the position. The stream is a cache of the log's tail: whoever reads its end
reads the stream itself, from its leader, and knows nothing of it beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from msgspec import Struct

from keyledger.events import Epoch
from keyledger.server import jetstream
from keyledger.server.jetstream import Publication, StreamConfig
from keyledger.verification.ports import LIVE_SUBJECT, USE_LIVE_SUBJECT, Bus

BATCH_MESSAGES = 200
BATCH_BYTES = 512 << 10
"""The bodies of one batch; a body that is larger on its own is left out of its message."""

_log = structlog.get_logger("keyledger.relay")


class SourceHead(Struct, frozen=True):
    """Where the log ends: position 0 while it is empty. `hash` is empty for a log without hashes."""

    epoch: Epoch
    position: int
    hash: bytes


class Outgoing(Struct, frozen=True):
    """One event on its way. `subject_tail` follows the log's line in the subject; it may be empty."""

    position: int
    hash: bytes
    subject_tail: str
    body: bytes


class LogNames(Struct, frozen=True):
    """What one of the logs is called on the broker; each line of it has a stream of its own."""

    stream: str
    subject: str
    live: str
    tails: bool
    """Whether subjects go on behind the line."""

    def stream_of(self, epoch: Epoch) -> str:
        """The name of this line's stream, such as `KEYS_0123456789abcdef`."""
        return f"{self.stream}_{epoch.line.hex()}"

    def subject_of(self, epoch: Epoch, tail: str = "") -> str:
        """The subject that an event of this line is stored under."""
        return f"{self.subject}.{epoch.line.hex()}" + (f".{tail}" if tail else "")

    def subject_of_any_line(self, tail: str) -> str:
        """The subjects that events of this tail are stored under, whatever their line is."""
        return f"{self.subject}.*.{tail}"

    def live_subject_of(self, epoch: Epoch, tail: str = "") -> str:
        """The subject that subscribers see it under, once it is stored."""
        return f"{self.live}.{epoch.line.hex()}" + (f".{tail}" if tail else "")


KEY_LOG = LogNames("KEYS", "kl.ev", LIVE_SUBJECT, tails=True)
USE_LOG = LogNames("USES", "kl.uselog", USE_LIVE_SUBJECT, tails=False)


class StreamLimits(Struct, frozen=True, kw_only=True):
    """What a stream may hold, from its creation on; the oldest messages make room. Never an age."""

    max_msgs: int = 1_000_000
    max_bytes: int = 1 << 30
    num_replicas: int = 1


class StreamEnd(Struct, frozen=True):
    """Where a stream ends, and the newest position whose hash it tells (`hash` None: it tells none)."""

    position: int
    hashed: int
    hash: bytes | None


class LogStream:
    """The stream of one line of one log."""

    def __init__(self, bus: Bus, names: LogNames, epoch: Epoch, limits: StreamLimits) -> None:
        self.epoch = epoch
        self.name = names.stream_of(epoch)
        self._bus = bus
        self._names = names
        self._limits = limits
        self._every = ">" if names.tails else ""
        self._subject = names.subject_of(epoch, self._every)

    async def end(self) -> StreamEnd:
        """Where it ends now, or `StreamMissing`."""
        info = await jetstream.info(self._bus, self.name)
        position, last = info.state.last_seq, None
        if info.state.messages:
            # an erased workspace may have had the last word; an older message tells as much of the past
            last = await jetstream.message(self._bus, self.name, position)
            last = last or await jetstream.last_message(self._bus, self.name, self._subject)
        if last is not None:
            return StreamEnd(position, last.sequence, _hash(last.headers.get("Kl-Hash", "")))
        base = info.metadata.get("base_position", "0")
        return StreamEnd(position, int(base), _hash(info.metadata.get("base_hash", "")))

    async def create(self, head: SourceHead, *, previous: bytes = b"") -> bool:
        """Create it, empty, its first sequence the position after `head`; False when it is there.

        `previous` is the line that this one went on from, where whoever creates it knows.
        """
        config = StreamConfig(
            name=self.name,
            subjects=(self._subject,),
            republish={
                "src": self._subject,
                "dest": self._names.live_subject_of(self.epoch, self._every),
            },
            metadata={
                "epoch_number": str(self.epoch.number),
                "epoch_line": self.epoch.line.hex(),
                "base_position": str(head.position),
                "base_hash": head.hash.hex(),
                **({"previous_line": previous.hex()} if previous else {}),
            },
            first_seq=head.position + 1,
            num_replicas=self._limits.num_replicas,
            max_msgs=self._limits.max_msgs,
            max_bytes=self._limits.max_bytes,
        )
        try:
            await jetstream.create(self._bus, config)
        except jetstream.StreamExists:  # somebody else's, from another head
            return False
        return True

    async def append(self, events: Sequence[Outgoing], *, after: int, timeout: float) -> StreamEnd:
        """Store the events right after position `after`, all or none; where the stream ends then.

        Raises as `jetstream.append` does, and `ValueError` when the events are not dense.
        """
        if any(event.position != after + number for number, event in enumerate(events, start=1)):
            raise ValueError(f"the log has a hole after position {after}")
        publications = [self._publication(event) for event in events]
        last = await jetstream.append(self._bus, self.name, publications, after=after, timeout=timeout)
        return StreamEnd(last, last, events[-1].hash or None)

    def _publication(self, event: Outgoing) -> Publication:
        headers = {
            "Kl-Position": str(event.position),
            "Kl-Hash": event.hash.hex(),
            "Kl-Epoch": self.epoch.text,
        }
        body = event.body
        if len(body) > BATCH_BYTES:
            # No broker would take it, and its position must not stop those behind it: followers cannot
            # read an empty body, find the gap and page for it.
            _log.warning("a body is too large to publish", position=event.position, bytes=len(body))
            body = b""
        return Publication(self._names.subject_of(self.epoch, event.subject_tail), body, headers)


def one_batch(page: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """The first events of the page that fit into one batch, one at least."""
    room = BATCH_BYTES
    for number, event in enumerate(page):
        room -= len(event.body)
        if number == BATCH_MESSAGES or (number and room < 0):
            return page[:number]
    return page


def _hash(text: str) -> bytes | None:
    """The hash behind a header or metadata, None for what is no hash."""
    try:
        return bytes.fromhex(text) or None
    except ValueError:
        return None
