"""Which verifiers are alive and how far each has applied the log: the ground of a revocation's receipt."""

from __future__ import annotations

import asyncio
import contextlib

from msgspec import Struct

from keyledger.clock import SECOND, Clock
from keyledger.wire import HeadQuestion

#: A verifier that asked for the head within this many seconds may still answer from what it had then.
REMEMBERED = 302.0
MAX_VERIFIERS = 1000


class Applied(Struct, frozen=True):
    """A verifier, and how long after the commit it had applied it."""

    verifier: str
    ms: int


class Receipt(Struct, frozen=True):
    """Who refuses by now and who may not yet; by `certain_by` (µs) nobody can accept any more."""

    applied: tuple[Applied, ...]
    pending: tuple[str, ...]
    certain_by: int


class _Known(Struct):
    line: bytes
    applied: int
    seen: float


class Receipts:
    """The live verifiers, as they tell by asking for the head and when they have applied a denial."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._moved = asyncio.Condition()

    async def note(self, question: HeadQuestion) -> None:
        """A verifier said how far it is."""
        now = self._clock.steady()
        self._known[question.verifier] = _Known(question.epoch_line, question.applied, now)
        for name in [name for name, known in self._known.items() if now - known.seen > REMEMBERED]:
            del self._known[name]
        while len(self._known) > MAX_VERIFIERS:
            del self._known[min(self._known, key=lambda name: self._known[name].seen)]
        async with self._moved:
            self._moved.notify_all()

    async def collect(self, position: int, line: bytes, *, since: float, wait: float) -> Receipt:
        """Wait up to `wait` seconds for all live verifiers to reach `position`, committed at `since`."""
        applied: dict[str, int] = {}

        def all_there() -> bool:
            now = self._clock.steady()
            for name, known in self._known.items():
                if known.line == line and known.applied >= position:
                    applied.setdefault(name, max(0, round((now - since) * 1000)))
            return all(name in applied for name in self._known)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait), self._moved:
                await self._moved.wait_for(all_there)
        pending = tuple(sorted(name for name in self._known if name not in applied))
        now = self._clock.now()
        return Receipt(
            tuple(Applied(name, ms) for name, ms in sorted(applied.items())),
            pending,
            now + int(REMEMBERED) * SECOND if pending else now,
        )
