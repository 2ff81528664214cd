"""The granter: answers verifiers' messages within one term. Pure; the caller brings the time.

It grants only for cells that start in the range it has claimed, and no range is ever claimed twice. Every
message states what its verifier has, is heeded once, and a repeat of the last one has the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from keyledger.grants import (
    LONGEST_QUICK,
    MORE,
    NOBODY,
    Ask,
    Grant,
    Grants,
    Lease,
    Recall,
    Recalled,
    Want,
    is_quick,
    is_window,
    span,
)
from services.usage.domain.pool import FEW, Pool, new_pool
from services.usage.domain.shares import Holder, Right, Shares

SECOND = 1_000_000
MOST_POOLS = 200_000
"""Cells in memory at once; nobody grants for what would be beyond."""
JOINED_POOLS = 20_000
"""While there are more of them newcomers wait for cells that start later: all would have to be looked at."""
MOST_BUT = 1000
"""A newcomer begins only when it can be told all the cells that it has nothing of."""

Cell = tuple[str, int | str, int]


class Range(Struct, frozen=True, array_like=True):
    """Starts of cells, [`start`, `end`) in µs."""

    start: int
    end: int


class Legacy(Struct, array_like=True):
    """What a granter that stops in order leaves to the next; by its clock, ended cells stay ended."""

    ranges: list[Range]
    pools: list[Pool]
    holders: dict[str, Holder]
    now: int


class Granter:
    """The state of one term. `claim` says for which cells it may grant."""

    def __init__(self, term: int, legacy: Legacy | None = None) -> None:
        self.term = term
        self.shares = Shares(None if legacy is None else legacy.holders)
        self.ranges: list[Range] = [] if legacy is None else list(legacy.ranges)
        self.pools: dict[Cell, Pool] = {}
        self.adopt([] if legacy is None else legacy.pools)
        self._now = 0 if legacy is None else legacy.now
        # cells that began before the claim: nothing is granted of them, but they can be shown
        self._before: dict[Cell, Pool] = {}
        # the last message of each verifier and lane, with its answer
        self._last: dict[tuple[str, bool], tuple[int, Grants | None]] = {}

    def claim(self, claimed: Range) -> None:
        """Grant for cells that start in this range too."""
        last = self.ranges[-1] if self.ranges else None
        if last is not None and last.end == claimed.start:
            self.ranges[-1] = Range(last.start, claimed.end)
        else:
            self.ranges.append(claimed)

    def missing(self, ask: Ask, now: int) -> list[Want]:
        """The committed cells of a message that have to be known before `answer`."""
        second = self._advance(now) // SECOND
        return [
            want
            for want in ask.wants
            if not is_quick(want.window)
            and (want.holder, want.window, want.start) not in self.pools
            and self._end(want, second) is not None
        ]

    def adopt(self, pools: Iterable[Pool]) -> None:
        """Go on with these cells."""
        for pool in pools:
            self.pools[pool.holder, pool.window, pool.start] = pool

    def asked(self, ask: Ask) -> list[Pool]:
        """The committed cells of a message, as they stand."""
        return [
            pool
            for want in ask.wants
            if not is_quick(want.window)
            and (pool := self.pools.get((want.holder, want.window, want.start))) is not None
        ]

    def of_holder(self, holder: str, now: int) -> list[Pool]:
        """The holder's cells that run now."""
        now = self._advance(now)
        known = (*self._before.values(), *self.pools.values())
        return [pool for pool in known if pool.holder == holder and pool.end * SECOND > now]

    def drop(self, ask: Ask) -> None:
        """Forget the committed cells of a message that could not be committed, and its answer."""
        for want in ask.wants:
            self.pools.pop((want.holder, want.window, want.start), None)
        # the same message may be tried again, an older one not
        self._last[ask.verifier, False] = (ask.seq - 1, None)

    def answer(self, ask: Ask, now: int, *, quick: bool = True) -> tuple[Grants, Recall | None] | None:
        """The answer, and what is to be asked back of everybody; None for what is late or repeated too late.

        `quick` says by which of the two lanes the message came.
        """
        now = self._advance(now)
        if ask.term != self.term:
            return Grants(self.term, ask.seq, now), None
        lane = (ask.verifier, quick)
        seq, last = self._last.get(lane, (0, None))
        if ask.seq <= seq:
            return None if last is None or ask.seq < seq else (last, None)
        second = now // SECOND
        if ask.replaces:
            self.shares.leave(ask.replaces, second)
        if not self.shares.hear(ask.verifier, ask.lease, second):
            return None
        recalled: list[Recalled] = []
        wants = [want for want in ask.wants if is_quick(want.window) == quick]
        grants = tuple([self._grant(ask.verifier, want, now, recalled) for want in wants])
        if ask.leaving:
            self.shares.leave(ask.verifier, second)
        offer = None if ask.leaving else self.shares.offered(ask.verifier, second)
        answer = Grants(self.term, ask.seq, now, grants)
        if offer is not None:
            answer = Grants(self.term, ask.seq, now, grants, offer.lease, offer.but)
        self._last[lane] = (ask.seq, answer)
        return answer, Recall(self.term, now, tuple(recalled)) if recalled else None

    def plan(self, now: int) -> tuple[dict[str, Lease], list[Right]]:
        """Leases that are due, and the rights to be recorded before `offer`."""
        second = self._advance(now) // SECOND
        since = next((each.start for each in self.ranges if each.start <= now < each.end), None)
        if since is None or len(self.pools) > JOINED_POOLS:
            return self.shares.plan(second)
        # of cells that started before that nothing is granted
        return self.shares.plan(second, max(second - LONGEST_QUICK, -(-since // SECOND)))

    def offer(self, planned: dict[str, Lease]) -> None:
        """Make planned leases known; who begins with running cells is charged for its part of them first."""
        for verifier, lease in planned.items():
            running = [
                pool
                for pool in (self.pools.values() if lease.start <= self._now // SECOND else ())
                if is_quick(pool.window) and lease.start <= pool.start < lease.end
            ]
            lent, without = list[Pool](), list[Pool]()
            for pool in running:
                (lent if pool.lends(verifier, lease.parts) else without).append(pool)
            if len(without) <= MOST_BUT:
                for pool in lent:
                    pool.lend(verifier, lease.parts)
                but = [Recalled(pool.holder, pool.window, pool.start, pool.limit) for pool in without]
                self.shares.offer(verifier, lease, tuple(but))

    def tidy(self, now: int) -> None:
        """Drop cells that have ended, and who is gone."""
        now = self._advance(now)
        self.pools = {cell: pool for cell, pool in self.pools.items() if pool.end * SECOND > now}
        self._before = {cell: pool for cell, pool in self._before.items() if pool.end * SECOND > now}
        self.ranges = [each for each in self.ranges if each.end > now - 2 * 60 * SECOND]
        for pool in self.pools.values():
            if len(pool.holdings) > FEW:
                pool.fold(self.shares.holders)
        # the number stays known as long as the term: what is heard again much later is still not heeded
        for lane, (seq, answer) in self._last.items():
            if answer is not None and lane[0] not in self.shares.holders:
                self._last[lane] = (seq, None)

    def legacy(self) -> Legacy:
        """Everything that another granter needs to go on in the middle of a cell; then grant no more."""
        quick = [pool for pool in self.pools.values() if is_quick(pool.window)]
        return Legacy(self.ranges, quick, self.shares.holders, self._now)

    def _advance(self, now: int) -> int:
        """The granter's clock, which never goes back."""
        self._now = max(self._now, now)
        return self._now

    def _grant(self, verifier: str, want: Want, now: int, recalled: list[Recalled]) -> Grant:
        pool = self._pool(want, now // SECOND)
        if pool is None:
            self._note(verifier, want, now // SECOND)
            # a cell that has not begun by this clock will be asked for again
            state = MORE if want.start > now // SECOND else NOBODY
            return Grant(want.holder, want.window, want.start, 0, want.limit, state)
        lowered = pool.state(verifier, want)
        parts = self.shares.live(now // SECOND) if is_quick(want.window) else 0
        grant, recall = pool.grant(verifier, want.need, parts, now, want.least)
        if recall or lowered:
            recalled.append(Recalled(pool.holder, pool.window, pool.start, pool.limit))
        return grant

    def _note(self, verifier: str, want: Want, second: int) -> None:
        """Know how a cell stands that is not granted of."""
        end = self._end(want, second)
        if end is None or len(self._before) >= MOST_POOLS:
            return
        cell = (want.holder, want.window, want.start)
        pool = self._before.setdefault(cell, new_pool(want, end, {}))
        pool.state(verifier, want)

    def _pool(self, want: Want, second: int) -> Pool | None:
        """The cell that is wanted; a new one only while it runs, and within what is claimed."""
        cell = (want.holder, want.window, want.start)
        end = self._end(want, second)
        if end is None:
            return None
        pool = self.pools.get(cell)
        if pool is None and len(self.pools) < MOST_POOLS and self._claimed(want):
            unasked = self.shares.unasked(want.limit, want.start) if is_quick(want.window) else {}
            pool = self.pools[cell] = new_pool(want, end, unasked)
        return pool

    def _end(self, want: Want, second: int) -> int | None:
        """When the wanted cell ends; None when it is no cell that runs now."""
        if (
            not is_window(want.window)
            or min(want.spent, want.held, want.need, want.least) < 0
            or want.limit < 1
        ):
            return None
        start, end = span(want.window, second)
        return end if start == want.start else None

    def _claimed(self, want: Want) -> bool:
        """Whether this cell is this granter's: of committed ones every one is, others by their start."""
        if not is_quick(want.window):
            return True
        start = want.start * SECOND
        return any(each.start <= start < each.end for each in self.ranges)
