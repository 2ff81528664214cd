"""A verifier's side of the talk with the granter: one message at a time in each lane, heeded by number.

Pure. What is answered late, or by a granter of an earlier term, is not heeded: its tokens are lost.
"""

from __future__ import annotations

from keyledger.grants import SLOT, Ask, Grants, Recall
from keyledger.verification.holding import Held

MOST_CELLS = 256
"""Cells in one message."""
SECOND = 1_000_000
TRAVEL = 250_000
"""Microseconds that an answer may have been under way."""


class GranterClock:
    """The granter's time, as told and carried on by a steady clock. It never goes back."""

    def __init__(self) -> None:
        self.known = False
        self.base = 0
        """What is added to the steady clock's µs; a sum that goes back stands for no earlier time."""
        self._last = 0

    def told(self, now: int, steady: float) -> None:
        """An answer that arrived at `steady` says that it is `now` (µs), or a little later.

        The latest word counts, unless it only travelled longer than the one before.
        """
        base = now - int(steady * SECOND)
        if not self.known or not 0 <= self.base - base <= TRAVEL:
            self.base = base
        self.known = True

    def now(self, steady: float) -> int:
        """The time in µs."""
        now = self.base + int(steady * SECOND)
        self._last = max(self._last, now)
        return self._last


class Conversation:
    """The messages of one incarnation of a verifier."""

    def __init__(self, verifier: str, held: Held, *, replaces: str = "") -> None:
        """`verifier` names this incarnation for ever; `replaces` one that is certainly dead."""
        self.term = 0
        self.verifier = verifier
        self.held = held
        self._replaces = replaces
        self._seq = [0, 0]
        self._flight: list[Ask | None] = [None, None]

    def in_flight(self, *, quick: bool) -> Ask | None:
        """The message that waits for its answer."""
        return self._flight[quick]

    def renews(self, second: int) -> bool:
        """Whether it is time to ask for a lease of the slot after the next."""
        return self.held.leases.until() < second - second % SLOT + 3 * SLOT

    def next(self, *, quick: bool, anyway: bool = False, leaving: bool = False) -> Ask | None:
        """The next message of a lane, when there is something to say or `anyway`; it is in flight then."""
        wants = () if self.term == 0 else tuple(self.held.wants(quick=quick, most=MOST_CELLS))
        if not (wants or anyway or leaving):
            return None
        self._seq[quick] += 1
        accepted = self.held.leases.accepted
        ask = Ask(self.verifier, self.term, self._seq[quick], wants, accepted, leaving, self._replaces)
        self._flight[quick] = ask
        return ask

    def answered(self, grants: Grants, second: int, *, quick: bool) -> bool:
        """Heed an answer; False when it is of no use. `second` is the granter's clock."""
        ask = self._flight[quick]
        if ask is None or grants.seq != ask.seq or grants.term < self.term:
            return False
        self._flight[quick] = None
        if grants.term != ask.term:
            self.held.unheard(ask.wants)
            if grants.term != self.term:
                self.term = grants.term
                self.held.leases.begin_term()
            return True
        self.held.take(grants.grants)
        self._replaces = ""
        if grants.lease is not None and self.held.leases.accept(grants.lease, second):
            self.held.without(grants.but)
        return True

    def unanswered(self, *, quick: bool) -> None:
        """Wait for the answer in flight no longer; what it said is said again, as it is by then."""
        ask, self._flight[quick] = self._flight[quick], None
        if ask is not None:
            self.held.unheard(ask.wants)

    def recalled(self, recall: Recall, now: int) -> bool:
        """Give back what the granter of this term asks for."""
        if recall.term != self.term:
            return False
        self.held.give_back(recall.cells, now)
        if recall.tell:
            self.held.tell(recall.tell)
        return True
