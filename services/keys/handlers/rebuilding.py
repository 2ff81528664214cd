"""The states built anew from the log beside those in use, and swapped in while others append.

1. Every stream is folded into a shadow, page by page; what was appended meanwhile is folded after, until
   little is left to catch up with.
2. Where much of the table in use is wrong, rows are brought over in batches, each under its streams' locks.
3. The swap, one short transaction that holds the head's lock: the rest is folded, and every row that was
   found differing is brought over. No other row is wrong: whoever appends writes a row whole, from one that
   was right.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol, TypeVar

from msgspec import Struct

from keyledger.clock import Clock
from keyledger.server.seal import Sealer
from services.keys.domain.fold import StateRow, StreamFound
from services.keys.handlers.auditing import STREAMS_A_PAGE, Folder, LogReader, Tell

LITTLE = 500
"""So many positions, or differing rows, are few enough to be dealt with under the head's lock."""
BATCH = 500
ROUNDS = 100
TRIES = 10

T = TypeVar("T")


class StateShadow(Protocol):
    """A second table of states, filled beside the one in use."""

    async def put(self, states: Sequence[tuple[str, StateRow]]) -> None:
        """Write these states, each in place of what stands there of its stream."""
        ...

    async def forget(self, stream_ids: Sequence[str], workspace_ids: Sequence[str]) -> None:
        """Remove these streams, and all streams of these workspaces."""
        ...

    async def differing(self, limit: int) -> Sequence[str]:
        """At most so many streams of which the two tables do not say the same."""
        ...

    async def adopt_settled(self, stream_ids: Sequence[str]) -> int:
        """Bring these rows over where the shadow is as far as the stream, which is locked meanwhile.

        Answers how many rows of the table in use have changed.
        """
        ...

    def head_locked(self) -> AbstractAsyncContextManager[int]:
        """A transaction in which nothing can be appended; the head's position."""
        ...

    async def adopt(self, stream_ids: Sequence[str]) -> int:
        """Bring these rows over, inside `head_locked`; answers how many have changed."""
        ...


class NotConverging(Exception):
    """More is appended than can be folded, or the swap got no lock: try again when it is quieter."""


class Rebuilt(Struct, frozen=True):
    """What a rebuild came to; `held_ms` is how long nothing could be appended."""

    position: int
    states: int
    repaired: int
    held_ms: float


class Rebuild:
    """One rebuild. `busy` are the exceptions of a lock that could not be had in time."""

    def __init__(
        self,
        log: LogReader,
        shadow: StateShadow,
        sealer: Sealer,
        clock: Clock,
        *,
        busy: tuple[type[Exception], ...],
    ) -> None:
        self._log = log
        self._shadow = shadow
        self._folder = Folder(sealer)
        self._clock = clock
        self._busy = busy
        self._position = 0
        self._states = 0

    async def run(self, tell: Tell, say: Callable[[str], None]) -> Rebuilt:
        """Rebuild and swap; `Differs` when the log does not add up, `NotConverging` when it gets no rest.

        `tell` hears how many streams are folded now and then, `say` a line for each step.
        """
        await self._build(tell)
        say(f"built {self._states} states beside, from the log up to position {self._position}")
        repaired = 0
        for _ in range(ROUNDS):
            await self._catch_up()
            differing = await self._shadow.differing(BATCH * 20)
            if len(differing) <= LITTLE:
                break
            say(f"{len(differing)} rows or more differ: bringing them over batch by batch")
            repaired += await self._bring_over(differing)
        else:
            raise NotConverging
        position, changed, held = await self._swap(differing)
        return Rebuilt(position, self._states, repaired + changed, held * 1000)

    async def _build(self, tell: Tell) -> None:
        head, _ = await self._log.ends()
        self._position = head.position
        after: str | None = ""
        seen = 0
        while after is not None:
            page, after = await self._log.streams(after, STREAMS_A_PAGE)
            await self._put(page)
            seen += len(page)
            tell(seen)

    async def _put(self, page: Sequence[StreamFound]) -> None:
        """Fold these streams into the shadow."""
        gone = [stream for stream in page if stream.deleted or not stream.events]
        folded = [self._folder.fold(stream) for stream in page if not stream.deleted]
        states = [(one.stream_id, one.row) for one in folded if one is not None and one.state is not None]
        await self._shadow.put(states)
        await self._shadow.forget(
            [stream.stream_id for stream in gone],
            sorted({stream.workspace_id for stream in gone if stream.deleted}),
        )
        self._states += len(states)

    async def _catch_up(self) -> None:
        """Fold what was appended since, until it is little."""
        for _ in range(ROUNDS):
            head, _ = await self._log.ends()
            await self._fold_until(head.position)
            later, _ = await self._log.ends()
            if later.position - self._position <= LITTLE:
                return
        raise NotConverging

    async def _fold_until(self, position: int) -> None:
        """Fold every stream touched since, up to a position."""
        touched = sorted(await self._log.touched(self._position, position))
        before = self._states
        for at in range(0, len(touched), STREAMS_A_PAGE):
            await self._put(await self._log.these(touched[at : at + STREAMS_A_PAGE]))
        self._states, self._position = before, position

    async def _bring_over(self, differing: Sequence[str]) -> int:
        changed = 0
        for at in range(0, len(differing), BATCH):
            batch = differing[at : at + BATCH]
            changed += await self._tried(partial(self._shadow.adopt_settled, batch))
        return changed

    async def _swap(self, differing: Sequence[str]) -> tuple[int, int, float]:
        async def swap() -> tuple[int, int, float]:
            position = self._position
            began = self._clock.steady()
            try:
                async with self._shadow.head_locked() as head:
                    await self._fold_until(head)
                    changed = await self._shadow.adopt(sorted(differing))
            except BaseException:
                # what was folded inside is rolled back
                self._position = position
                raise
            return head, changed, self._clock.steady() - began

        return await self._tried(swap)

    async def _tried(self, step: Callable[[], Awaitable[T]]) -> T:
        """The step's answer, as soon as it gets its locks: whoever appends must never wait long for us."""
        for attempt in range(1, TRIES + 1):
            try:
                return await step()
            except self._busy:
                if attempt < TRIES:
                    # spread, not secrecy
                    await asyncio.sleep(min(2.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311
        raise NotConverging
