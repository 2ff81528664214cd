"""What a verifier holds of each cell, and how it spends it. Pure: the time is told, in the granter's clock.

A cell is taken up at its first use, with what may be taken of it unasked; everything else comes by grants.
What is given back is gone here before anybody hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keyledger.grants import EXHAUSTED, MORE, NOBODY, SCARCE, Grant, Recalled, Want, is_quick, span
from keyledger.verification.held_cell import LOW, HeldCell, shown
from keyledger.verification.leases import Leases
from keyledger.verification.limits import (
    QUOTAS,
    SECOND,
    SWEEP_FROM,
    Demand,
    LimitState,
    Spending,
    beyond,
    first_refused,
    tightest,
)

QUIET = 2
"""A cell is told of when nothing was said about it for so many looks."""
LOOKED_AT = 1000
LEAST_AHEAD = 100
"""A killed holder loses one in a hundred of a committed cell at most."""


class Held:
    """The tokens of one verifier. `away`: no grants can be had, in the committed lane, in the quick one."""

    def __init__(self, leases: Leases, wake: Callable[[bool], None] | None = None) -> None:
        """`wake` is told when something is due in the quick lane (True) or the committed one."""
        self.leases = leases
        self.away = [False, False]
        self.hidden: set[tuple[str, int | str]] = set()
        """Meters of which somebody was refused before there was a cell: of their first nothing is shown."""
        self._wake: Callable[[bool], None] = wake or _nobody
        self.cells: dict[tuple[str, int | str], HeldCell] = {}
        self.due: tuple[dict[tuple[str, int | str], None], dict[tuple[str, int | str], None]] = ({}, {})
        """The meters to ask about, of the committed lane and of the quick one."""
        self._now = 0
        self._ends = 0
        self._sweep_at = SWEEP_FROM
        self._windows: set[int | str] = set()
        self._looking: list[tuple[tuple[str, int | str], HeldCell]] = []

    def spend(self, demands: Sequence[Demand], cost: int, now: int, patient: bool = False) -> Spending:
        """As `Limits.spend`; `now` is µs of the granter's clock."""
        if now > self._now:
            self._now = now
        else:
            now = self._now
        if len(demands) == 1:
            # most keys have no limit of their own, and need no list of cells
            demand = demands[0]
            cell = self.cells.get((demand.holder, demand.window))
            if cell is None or cell.until <= now or demand.limit < cell.limit:
                cell = self._cell(demand, now)
            if cost > demand.limit:
                raise beyond(demand)
            held = cell.tokens
            if held >= cost:
                if cost:
                    cell.tokens = held = held - cost
                    cell.spent += cost
                    if held <= cell.low:
                        self._want_ahead(demand, cell)
                held += cell.pool
                if held < cell.shown:  # noqa: PLR1730 (this is the hot path: a call costs more)
                    cell.shown = held
                return Spending(
                    True, LimitState(demand.policy, cell.limit, cell.shown, cell.ends, cell.window)
                )
            cells = [cell]
        else:
            cells = [self._cell(demand, now) for demand in demands]
        return self._spend_all(demands, cells, cost, patient)

    def has(self, demands: Sequence[Demand], cost: int) -> bool:
        """Whether waiting is over: it is all there, or something of it can never be."""
        for demand in demands:
            cell = self.cells.get((demand.holder, demand.window))
            if cell is None or cell.state != MORE:
                return True
            if cell.tokens < cost:
                return False
        return True

    def wants(self, *, quick: bool, most: int) -> list[Want]:
        """What the next message of a lane says, at most so many cells; they are not due any more."""
        due, wants = self.due[quick], list[Want]()
        while due and len(wants) < most:
            name = next(iter(due))
            del due[name]
            cell = self.cells.get(name)
            if cell is None or cell.until <= self._now:
                continue
            need = least = 0
            if cell.need:
                # who waits will first take what has come by now
                need = max(cell.need - cell.tokens, 1 if cell.tokens <= cell.low else 0)
                least = max(0, cell.least - cell.tokens)
            cell.need = cell.least = 0
            if need or not cell.stated:
                cell.stated = True
                cell.said = cell.spent
                cell.quiet = 0
                said = (cell.start, cell.limit, cell.spent, cell.tokens)
                wants.append(Want(*name, *said, need, cell.since, least))
        return wants

    def look(self) -> None:
        """Make due the cells of which something was spent since the granter was last told, some looks ago.

        At most `LOOKED_AT` cells each time, in turns.
        """
        if not self._looking:
            self._looking = list(self.cells.items())
        for name, cell in self._looking[-LOOKED_AT:]:
            if cell.spent != cell.said and cell.until > self._now:
                cell.quiet += 1
                if cell.quiet >= QUIET:
                    self._state(name, cell)
        del self._looking[-LOOKED_AT:]

    def tell(self, holder: str) -> None:
        """Make due what was spent of this holder's cells since the granter was last told."""
        for window in self._windows:
            name = (holder, window)
            cell = self.cells.get(name)
            if cell is not None and cell.spent != cell.said and cell.until > self._now:
                self._state(name, cell)

    def unheard(self, wants: Sequence[Want]) -> None:
        """These were said to nobody, as far as is known: they are due again."""
        for want in wants:
            cell = self._of(want.holder, want.window, want.start)
            if cell is not None:
                cell.stated = False
                cell.need = max(cell.need, want.need)
                self._due(want.holder, want.window)

    def take(self, grants: Sequence[Grant]) -> None:
        """Take up what was granted; what is for another cell is lost."""
        for grant in grants:
            cell = self._of(grant.holder, grant.window, grant.start)
            if cell is None:
                continue
            cell.tokens += grant.amount
            cell.pool = grant.left
            if grant.amount:
                cell.low = cell.tokens // LOW
            cell.scarce = grant.state == SCARCE
            if cell.state != EXHAUSTED:
                cell.state = MORE if cell.scarce else grant.state
            if grant.state == EXHAUSTED:
                cell.pool = 0

    def without(self, cells: Sequence[Recalled]) -> None:
        """Take nothing unasked of these cells: the lease that was accepted does not cover them."""
        for each in cells:
            name, (start, ends) = (each.holder, each.window), span(each.window, each.start)
            if name not in self.cells or self.cells[name].start < start:
                self._put(name, HeldCell(start, ends, each.limit, 0))

    def give_back(self, recalled: Sequence[Recalled], now: int) -> None:
        """Give up what is held of these cells, and what might be taken of them later."""
        self._now = max(self._now, now)
        for each in recalled:
            name = (each.holder, each.window)
            cell = self.cells.get(name)
            if cell is None or cell.until <= self._now:
                start, ends = span(each.window, self._now // SECOND)
                if start != each.start:
                    continue
                cell = self._put(name, HeldCell(start, ends, each.limit, 0))
                self._state(name, cell)
            elif cell.start == each.start and (cell.tokens or cell.said != cell.spent):
                cell.tokens = 0
                self._state(name, cell)

    def give_up(self) -> None:
        """Give up everything, for good."""
        for name, cell in self.cells.items():
            if cell.until > self._now and cell.tokens:
                cell.tokens = 0
                self._state(name, cell)

    def _spend_all(
        self, demands: Sequence[Demand], cells: list[HeldCell], cost: int, patient: bool
    ) -> Spending:
        for demand in demands:
            if cost > demand.limit:
                raise beyond(demand)
        short: list[tuple[Demand, HeldCell]] = []
        for demand, cell in zip(demands, cells, strict=True):
            if cell.tokens < cost and not self._open(demand, cell):
                short.append((demand, cell))
        if short:
            return self._refused(short, cost, patient)
        states: list[LimitState] = []
        for demand, cell in zip(demands, cells, strict=True):
            if cost:
                cell.tokens = max(0, cell.tokens - cost)
                cell.spent += cost
                if cell.tokens <= cell.low:
                    self._want_ahead(demand, cell)
            states.append(shown(demand, cell))
        return Spending(True, tightest(states))

    def _refused(self, short: list[tuple[Demand, HeldCell]], cost: int, patient: bool) -> Spending:
        """The refusal, by the limits that are known to refuse if there are any.

        Else grants are asked for, and somebody patient may wait for them.
        """
        known = [each for each in short if not self._may_come(*each, cost)]
        later = patient and not known
        states: list[LimitState] = []
        for demand, cell in first_refused(known or short):
            if not later:
                cell.shown = 0
            outage = self._ungranted(demand, cell) and cell.spent + cost <= cell.limit
            states.append(shown(demand, cell, outage=outage))
        for demand, cell in short:
            if not known:
                cell.need += cost
                cell.least = min(cell.least, cost) if cell.least else cost
            # an absent granter is asked again though nobody waits: it is back once it answers
            if not known or self.away[is_quick(demand.window)]:
                self._want(demand, cell)
        return Spending(False, tightest(states), later)

    def _may_come(self, demand: Demand, cell: HeldCell, cost: int) -> bool:
        """Whether a grant may be had that makes up for what is missing."""
        away = self.away[is_quick(demand.window)]
        there = not cell.scarce or cost <= cell.tokens + cell.pool
        return cell.state == MORE and there and cell.spent + cost <= cell.limit and not away

    def _open(self, demand: Demand, cell: HeldCell) -> bool:
        """Whether this is let in without a token."""
        return demand.on_outage == "open" and self._ungranted(demand, cell)

    def _ungranted(self, demand: Demand, cell: HeldCell) -> bool:
        """Whether nobody grants of this cell, rather than that it is spent."""
        away = self.away[is_quick(demand.window)]
        return cell.state == NOBODY or (away and cell.state != EXHAUSTED)

    def _cell(self, demand: Demand, now: int) -> HeldCell:
        """The current cell of this demand; it is never older than one that was handed out before."""
        name = (demand.holder, demand.window)
        cell = self.cells.get(name)
        if cell is None or cell.until <= now:
            start, ends = span(demand.window, now // SECOND)
            tokens, limit = 0, demand.within(start)
            if is_quick(demand.window):
                tokens = self.leases.unasked(start, ends, limit, static=demand.on_outage != "closed")
            since = demand.since if demand.policy in QUOTAS else 0
            cell = self._put(name, HeldCell(start, ends, limit, tokens, since))
            if self.hidden and name in self.hidden:
                self.hidden.discard(name)
                cell.shown = 0
            return cell
        if demand.limit < cell.limit:
            self._lower(name, cell, demand)
        elif demand.policy in QUOTAS and demand.since > cell.since:
            self._raise(name, cell, demand)
        return cell

    def _raise(self, name: tuple[str, int | str], cell: HeldCell, demand: Demand) -> None:
        """What is held is still held; there is more where it came from."""
        more = demand.limit - cell.limit
        cell.limit, cell.since = demand.limit, demand.since
        cell.pool += more
        cell.shown += more
        cell.state = MORE
        self._state(name, cell)

    def _lower(self, name: tuple[str, int | str], cell: HeldCell, demand: Demand) -> None:
        """Only who knows what all have spent can say what is left of a smaller limit."""
        limit = cell.limit = demand.limit
        if demand.policy in QUOTAS:
            cell.since = demand.since
        cell.shown = min(cell.shown, max(0, limit - cell.spent))
        cell.pool = min(cell.pool, cell.shown)
        cell.tokens = cell.low = 0
        if cell.spent >= limit:
            cell.state = EXHAUSTED
        self._state(name, cell)

    def _put(self, name: tuple[str, int | str], cell: HeldCell) -> HeldCell:
        if name not in self.cells and len(self.cells) >= self._sweep_at:
            self.cells = {each: kept for each, kept in self.cells.items() if kept.until > self._now}
            self._sweep_at = max(SWEEP_FROM, 2 * len(self.cells))
        self.cells[name] = cell
        self._windows.add(name[1])
        return cell

    def _of(self, holder: str, window: int | str, start: int) -> HeldCell | None:
        cell = self.cells.get((holder, window))
        return cell if cell is not None and cell.start == start else None

    def _want_ahead(self, demand: Demand, cell: HeldCell) -> None:
        """Ask before anybody waits, unless one token is more than may be lost of a small committed cell."""
        if cell.limit >= LEAST_AHEAD or is_quick(demand.window):
            self._want(demand, cell)

    def _want(self, demand: Demand, cell: HeldCell) -> None:
        if cell.state == MORE:
            cell.need = cell.need or 1
            self._due(demand.holder, demand.window)

    def _state(self, name: tuple[str, int | str], cell: HeldCell) -> None:
        cell.stated = False
        self._due(*name)

    def _due(self, holder: str, window: int | str) -> None:
        quick = is_quick(window)
        self.due[quick][holder, window] = None
        self._wake(quick)


def _nobody(quick: bool) -> None:
    del quick
