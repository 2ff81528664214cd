"""A worker's share of every limit: what all workers of a verifier admit is never more than the limit.

The shares of a limit add up to it exactly. Who gets the larger ones differs from holder to holder, so a limit
smaller than the number of workers is not always the same one's. Grants take the place of this.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from keyledger.verification.limits import SECOND, Demand, FixedWindow, LimitState, Spending, beyond


class LimitShare(FixedWindow):
    """`FixedWindow` of one of `of` workers; it shows the whole limit, and what is left of the share."""

    def __init__(self, index: int, of: int) -> None:
        """`index` counts from 0."""
        super().__init__()
        self._index = index
        self._of = of

    def spend(self, demands: Sequence[Demand], cost: int, now: int) -> Spending:
        self._now = max(self._now, now)
        cells = [self._cell(demand) for demand in demands]
        lefts = [
            self.share(demand.holder, cell.limit) - cell.spent
            for demand, cell in zip(demands, cells, strict=True)
        ]
        for demand in demands:
            if cost > demand.limit:
                raise beyond(demand)
        short = [at for at, left in enumerate(lefts) if left < cost] if cost else []
        if not short:
            for cell in cells:
                cell.spent += cost
        states = [
            LimitState(
                demands[at].policy,
                cells[at].limit,
                max(0, lefts[at] if short else lefts[at] - cost),
                cells[at].ends // SECOND,
                demands[at].window,
            )
            for at in (short or range(len(cells)))
        ]
        return Spending(not short, min(states, key=lambda state: (state.remaining, -state.reset)))

    def share(self, holder: str, limit: int) -> int:
        """This worker's part of a holder's limit."""
        whole, rest = divmod(limit, self._of)
        return whole + ((self._index + zlib.crc32(holder.encode())) % self._of < rest)
