"""Which verifiers are alive and how far each has applied the log: the ground of a revocation's receipt.

A verifier may answer from what it had when it was last told of the head, for as long as it lets its view
grow old. So it counts from its first answer on, for that long after its last one. The list outlives this
process and is shared with the others: a verifier stands in it before it is answered for the first time.
"""

from __future__ import annotations

import asyncio
import contextlib

from msgspec import Struct

from keyledger.clock import SECOND, Clock
from keyledger.errors import Refusal
from keyledger.wire import HeadQuestion
from services.keys.ports import Follower, Followers

MARGIN = 2.0
"""Seconds added to what a verifier may still accept: clocks drift, and an answer is under way."""
SAVE_EVERY = 5.0
SLACK = 10.0
"""Seconds by which what was saved may lie behind the last answer."""
ROUNDED = 0.001
MAX_VERIFIERS = 1000
MAX_STALENESS = 86_400.0


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
    """`seen` is a moment of the steady clock; `max_staleness` in seconds."""

    line: bytes
    applied: int
    seen: float
    max_staleness: float

    @property
    def until(self) -> float:
        """The moment from which it accepts nothing that it was not told anew."""
        return self.seen + self.max_staleness + MARGIN


class Receipts:
    """The live verifiers, as they tell by asking for the head and when they have applied a denial."""

    def __init__(self, clock: Clock, followers: Followers) -> None:
        self._clock = clock
        self._followers = followers
        self._known: dict[str, _Known] = {}
        self._saved: set[str] = set()
        self._moved = asyncio.Event()
        # until when a verifier may accept that there was no room to remember
        self._dropped_until = 0.0

    async def note(self, question: HeadQuestion, *, durably: bool = True) -> None:
        """A verifier said how far it is, and is about to be answered; `durably`: not before all know it."""
        name = question.verifier
        if question.leaving:
            self._known.pop(name, None)
            self._saved.discard(name)
            with contextlib.suppress(Refusal):
                await self._followers.forget(name)
        else:
            staleness = min(max(0.0, question.max_staleness), MAX_STALENESS)
            self._known[name] = _Known(question.epoch_line, question.applied, self._clock.steady(), staleness)
            self._expire()
            if durably and name not in self._saved:
                await self.save([name])
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def collect(self, position: int, line: bytes, *, since: float, wait: float) -> Receipt:
        """Wait up to `wait` seconds for all live verifiers to reach `position`, committed at `since`."""
        await self.load()
        # One that comes later is fresh only with this position applied. An answer given later proves nothing
        # to one that has not applied it, so the moments of now are the last ones that count.
        until = {name: known.until for name, known in self._known.items()}
        applied: dict[str, int] = {}
        deadline = self._clock.steady() + wait
        while True:
            now, moved = self._clock.steady(), self._moved
            for name in until.keys() - applied.keys():
                if self._has(name, position, line):
                    applied[name] = max(0, round((now - since) * 1000))
            pending = {
                name: end
                for name, end in until.items()
                if end > now and name in self._known and name not in applied
            }
            if not pending or now >= deadline:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(deadline, *pending.values()) - now):
                    await moved.wait()
        last = max([now, self._dropped_until, *pending.values()])
        return Receipt(
            tuple(Applied(name, ms) for name, ms in sorted(applied.items())),
            tuple(sorted(pending)),
            self._clock.now() + int((last - now) * SECOND),
        )

    async def load(self) -> None:
        """Learn of verifiers that only others have heard, or this process before it was started anew."""
        with contextlib.suppress(Refusal):
            wall, steady = self._clock.now(), self._clock.steady()
            for follower in await self._followers.all():
                seen = steady - (wall - follower.seen) / SECOND
                known = self._known.get(follower.name)
                if known is None:
                    known = _Known(b"", 0, seen, follower.max_staleness / SECOND)
                elif seen <= known.seen + ROUNDED:
                    continue
                known.seen = min(steady, seen + SLACK)
                self._known[follower.name] = known
        self._expire()

    async def save(self, names: list[str] | None = None) -> None:
        """Tell the others of these verifiers, or of all that were heard lately."""
        wall, steady = self._clock.now(), self._clock.steady()
        heard = [
            Follower(name, wall - int((steady - known.seen) * SECOND), int(known.max_staleness * SECOND))
            for name, known in self._known.items()
            if (name in names if names is not None else steady - known.seen < 2 * SAVE_EVERY)
        ]
        if heard:
            # while Postgres is away nothing is committed that a receipt could be asked for
            with contextlib.suppress(Refusal):
                await self._followers.note(heard, now=wall)
                self._saved.update(follower.name for follower in heard)

    async def run(self, stop: asyncio.Event) -> None:
        """Save who was heard, every few seconds until `stop` is set."""
        while not stop.is_set():
            await self.save()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_EVERY):
                    await stop.wait()

    def _has(self, name: str, position: int, line: bytes) -> bool:
        known = self._known.get(name)
        return known is not None and known.line == line and known.applied >= position

    def _expire(self) -> None:
        now = self._clock.steady()
        for name in [name for name, known in self._known.items() if known.until <= now]:
            del self._known[name]
        self._saved &= self._known.keys()
        while len(self._known) > MAX_VERIFIERS:
            oldest = min(self._known, key=lambda name: self._known[name].seen)
            self._dropped_until = max(self._dropped_until, self._known.pop(oldest).until)
