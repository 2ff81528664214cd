"""Limits: what a check may spend, without an await.

`FixedWindow` counts in this process alone, in cells: exact for one verifier. `GrantedLimits` is behind the
same port, and shares the limits among any number of verifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from keyledger.errors import Refusal
from keyledger.grants import span

SECOND = 1_000_000
SWEEP_FROM = 1024
"""Cells kept before the first look for those that ended."""


WORKSPACE_QUOTA, KEY_QUOTA = "workspace-quota", "key-quota"
QUOTAS = frozenset({WORKSPACE_QUOTA, KEY_QUOTA})
"""The policies of quotas; a rate limit that refuses as well is told first."""

T = TypeVar("T")


class Demand(Struct, frozen=True, gc=False):
    """One limit that a check must keep: at most `limit` units in each cell of `window` for this holder.

    `window` is seconds, or a calendar period (`day`, `month`). `policy` names it in the `RateLimit` header
    fields. `on_outage` says what holds while no grants can be had. In cells that start before `since` (µs)
    at most `before` holds, if there was something before. A quota since `since` takes the place of any
    earlier one in the cell that runs, a larger one too.
    """

    policy: str
    holder: str
    limit: int
    window: int | str
    on_outage: str = "static"
    before: int | None = None
    since: int = 0

    def within(self, start: int) -> int:
        """The limit in the cell that starts at this unix second."""
        if self.before is None or start * SECOND >= self.since:
            return self.limit
        return min(self.limit, self.before)


class LimitState(Struct, frozen=True, gc=False):
    """One limit as its caller sees it. `reset` is the unix second at which its cell ends.

    `outage`: it may not be spent at all, there is only nobody who could grant more of it just now.
    """

    policy: str
    limit: int
    remaining: int
    reset: int
    window: int
    outage: bool = False


class Spending(Struct, frozen=True, gc=False):
    """Whether the cost was spent, and the tightest of the limits afterwards, of those that refused if any.

    `later`: it was not, and may be in a moment; nothing is decided yet.
    """

    allowed: bool
    tightest: LimitState
    later: bool = False


class Limits(Protocol):
    """Where checks spend."""

    @property
    def away(self) -> bool:
        """Whether what grants them cannot be reached just now, so that outages are what `on_outage` says."""
        ...

    def spend(self, demands: Sequence[Demand], cost: int, now: int, *, patient: bool = False) -> Spending:
        """Spend `cost` on every demand or on none; a cost of 0 only looks, and is always allowed.

        `now` is wall time in µs. `patient`: the caller can await `granted` when the answer is `later`.
        Refuses with `cost_exceeds_limit` what no cell could ever hold.
        """
        ...

    async def granted(self, demands: Sequence[Demand], cost: int, within: float) -> None:
        """Wait until it is worth asking again, `within` seconds at most."""
        ...

    async def ready(self, within: float) -> None:
        """Wait until a check need not wait for its first tokens any more, `within` seconds at most."""
        ...

    async def start(self) -> None:
        """Begin to get hold of what can be spent."""
        ...

    async def stop(self) -> None:
        """End, and give back what is held."""
        ...


class _Cell:
    """One cell of one holder, which ends at `ends` (µs). Its limit and what is shown only ever fall, but for
    a quota that is raised.
    """

    __slots__ = ("ends", "limit", "shown", "since", "spent", "window")

    def __init__(self, start: int, end: int, limit: int, since: int) -> None:
        self.since = since
        self.window = end - start
        self.ends = end * SECOND
        self.limit = self.shown = limit
        self.spent = 0


class FixedWindow:
    """Exact fixed windows in memory: a lowered limit binds at once, a raised one from the next cell.

    Time never goes back here, so that a cell which was dropped cannot be spent a second time.
    """

    away = False

    def __init__(self) -> None:
        self._cells: dict[tuple[str, int | str], _Cell] = {}
        self._now = 0
        self._sweep_at = SWEEP_FROM

    @property
    def kept(self) -> int:
        """How many cells are in memory."""
        return len(self._cells)

    async def granted(self, demands: Sequence[Demand], cost: int, within: float) -> None:
        """At once: nothing ever comes later here."""

    async def ready(self, within: float) -> None:
        """At once: it is all here."""

    async def start(self) -> None:
        """Nothing to get hold of."""

    async def stop(self) -> None:
        """Nothing to give back."""

    def spend(self, demands: Sequence[Demand], cost: int, now: int, *, patient: bool = False) -> Spending:
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
                    return Spending(False, _refused(demand, cell))
                cell.spent += cost
            return Spending(True, _state(demand, cell))
        return self._spend_all(demands, cost)

    def _spend_all(self, demands: Sequence[Demand], cost: int) -> Spending:
        cells = [self._cell(demand) for demand in demands]
        if cost:
            for demand in demands:
                if cost > demand.limit:
                    raise beyond(demand)
            pairs = zip(demands, cells, strict=True)
            short = [(demand, cell) for demand, cell in pairs if cell.limit - cell.spent < cost]
            if short:
                return Spending(False, tightest([_refused(*each) for each in first_refused(short)]))
            for cell in cells:
                cell.spent += cost
        states = [_state(demand, cell) for demand, cell in zip(demands, cells, strict=True)]
        return Spending(True, tightest(states))

    def _cell(self, demand: Demand) -> _Cell:
        """The current cell of this demand; it is never older than one that was handed out before."""
        name = (demand.holder, demand.window)
        cell = self._cells.get(name)
        if cell is None or cell.ends <= self._now:
            if cell is None and len(self._cells) >= self._sweep_at:
                self._sweep()
            start, end = span(demand.window, self._now // SECOND)
            cell = self._cells[name] = _Cell(start, end, demand.within(start), demand.since)
        elif demand.limit < cell.limit:
            cell.limit = demand.limit
        elif demand.policy in QUOTAS and demand.since > cell.since:
            cell.shown += demand.limit - cell.limit
            cell.limit, cell.since = demand.limit, demand.since
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


def tightest(states: list[LimitState]) -> LimitState:
    """The one that stops its caller first; of equals the one that lasts longest."""
    return min(states, key=lambda state: (state.remaining, -state.reset))


def first_refused(short: list[tuple[Demand, T]]) -> list[tuple[Demand, T]]:
    """Of the limits that refuse, those that are told: rate limits before quotas."""
    return [each for each in short if each[0].policy not in QUOTAS] or short


def _state(demand: Demand, cell: _Cell) -> LimitState:
    # less than nothing is left when the limit was lowered after more had been spent
    left = cell.limit - cell.spent if cell.limit > cell.spent else 0
    cell.shown = min(cell.shown, left)
    return LimitState(demand.policy, cell.limit, cell.shown, cell.ends // SECOND, cell.window)


def _refused(demand: Demand, cell: _Cell) -> LimitState:
    """Who is refused has nothing left, and nobody is shown more afterwards."""
    cell.shown = 0
    return _state(demand, cell)
