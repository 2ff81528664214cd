"""Rate limits: what a check may spend, without an await.

`FixedWindow` counts in this process alone, in epoch-aligned cells: exact for one verifier. Grants take its
place behind the same port when several verifiers share one limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from keyledger.errors import Refusal

SECOND = 1_000_000
SWEEP_FROM = 1024
"""Cells kept before the first look for those that ended."""


class Demand(Struct, frozen=True, gc=False):
    """One limit that a check must keep: at most `limit` units per `window` seconds for this holder.

    `policy` names it in the `RateLimit` header fields.
    """

    policy: str
    holder: str
    limit: int
    window: int


class LimitState(Struct, frozen=True, gc=False):
    """One limit as its caller sees it. `reset` is the unix second at which its cell ends."""

    policy: str
    limit: int
    remaining: int
    reset: int
    window: int


class Spending(Struct, frozen=True, gc=False):
    """Whether the cost was spent, and the tightest of the limits afterwards."""

    allowed: bool
    tightest: LimitState


class Limits(Protocol):
    """Where checks spend."""

    def spend(self, demands: Sequence[Demand], cost: int, now: int) -> Spending:
        """Spend `cost` on every demand or on none; a cost of 0 only looks, and is always allowed.

        `now` is wall time in µs. Refuses with `cost_exceeds_limit` what no cell could ever hold.
        """
        ...


class _Cell:
    """One window of one holder, which ends at `ends` (µs). Its limit only ever falls."""

    __slots__ = ("ends", "limit", "spent")

    def __init__(self, ends: int, limit: int) -> None:
        self.ends = ends
        self.limit = limit
        self.spent = 0


class FixedWindow:
    """Exact fixed windows in memory: a lowered limit binds at once, a raised one from the next cell.

    Time never goes back here, so that a cell which was dropped cannot be spent a second time.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[str, int], _Cell] = {}
        self._now = 0
        self._sweep_at = SWEEP_FROM

    @property
    def kept(self) -> int:
        """How many cells are in memory."""
        return len(self._cells)

    def spend(self, demands: Sequence[Demand], cost: int, now: int) -> Spending:
        if now > self._now:  # noqa: PLR1730 (this is the hot path: a call costs more)
            self._now = now
        if len(demands) == 1:
            # most keys have no limit of their own, and need no list of cells
            demand = demands[0]
            cell = self._cell(demand)
            if cost:
                if cost > demand.limit:
                    raise beyond(demand)
                if cell.limit - cell.spent < cost:
                    return Spending(False, _state(demand, cell))
                cell.spent += cost
            return Spending(True, _state(demand, cell))
        return self._spend_all(demands, cost)

    def _spend_all(self, demands: Sequence[Demand], cost: int) -> Spending:
        cells = [self._cell(demand) for demand in demands]
        if cost:
            for demand in demands:
                if cost > demand.limit:
                    raise beyond(demand)
            short = [at for at, cell in enumerate(cells) if cell.limit - cell.spent < cost]
            if short:
                return Spending(False, _tightest([_state(demands[at], cells[at]) for at in short]))
            for cell in cells:
                cell.spent += cost
        states = [_state(demand, cell) for demand, cell in zip(demands, cells, strict=True)]
        return Spending(True, _tightest(states))

    def _cell(self, demand: Demand) -> _Cell:
        """The current cell of this demand; it is never older than one that was handed out before."""
        name = (demand.holder, demand.window)
        cell = self._cells.get(name)
        if cell is None or cell.ends <= self._now:
            if cell is None and len(self._cells) >= self._sweep_at:
                self._sweep()
            size = demand.window * SECOND
            cell = self._cells[name] = _Cell(self._now - self._now % size + size, demand.limit)
        elif demand.limit < cell.limit:
            cell.limit = demand.limit
        return cell

    def _sweep(self) -> None:
        """Drop the cells that ended; looks again when twice as many are kept."""
        self._cells = {name: cell for name, cell in self._cells.items() if cell.ends > self._now}
        self._sweep_at = max(SWEEP_FROM, 2 * len(self._cells))


def beyond(demand: Demand) -> Refusal:
    """The refusal of a cost that no cell of this demand could hold."""
    return Refusal(
        "cost_exceeds_limit",
        f"The cost is more than the limit of the {demand.policy}, {demand.limit}.",
        field="cost",
    )


def _state(demand: Demand, cell: _Cell) -> LimitState:
    # less than nothing is left when the limit was lowered after more had been spent
    left = cell.limit - cell.spent if cell.limit > cell.spent else 0
    return LimitState(demand.policy, cell.limit, left, cell.ends // SECOND, demand.window)


def _tightest(states: list[LimitState]) -> LimitState:
    """The one that stops its caller first; of equals the one that lasts longest."""
    return min(states, key=lambda state: (state.remaining, -state.reset))
