"""The running cell of a limit as people are shown it: what verifiers have said, and what they may have."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from services.usage.domain.pool import Pool


class Part(Struct, frozen=True):
    """One verifier's part: charged to it, and of that what it said that it has spent."""

    verifier: str
    granted: int
    spent: int


class Cell(Struct, frozen=True):
    """A cell that runs, [`start`, `reset`) in unix seconds; `window` is in seconds, or a quota's period.

    `admitted` is what verifiers said that they let in, at most a moment ago; `granted` what they may have
    let in by now. So what is left for callers lies between `limit` less either.
    """

    window: int | str
    start: int
    reset: int
    limit: int
    admitted: int
    granted: int
    remaining: int
    verifiers: tuple[Part, ...]


def cell_of(pool: Pool) -> Cell:
    """The pool as it stands; verifiers without a part of it are left out."""
    parts = (Part(name, each.charged, each.spent) for name, each in sorted(pool.holdings.items()))
    return Cell(
        pool.window,
        pool.start,
        pool.end,
        pool.limit,
        pool.spent,
        pool.charged,
        max(0, pool.limit - pool.spent),
        tuple(part for part in parts if part.granted),
    )


def current(pools: Iterable[Pool], second: int) -> tuple[Cell | None, Cell | None]:
    """The rate limit's cell and the quota's at this unix second; None where nothing was asked for yet.

    After a change of the window two cells run for a while: the one that began last is shown.
    """
    limits: list[Pool] = []
    quotas: list[Pool] = []
    for pool in pools:
        if pool.start <= second < pool.end:
            (limits if isinstance(pool.window, int) else quotas).append(pool)
    found = [max(each, key=lambda pool: pool.start, default=None) for each in (limits, quotas)]
    limit, quota = (None if pool is None else cell_of(pool) for pool in found)
    return limit, quota
