"""The running cell of a limit as people are shown it: what verifiers have said, and what they may have."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from keyledger.events import Quota, RateLimit
from keyledger.grants import span
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


def current(
    pools: Iterable[Pool], second: int, rate_limit: RateLimit | None, quota: Quota | None
) -> tuple[Cell | None, Cell | None]:
    """The cell of the rate limit at this unix second, and the quota's; None where there is no such limit.

    Where nothing was asked for yet it is whole. After a change of the window two cells run for a while: the
    one of today's limit is shown.
    """
    running = {pool.window: pool for pool in pools if pool.start <= second < pool.end}
    found: list[Cell | None] = [None, None]
    if rate_limit is not None:
        window = rate_limit.window_seconds
        found[0] = _cell(running.get(window), window, rate_limit.limit, second)
    if quota is not None:
        found[1] = _cell(running.get(quota.period), quota.period, quota.limit, second)
    return found[0], found[1]


def _cell(pool: Pool | None, window: int | str, limit: int, second: int) -> Cell:
    start, reset = span(window, second)
    return cell_of(pool) if pool is not None else Cell(window, start, reset, limit, 0, 0, limit, ())
