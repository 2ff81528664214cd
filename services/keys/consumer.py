"""What the key service answers on the bus: the head, who has applied what, and uses to record."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
import structlog

from keyledger.clock import Clock
from keyledger.errors import Refusal
from keyledger.events import GENESIS
from keyledger.verification.ports import APPLIED_SUBJECT, HEAD_SUBJECT, USES_SUBJECT, Bus, Message
from keyledger.wire import Head, HeadQuestion, UseBatch
from services.keys.handlers.receipts import Receipts
from services.keys.ports import HeadNow, States, UseLog

QUEUE = "keys"
PATIENCE = 0.5
"""Seconds until Postgres counts as away for the head; followers wait a second for their answer."""
T = TypeVar("T")
_log = structlog.get_logger("keyledger.keys")


class Consumer:
    """Answers followers and verifiers. Every answer about the head is read after the question arrived."""

    def __init__(self, bus: Bus, states: States, uses: UseLog, receipts: Receipts, clock: Clock) -> None:
        self._bus = bus
        self._states = states
        self._uses = uses
        self._receipts = receipts
        self._clock = clock
        self._known: HeadNow | None = None
        self._late: asyncio.Task[bool] | None = None
        self.recorded = 0
        """Use batches acknowledged since the start."""

    async def start(self) -> None:
        """Subscribe; the bus keeps the subscriptions through reconnects."""
        await self._bus.subscribe(HEAD_SUBJECT, self._head)
        await self._bus.subscribe(APPLIED_SUBJECT, self._applied)
        await self._bus.subscribe(USES_SUBJECT, self._use_batch, queue=QUEUE)

    async def head(self, question: HeadQuestion) -> Head:
        """The head now, or the last one known when Postgres cannot be asked (then not `writable`)."""
        writable = await self._look()
        known = self._known
        if known is None:
            return Head(question.nonce, 0, b"", 0, GENESIS, 0, writable=False)
        return Head(
            question.nonce,
            known.epoch.number,
            known.epoch.line,
            known.position,
            known.hash,
            known.at,
            writable=writable,
        )

    async def _look(self) -> bool:
        """Read the head anew; False when Postgres refuses, or is silent for longer than anyone waits."""
        if self._late is not None and not self._late.done():
            # it hangs: one question finds that out, all others are answered at once
            return False
        reading = asyncio.create_task(self._read(), name="head")
        done, _ = await asyncio.wait({reading}, timeout=PATIENCE)
        if not done:
            self._late = reading
            return False
        return reading.result()

    async def _read(self) -> bool:
        try:
            head = await self._states.head()
        except Refusal:
            return False
        known = self._known
        # one that was read long ago may come last
        if known is None or (known.epoch.number, known.position) <= (head.epoch.number, head.position):
            self._known = head
        return True

    async def _head(self, message: Message) -> None:
        question = _decode(message, HeadQuestion)
        if question is None or not message.reply:
            return
        answer = await self.head(question)
        if answer.epoch_number:
            await self._bus.publish(message.reply, msgspec.msgpack.encode(answer))
        if question.verifier:
            await self._receipts.note(question)

    async def _applied(self, message: Message) -> None:
        question = _decode(message, HeadQuestion)
        if question is not None and question.verifier:
            await self._receipts.note(question)

    async def _use_batch(self, message: Message) -> None:
        batch = _decode(message, UseBatch)
        if batch is None:
            return
        try:
            next_seq = await self._uses.record(batch, now=self._clock.now())
        except Refusal as refusal:
            # no answer: the verifier keeps the batch and sends it again
            _log.warning("uses_not_recorded", why=refusal.code, boot=batch.boot, seq=batch.seq)
            return
        self.recorded += 1
        if message.reply:
            await self._bus.publish(message.reply, msgspec.msgpack.encode(next_seq))


def _decode(message: Message, kind: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(message.body, type=kind)
    except msgspec.MsgspecError as error:
        _log.warning("message_not_understood", subject=message.subject, why=type(error).__name__)
        return None
