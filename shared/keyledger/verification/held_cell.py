"""One cell of one meter as a verifier holds it."""

from __future__ import annotations

from keyledger.grants import MORE
from keyledger.verification.limits import SECOND, Demand, LimitState

LOW = 4
"""More is asked for when one part in so many of what came last is left."""


class HeldCell:
    """One cell until `until` (µs): `tokens` held and `spent`, what the pool was last said to have, and what
    was shown.

    Its limit and what is shown only ever fall, but for a quota that is raised, at `since`. `need` is what is
    waited for, `least` the smallest cost that waits, and `scarce` that no more than `pool` is left for any;
    `said` is what the granter was last told to be spent, `quiet` how many looks ago, and `stated`
    is False while it has to hear how the cell stands.
    """

    __slots__ = (
        "ends", "least", "limit", "low", "need", "pool", "quiet", "said", "scarce", "shown", "since",
        "spent", "start", "state", "stated", "tokens", "until", "window",
    )  # fmt: skip

    def __init__(self, start: int, ends: int, limit: int, tokens: int, since: int = 0) -> None:
        self.start = start
        self.since = since
        self.ends = ends
        self.until = ends * SECOND
        self.window = ends - start
        self.limit = limit
        self.tokens = tokens
        self.spent = self.said = 0
        self.pool = limit - tokens
        self.shown = limit
        self.state = MORE
        self.low = tokens // LOW
        self.need = self.least = 0
        self.scarce = False
        self.stated = True
        self.quiet = 0


def shown(demand: Demand, cell: HeldCell, *, outage: bool = False) -> LimitState:
    """The state as callers see it: what remains never grows within a cell."""
    cell.shown = min(cell.shown, cell.tokens + cell.pool)
    return LimitState(demand.policy, cell.limit, cell.shown, cell.ends, cell.window, outage)
