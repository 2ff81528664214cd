"""Ask for the head: whoever can write is believed, and that nobody can only when every writer says so.

A writer is a key service. All of them hear a question on the bus; each also ticks there once a second, which
tells who they are. One that was heard of lately and does not answer may still be writing.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import msgspec

from keyledger.clock import Clock
from keyledger.verification.ports import HEAD_SUBJECT, Bus, BusUnavailable, Feed, FeedUnavailable, Message
from keyledger.wire import Head, HeadQuestion

HEAD_TIMEOUT = 1.0
MORE = 0.7
"""Seconds for others to contradict the first who cannot write; each needs half a second to find out."""
REMEMBERED = 30.0
"""Seconds for which a writer that fell silent is thought to write."""
TICK_PATIENCE = 3.0
LONGEST_TICK_PATIENCE = 60.0

_HEAD = msgspec.msgpack.Decoder(Head)


class Source(Feed, Protocol):
    """The key service as a follower needs it when the bus is not enough."""

    async def head(self, question: HeadQuestion) -> Head:
        """The head, read after the question arrived; or `FeedUnavailable`."""
        ...


class Heads:
    """Who can write, what they say, and whether their ticks arrive."""

    def __init__(self, source: Source, bus: Bus | None, clock: Clock) -> None:
        self._source = source
        self._bus = bus
        self._clock = clock
        self._writers: dict[str, float] = {}
        self._tick_at: float | None = None
        self._patience = TICK_PATIENCE

    async def ask(self, question: HeadQuestion) -> Head | None:
        """The head as one who can write says it, or, not `writable`, as those say who all cannot.

        None when nobody answers, or when a writer is silent while the others cannot write.
        """
        heads = await self._on_bus(question)
        writable = _writable(heads)
        if writable is not None:
            return writable
        with contextlib.suppress(FeedUnavailable):
            heads.append(await self._source.head(question))
        heads = [head for head in heads if head.nonce == question.nonce]
        self._hear(heads)
        writable = _writable(heads)
        if writable is not None or not heads:
            return writable
        if self._silent(heads):
            return None
        # the one that knows most: what it saw committed, the others may have missed
        return max(heads, key=lambda head: (head.epoch_number, head.position))

    def ticked(self, head: Head) -> None:
        """A tick arrived."""
        self._hear([head])
        self._tick_at, self._patience = self._clock.steady(), TICK_PATIENCE

    def deaf(self) -> bool:
        """Whether answers arrive and ticks do not; said once, and again after ever longer times."""
        now = self._clock.steady()
        if self._tick_at is None or now - self._tick_at <= self._patience:
            return False
        self._tick_at, self._patience = now, min(LONGEST_TICK_PATIENCE, 2 * self._patience)
        return True

    async def _on_bus(self, question: HeadQuestion) -> list[Head]:
        if self._bus is None or not self._bus.connected:
            self._tick_at = None
            return []
        body = msgspec.msgpack.encode(question)

        def enough(message: Message) -> bool:
            head = _decoded(message)
            return head is not None and head.writable and head.nonce == question.nonce

        try:
            messages = await self._bus.request_all(
                HEAD_SUBJECT, body, timeout=HEAD_TIMEOUT, more=MORE, enough=enough
            )
        except BusUnavailable:
            # whether ticks should arrive is not known while nobody answers
            self._tick_at = None
            return []
        heads = [head for head in map(_decoded, messages) if head and head.nonce == question.nonce]
        self._hear(heads)
        if self._tick_at is None:
            self._tick_at = self._clock.steady()
        return heads

    def _hear(self, heads: list[Head]) -> None:
        now = self._clock.steady()
        self._writers.update({head.writer: now for head in heads if head.writer})
        self._writers = {name: at for name, at in self._writers.items() if now - at <= REMEMBERED}

    def _silent(self, heads: list[Head]) -> bool:
        return bool(self._writers.keys() - {head.writer for head in heads})


def _writable(heads: list[Head]) -> Head | None:
    able = [head for head in heads if head.writable]
    return max(able, key=lambda head: (head.epoch_number, head.position)) if able else None


def _decoded(message: Message) -> Head | None:
    try:
        return _HEAD.decode(message.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
