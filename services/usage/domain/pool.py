"""The tokens of one cell: what each verifier may have of them, and how the rest is granted.

`charged` is the most that a verifier can have spent and hold. Whatever a verifier does unasked is charged
when the pool is made, every grant before it is told. So what is charged and what is left are the limit, and
nothing that is lost, repeated, late or killed can make the sum of what is spent larger.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from keyledger.grants import EXHAUSTED, MORE, SCARCE, Grant, Want, most_slice

SECOND = 1_000_000
LEAST_PART = 50
"""A grant is no smaller than one part in so many of the limit, until the pool is scraped together."""
COMMITTED_PART = 200
"""A committed grant is one part in so many: what a killed holder loses is at most one in a hundred."""
PATIENCE = 100_000
"""Microseconds in which verifiers answer a recall."""
FEW, GONE = 64, ""
"""So many gone verifiers are known apart in a cell; of more only the sum, under this name."""
AHEAD = 500_000
"""Microseconds for which a verifier may hold tokens when others are known to want the last ones."""


class Holding(Struct, array_like=True):
    """One verifier's part: charged to it, and of that what it said that it has spent."""

    charged: int
    spent: int = 0


class Pool(Struct, array_like=True):
    """A cell of one meter, [`start`, `end`). Its limit only ever falls, but to one of a later `since` (µs).

    `recalled` is when (µs) everything was asked back, `awaited` who has not answered yet.
    """

    holder: str
    window: int | str
    start: int
    end: int
    limit: int
    holdings: dict[str, Holding]
    recalled: int | None = None
    awaited: set[str] = set()
    since: int = 0

    @property
    def charged(self) -> int:
        """The most that can have been spent."""
        return sum(holding.charged for holding in self.holdings.values())

    @property
    def left(self) -> int:
        """What can still be granted; less than nothing when the limit was lowered below what is out."""
        return self.limit - self.charged

    @property
    def spent(self) -> int:
        """What verifiers said that they have spent."""
        return sum(holding.spent for holding in self.holdings.values())

    def state(self, verifier: str, want: Want) -> bool:
        """Take a verifier's word for what it has spent and holds; whether it says that the limit was lowered.

        Then what others hold, and what they might still take, was meant for a larger one.
        """
        old = self.limit
        if want.since > self.since:
            self.limit, self.since = want.limit, want.since
        elif want.since == self.since:
            self.limit = min(self.limit, want.limit)
        if self.limit > old:
            # what is left now may have to be asked back once more
            self.recalled = None
        lowered = self.limit < old
        self.holdings[verifier] = Holding(want.spent + want.held, want.spent)
        if not want.held:
            # who still holds something spoke before it heard that it is to give that back
            self.awaited.discard(verifier)
        return lowered

    def grant(self, verifier: str, need: int, parts: int, now: int, least: int = 0) -> tuple[Grant, bool]:
        """Grant what is needed and a little more; whether everything should be asked back first.

        `parts` is how many verifiers share the pool, 0 for one whose grants are committed. Less than `least`
        is not granted: others can use it.
        """
        left = max(0, self.left)
        pace = self.holdings[verifier].spent * AHEAD // max(AHEAD, now - self.start * SECOND)
        amount = min(left, max(need, self._portion(left, parts, pace))) if need else 0
        if amount < least:
            amount = 0
        if amount:
            self.holdings[verifier].charged += amount
        recall = amount < need and self._recall(verifier, now)
        state = MORE
        if amount < need and not self._waits(now):
            state = SCARCE if left > amount else EXHAUSTED
        return Grant(self.holder, self.window, self.start, amount, left - amount, state), recall

    def _portion(self, left: int, parts: int, pace: int) -> int:
        """How much is granted at once, whatever is needed."""
        if not parts:
            return self.limit // COMMITTED_PART
        half = left // max(2, parts)
        if self.recalled is None:
            return max(half, self.limit // LEAST_PART)
        return max(min(half, pace), self.limit // (LEAST_PART * parts))

    def _recall(self, verifier: str, now: int) -> bool:
        """Whether this is the moment to ask everybody else, once a cell."""
        if self.recalled is not None:
            return False
        self.recalled = now
        self.awaited = {
            other
            for other, holding in self.holdings.items()
            if other != verifier and holding.charged > holding.spent
        }
        return bool(self.awaited)

    def _waits(self, now: int) -> bool:
        """Whether something may still come back."""
        return bool(self.awaited) and self.recalled is not None and now - self.recalled < PATIENCE

    def lends(self, verifier: str, parts: int) -> bool:
        """Whether a newcomer can have its part of this cell."""
        scarce = self.recalled is not None or most_slice(self.limit, parts) > self.left
        return verifier not in self.holdings and not scarce

    def lend(self, verifier: str, parts: int) -> None:
        """Charge a newcomer for what it may take unasked; see `lends`."""
        if most := most_slice(self.limit, parts):
            self.holdings[verifier] = Holding(most)

    def fold(self, known: Collection[str]) -> None:
        """Keep the parts of verifiers that are gone as one, when there are many of them.

        One that was gone after all has its part charged twice, which costs tokens and is safe.
        """
        gone = [verifier for verifier in self.holdings if verifier not in known]
        if len(gone) <= FEW:
            return
        parts = [self.holdings.pop(verifier) for verifier in gone]
        self.holdings[GONE] = Holding(sum(each.charged for each in parts), sum(each.spent for each in parts))


def new_pool(want: Want, end: int, unasked: Mapping[str, int]) -> Pool:
    """A cell of which only this may have been taken."""
    holdings = {verifier: Holding(most) for verifier, most in unasked.items()}
    return Pool(want.holder, want.window, want.start, end, want.limit, holdings, since=want.since)
