"""What the key service answers on the bus: the head, who has applied what, and uses to record."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, TypeVar

import msgspec
import structlog

from keyledger.clock import Clock
from keyledger.errors import Refusal
from keyledger.events import GENESIS
from keyledger.verification.ports import (
    APPLIED_SUBJECT,
    HEAD_SUBJECT,
    USES_SUBJECT,
    Bus,
    BusUnavailable,
    Message,
)
from keyledger.wire import Head, HeadQuestion
from services.keys.domain.uses import BATCH, sift
from services.keys.handlers.receipts import Receipts
from services.keys.ports import Appended, HeadNow, States, UseLog

QUEUE = "keys"
PATIENCE = 0.5
"""Seconds until Postgres counts as away for the head; followers wait a second for their answer."""
T = TypeVar("T")
_log = structlog.get_logger("keyledger.keys")


class Rotation(Protocol):
    """Where verifiers' peppers are told, and which one is active."""

    def note(self, question: HeadQuestion) -> None:
        """A verifier told which peppers it holds."""
        ...

    def now_active(self) -> str:
        """The pepper under which new digests are made."""
        ...


FirstUse: TypeAlias = Callable[[str, int], Awaitable[None]]
"""What is done when a key's secret (by its version) was first used; a `Refusal` has the batch sent again."""


class Consumer:
    """Answers followers and verifiers. Every answer about the head is read after the question arrived."""

    def __init__(
        self,
        bus: Bus,
        states: States,
        uses: UseLog,
        receipts: Receipts,
        clock: Clock,
        *,
        rotation: Rotation | None = None,
        first_use: FirstUse | None = None,
        writer: str = "",
        committed: Callable[[], Appended | None] = lambda: None,
        refused: Callable[[str, int], None] = lambda field, count: None,
    ) -> None:
        """`writer` names this process in its answers, so that followers know all who can write.

        `committed` is its own last commit: the head is there at least, though Postgres cannot be asked.
        `refused` is told of sums of uses that are not recorded: the field that is wrong, and how many.
        """
        self._bus = bus
        self._states = states
        self._uses = uses
        self._receipts = receipts
        self._clock = clock
        self._rotation = rotation
        self._first_use = first_use
        self._writer = writer
        self._committed = committed
        self._refused = refused
        self._known: HeadNow | None = None
        # reads are numbered as they begin; what an earlier one found must not replace what a later one did
        self._began = 0
        self._known_of = 0
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
        if question.verifier:
            # before the answer: from then on it counts among those that may accept
            if self._rotation is not None:
                self._rotation.note(question)
            await self._receipts.note(question, durably=writable)
        known = self._known
        if known is None:
            return Head(question.nonce, 0, b"", 0, GENESIS, 0, writable=False, writer=self._writer)
        own, position = self._committed(), known.position
        if not writable and own is not None and own.epoch.line == known.epoch.line:
            # a denial that Postgres took with it before anyone heard: nobody may be held without it
            position = max(position, own.position)
        return Head(
            question.nonce,
            known.epoch.number,
            known.epoch.line,
            position,
            known.hash,
            known.at,
            writable=writable,
            pepper="" if self._rotation is None else self._rotation.now_active(),
            writer=self._writer,
        )

    async def head_for_http(self, question: HeadQuestion) -> Head:
        """As `head`, for a follower that the other key services cannot hear: they are told of it."""
        head = await self.head(question)
        if question.verifier:
            with contextlib.suppress(BusUnavailable):
                told = msgspec.structs.replace(question, nonce="")
                await self._bus.publish(APPLIED_SUBJECT, msgspec.msgpack.encode(told))
        return head

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
        self._began += 1
        mine = self._began
        try:
            head = await self._states.head()
        except Refusal:
            return False
        # Not the higher position: a Postgres that was restored is lower, and that must be told.
        if mine > self._known_of:
            self._known, self._known_of = head, mine
        return True

    async def _head(self, message: Message) -> None:
        question = _decode(message, HeadQuestion)
        if question is None or not message.reply:
            return
        answer = await self.head(question)
        # also one that has never reached Postgres: it says that it cannot write
        await self._bus.publish(message.reply, msgspec.msgpack.encode(answer))

    async def _applied(self, message: Message) -> None:
        question = _decode(message, HeadQuestion)
        if question is not None and question.verifier:
            await self._receipts.note(question)

    async def _use_batch(self, message: Message) -> None:
        """Record what is sound of a batch, and answer: whatever is wrong with it, its sender goes on."""
        now = self._clock.now()
        told = sift(message.body, now=now)
        if told is None:
            # whoever sent it knows no more of a batch than we do, and waits for no answer
            _log.error("uses_refused", why=BATCH, bytes=len(message.body))
            self._refused(BATCH, 1)
            return
        batch, next_seq = told.batch, told.seq + 1
        source = {"boot": None if batch is None else batch.boot, "seq": told.seq}
        try:
            if batch is not None:
                next_seq = await self._uses.record(batch, now=now)
                if self._first_use is not None:
                    for key_id, secret in batch.first_uses:
                        await self._first_use(key_id, secret)
        except Refusal as refusal:
            # no answer: the verifier keeps the batch and sends it again
            _log.warning("uses_not_recorded", why=refusal.code, **source)
            return
        for field, count in told.refused.items():
            # names of fields only: what stood in them is whatever somebody sent
            _log.error("uses_refused", why=field, count=count, **source)
            self._refused(field, count)
        self.recorded += batch is not None
        if message.reply:
            await self._bus.publish(message.reply, msgspec.msgpack.encode(next_seq))


def _decode(message: Message, kind: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(message.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("message_not_understood", subject=message.subject, why=type(error).__name__)
        return None
