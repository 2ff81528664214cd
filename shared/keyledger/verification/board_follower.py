"""How the store stands, as a process that only reads it learns from the board.

The instant at which the store was last proven fresh is read there, and its age is judged here. So a process
that has stopped writing, whatever the reason, makes the others stale without a word.
"""

from __future__ import annotations

import asyncio

from keyledger.clock import Clock
from keyledger.verification.board import Standing
from keyledger.verification.follower import REACH_WITHIN
from keyledger.verification.freshness import age_of
from keyledger.verification.lmdb_records import LmdbRecords
from keyledger.verification.store import has

SILENT = 5.0
"""Seconds without a sign of life after which the process that writes is taken for dead."""
_LOOK, _LONGEST_LOOK = 0.001, 0.02


class BoardFollower:
    """`Following` of what another process writes."""

    def __init__(self, records: LmdbRecords, clock: Clock, *, held_seconds: float) -> None:
        """`held_seconds` as in the process that writes."""
        self._records = records
        self._board = records.board
        self._clock = clock
        self._held_seconds = held_seconds
        self._count = -1
        self._standing = Standing()

    @property
    def freshness(self) -> BoardFollower:
        """What is known of the log's head stands on the board, too."""
        return self

    @property
    def held(self) -> bool:
        """Whether the last answer said that nothing can be committed."""
        return self._read().held_at is not None

    @property
    def head(self) -> int:
        """The last head heard of."""
        return max(self._read().head, self._records.position)

    @property
    def hearing(self) -> bool:
        """Whether live events arrive there."""
        standing = self._read()
        return standing.hearing and self._clock.steady() - standing.beat < SILENT

    @property
    def pepper(self) -> str:
        """The pepper under which new digests are made."""
        return self._read().pepper

    @property
    def unreadable(self) -> int:
        """Events that could not be read there."""
        return self._read().unreadable

    @property
    def rebuilds(self) -> int:
        """How often the log was read anew there."""
        return self._read().rebuilds

    @property
    def forks(self) -> int:
        """How often what was applied proved to be another history."""
        return self._read().forks

    def age(self) -> float:
        """Seconds since the store was certainly up to date."""
        standing = self._read()
        return age_of(standing.proven_at, standing.held_at, self._held_seconds, self._clock.steady())

    async def reached(self, position: int, epoch: str | None, *, within: float = REACH_WITHIN) -> bool:
        """As `Follower.reached`; the process that writes is asked to ask for the head."""
        pause, until = _LOOK, self._clock.steady() + within
        while not has(self._records, position, epoch):
            if self._clock.steady() >= until:
                return False
            self._board.wanted = position
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
        return True

    async def start(self) -> None:
        """Nothing is to be begun here."""

    async def stop(self) -> None:
        """Nothing was begun here."""

    async def leave(self) -> None:
        """Let the store go; the process that writes is the one that answers for it."""
        self._records.close()

    def _read(self) -> Standing:
        count = self._board.standing_count
        if count != self._count:
            self._standing, self._count = self._board.standing, count
        return self._standing
