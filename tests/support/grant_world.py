"""Granters, verifiers and the messages between them, in memory: whoever plays moves everything by hand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from keyledger.grants import Ask, Grants, Recall, span
from keyledger.verification.conversation import Conversation, GranterClock
from keyledger.verification.holding import Held
from keyledger.verification.leases import Leases
from keyledger.verification.limits import Demand, Spending
from services.usage.domain.granting import Granter, Legacy, Range
from services.usage.domain.shares import Right

SECOND = 1_000_000
HORIZON = 3 * SECOND
NOON = 1_790_000_040
"""A unix second at which a minute begins."""


@dataclass
class Claims:
    """What the database keeps: the term, up to where cells are claimed, rights, and what was left behind."""

    term: int = 0
    until: int = 0
    rights: list[Right] = field(default_factory=list[Right])
    legacy: Legacy | None = None


class Letter(Struct):
    """A message on its way. `to` is a verifier, or empty for the granters."""

    to: str
    body: Ask | Grants | Recall
    quick: bool = True


class PlayedGranter:
    """A granter with its own clock, `skew` µs off."""

    def __init__(self, claims: Claims, skew: int) -> None:
        self.claims = claims
        self.skew = skew
        self.granter: Granter | None = None
        self._until = 0

    def tick(self, world_now: int) -> None:
        """As the service does: claim or extend, then lease, then forget what is over."""
        now, claims = world_now + self.skew, self.claims
        granter = self.granter
        if granter is None:
            if claims.term and claims.legacy is None and now <= claims.until:
                return
            start = 0 if claims.term == 0 else max(claims.until, 0)
            claims.term += 1
            granter = self.granter = Granter(claims.term, claims.legacy)
            if claims.legacy is None:
                granter.shares.inherit(claims.rights)
            claims.legacy = None
            start = start if claims.term == 1 else max(start, now)
            claims.until = self._until = max(now, start) + HORIZON
            granter.claim(Range(start, claims.until))
        elif claims.term == granter.term:
            start = max(self._until, now)
            claims.until = self._until = max(start, now + HORIZON)
            granter.claim(Range(start, claims.until))
        else:
            # its term is over: it leases no more
            return
        planned, rights = granter.plan(now)
        if planned:
            claims.rights = rights
            granter.offer(planned)
        granter.tidy(now)

    def stop(self) -> None:
        """Stop in order: what is granted is left to the next one."""
        granter, self.granter = self.granter, None
        if granter is not None and granter.term == self.claims.term:
            self.claims.legacy = granter.legacy()


class PlayedVerifier:
    """One incarnation; `seen` is what it knows of each holder's limit."""

    def __init__(self, name: str, replaces: str = "") -> None:
        self.name = name
        self.held = Held(Leases())
        self.talk = Conversation(name, self.held, replaces=replaces)
        self.clock = GranterClock()
        self.seen: dict[str, int] = {}


class GrantWorld:
    """Everything, and what was admitted of each cell."""

    def __init__(self, granters: int = 2, skews: tuple[int, ...] = (0, 0)) -> None:
        self.now = NOON * SECOND
        self.claims = Claims()
        self.granters = [PlayedGranter(self.claims, skews[at]) for at in range(granters)]
        self.verifiers: dict[str, PlayedVerifier] = {}
        self.letters: list[Letter] = []
        self.history: deque[Letter] = deque(maxlen=80)
        self.admitted: Counter[tuple[str, int | str, int]] = Counter()
        self.largest: dict[tuple[str, int | str, int], int] = {}
        self.most: Callable[[Demand, int], int] = lambda demand, _: demand.limit
        """What a cell that starts then may admit, by whoever changes limits."""
        self.sent = 0
        self._made = 0

    def steady(self) -> float:
        """The verifiers' steady clock."""
        return self.now / SECOND - 1_700_000_000

    def add(self, replaces: str = "") -> PlayedVerifier:
        """Start a verifier."""
        self._made += 1
        verifier = PlayedVerifier(f"v{self._made}", replaces)
        self.verifiers[verifier.name] = verifier
        return verifier

    def spend(self, verifier: PlayedVerifier, demand: Demand, cost: int = 1) -> Spending | None:
        """A check, once the verifier knows the time."""
        if not verifier.clock.known:
            return None
        now = verifier.clock.now(self.steady())
        spending = verifier.held.spend((demand,), cost, now, patient=True)
        start, ends = span(demand.window, now // SECOND)
        cell = (demand.holder, demand.window, spending.tightest.reset - (ends - start))
        self.largest[cell] = max(self.largest.get(cell, 0), self.most(demand, cell[2]))
        if spending.allowed:
            self.admitted[cell] += cost
            assert self.admitted[cell] <= self.largest[cell], (cell, self.admitted[cell])
        return spending

    def ask(
        self, verifier: PlayedVerifier, *, quick: bool = True, anyway: bool = False, leaving: bool = False
    ) -> None:
        """Send a verifier's next message, if none is in flight."""
        if verifier.talk.in_flight(quick=quick) is None:
            ask = verifier.talk.next(quick=quick, anyway=anyway, leaving=leaving)
            if ask is not None:
                self.post(Letter("", ask, quick))

    def post(self, letter: Letter) -> None:
        """Put a message on its way."""
        self.sent += 1
        self.letters.append(letter)
        self.history.append(letter)

    def deliver(self, at: int = 0) -> None:
        """Hand a message over."""
        self.hand_over(self.letters.pop(at))

    def hand_over(self, letter: Letter) -> None:
        """Hand over a message, or once more one that was handed over long ago."""
        if isinstance(letter.body, Ask):
            for played in self.granters:
                self._heard(played, letter.body, letter.quick)
            return
        verifier = self.verifiers.get(letter.to)
        if verifier is None:
            return
        if isinstance(letter.body, Recall):
            verifier.clock.told(letter.body.now, self.steady())
            verifier.talk.recalled(letter.body, verifier.clock.now(self.steady()))
        else:
            self._answered(verifier, letter.body, letter.quick)

    def _heard(self, played: PlayedGranter, ask: Ask, quick: bool) -> None:
        if played.granter is None:
            return
        answer = played.granter.answer(ask, self.now + played.skew, quick=quick)
        if answer is None:
            return
        grants, recall = answer
        self.post(Letter(ask.verifier, grants, quick))
        if recall is not None:
            for name in self.verifiers:
                self.post(Letter(name, recall))

    def _answered(self, verifier: PlayedVerifier, grants: Grants, quick: bool) -> None:
        if grants.term >= verifier.talk.term:
            verifier.clock.told(grants.now, self.steady())
        verifier.talk.answered(grants, verifier.clock.now(self.steady()) // SECOND, quick=quick)

    def second(self, granter: int = 0, cut_off: str = "") -> None:
        """A second in which nothing goes wrong, but that one verifier may be cut off."""
        self.now += SECOND
        self.granters[granter].tick(self.now)
        for verifier in self.verifiers.values():
            if verifier.name == cut_off:
                continue
            now = verifier.clock.now(self.steady()) // SECOND
            if verifier.talk.term == 0 or verifier.talk.renews(now):
                self.ask(verifier, anyway=True)
        self.settle(cut_off)

    def settle(self, cut_off: str = "") -> None:
        """Deliver everything, and let everybody say what there is to say."""
        for _ in range(200):
            while self.letters:
                self.deliver()
            for verifier in self.verifiers.values():
                if verifier.name != cut_off:
                    self.ask(verifier)
            if not self.letters:
                return
