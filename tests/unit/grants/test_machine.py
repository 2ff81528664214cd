"""Whatever is lost, repeated, late, killed, restarted or changed: no cell admits more than its limit."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyledger.events import RateLimit
from keyledger.verification.limits import Demand
from services.keys.domain.limits import changed
from tests.support.grant_world import SECOND, GrantWorld, PlayedVerifier

HOLDERS = ("ws_a", "key_b")
PICK = st.integers(0, 1000)


def _demand(holder: str, limit: RateLimit, outage: str = "static") -> Demand:
    return Demand("limit", holder, limit.limit, limit.window_seconds, outage, limit.before, limit.since)


class Grants(RuleBasedStateMachine):
    """Two granters, one of them a standby, up to four verifiers, two limits."""

    @initialize(skews=st.tuples(st.integers(-1500, 1500), st.integers(-1500, 1500)), count=st.integers(1, 3))
    def begin(self, skews: tuple[int, int], count: int) -> None:
        self.world = GrantWorld(2, (skews[0] * 1000, skews[1] * 1000))
        self.limits = {"ws_a": [RateLimit(60, 60)], "key_b": [RateLimit(7, 10)]}
        self.changed: dict[str, list[int]] = {holder: [0] for holder in HOLDERS}
        self.world.most = lambda demand, start: self._most(demand.holder, start)
        self.world.granters[0].tick(self.world.now)
        for _ in range(count):
            verifier = self.world.add()
            self.world.ask(verifier, anyway=True)
        self.world.settle()

    def _verifier(self, pick: int) -> PlayedVerifier | None:
        known = list(self.world.verifiers.values())
        return known[pick % len(known)] if known else None

    @rule(pick=PICK, holder=st.sampled_from(HOLDERS), cost=st.integers(1, 5), times=st.integers(1, 30),
          outage=st.sampled_from(["static", "closed"]))  # fmt: skip
    def request(self, pick: int, holder: str, cost: int, times: int, outage: str) -> None:
        verifier = self._verifier(pick)
        if verifier is not None:
            self._spend(verifier, holder, cost, times, outage)

    def _spend(self, verifier: PlayedVerifier, holder: str, cost: int, times: int, outage: str) -> int:
        """Ask so many times, or until one is refused; how many were let in."""
        versions = self.limits[holder]
        limit = versions[min(verifier.seen.get(holder, 0), len(versions) - 1)]
        demand = _demand(holder, limit, outage)
        for admitted in range(times):
            spending = self.world.spend(verifier, demand, min(cost, limit.limit))
            if spending is None or not spending.allowed:
                return admitted
        return times

    @rule(holder=st.sampled_from(HOLDERS), talk=st.booleans())
    def drain(self, holder: str, talk: bool) -> None:
        """Everybody takes all that there is, at once or with all the grants that can be had."""
        self._drain(holder, talk)

    def _drain(self, holder: str, talk: bool, cut_off: str = "") -> None:
        fruitless = 0
        while fruitless < 2:
            verifiers = list(self.world.verifiers.values())
            admitted = sum(self._spend(verifier, holder, 1, 150, "static") for verifier in verifiers)
            fruitless = 0 if admitted and talk else fruitless + 1
            if talk:
                self.world.settle(cut_off)

    @rule(pick=PICK, holder=st.sampled_from(HOLDERS), at=st.integers(0, 1), seconds=st.integers(1, 200))
    def cut_off(self, pick: int, holder: str, at: int, seconds: int) -> None:
        """One verifier hears nothing for a while; all take what they can when it is over."""
        verifier = self._verifier(pick)
        if verifier is None:
            return
        for _ in range(seconds):
            self.world.second(at, verifier.name)
        self._drain(holder, True, verifier.name)

    @rule(pick=PICK, anyway=st.booleans())
    def ask(self, pick: int, anyway: bool) -> None:
        verifier = self._verifier(pick)
        if verifier is not None:
            self.world.ask(verifier, anyway=anyway)

    @rule(pick=PICK)
    def lose_patience(self, pick: int) -> None:
        verifier = self._verifier(pick)
        if verifier is not None:
            verifier.talk.unanswered(quick=True)

    @precondition(lambda self: self.world.letters)
    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        self.world.deliver(pick % len(self.world.letters))

    @precondition(lambda self: self.world.history)
    @rule(pick=PICK, holder=st.sampled_from(HOLDERS))
    def duplicate(self, pick: int, holder: str) -> None:
        """Something said before is heard again, however old; then all take what they can, and a newcomer."""
        self._drain(holder, True)
        newcomer = self.world.add()
        self.world.hand_over(self.world.history[pick % len(self.world.history)])
        self.world.ask(newcomer, anyway=True)
        self.world.settle()
        self._drain(holder, True)
        del self.world.verifiers[newcomer.name]

    @precondition(lambda self: self.world.letters)
    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        self.world.letters.pop(pick % len(self.world.letters))

    @rule()
    def calm(self) -> None:
        for verifier in self.world.verifiers.values():
            self.world.ask(verifier, anyway=True)
        self.world.settle()

    @rule(seconds=st.integers(1, 70), at=st.integers(0, 1))
    def run_well(self, seconds: int, at: int) -> None:
        for _ in range(seconds):
            self.world.second(at)

    @rule(seconds=st.sampled_from([0.01, 0.5, 1, 2, 5, 10, 30, 61, 150]))
    def wait(self, seconds: float) -> None:
        self.world.now += int(seconds * SECOND)

    @rule(at=st.integers(0, 1))
    def tick(self, at: int) -> None:
        self.world.granters[at].tick(self.world.now)

    @rule(at=st.integers(0, 1))
    def kill_granter(self, at: int) -> None:
        self.world.granters[at].granter = None

    @rule(at=st.integers(0, 1))
    def stop_granter(self, at: int) -> None:
        self.world.granters[at].stop()

    @precondition(lambda self: len(self.world.verifiers) < 4)
    @rule()
    def join(self) -> None:
        self.world.ask(self.world.add(), anyway=True)

    @rule(pick=PICK, known_dead=st.booleans(), fresh=st.booleans(), holder=st.sampled_from(HOLDERS))
    def restart(self, pick: int, known_dead: bool, fresh: bool, holder: str) -> None:
        """One is killed, having spent all that it held, and another begins in its place."""
        verifier = self._verifier(pick)
        if verifier is not None:
            while fresh and self.world.now // SECOND % 60:
                self.world.second(0)
            self._spend(verifier, holder, 1, 150, "static")
            del self.world.verifiers[verifier.name]
            self.world.ask(self.world.add(verifier.name if known_dead else ""), anyway=True)
            self._drain(holder, True)

    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        verifier = self._verifier(pick)
        if verifier is not None:
            verifier.talk.unanswered(quick=True)
            verifier.held.give_up()
            self.world.ask(verifier, leaving=True)
            del self.world.verifiers[verifier.name]

    @rule(holder=st.sampled_from(HOLDERS), limit=st.integers(1, 120))
    def change_limit(self, holder: str, limit: int) -> None:
        old = self.limits[holder][-1]
        new = changed(RateLimit(limit, old.window_seconds), old, self.world.now)
        assert isinstance(new, RateLimit)
        self.limits[holder].append(new)
        self.changed[holder].append(self.world.now)

    def _most(self, holder: str, start: int) -> int:
        """The largest limit that anybody may have known when the cell began: a larger one holds later."""
        versions = zip(self.limits[holder], self.changed[holder], strict=True)
        return max(limit.limit for limit, since in versions if since <= start * SECOND)

    @rule(pick=PICK, holder=st.sampled_from(HOLDERS), limit=st.integers(1, 1200))
    def change_what_one_has_spent(self, pick: int, holder: str, limit: int) -> None:
        """Everybody knows of it at once, also who has not touched the cell yet."""
        verifier = self._verifier(pick)
        if verifier is None:
            return
        while self._spend(verifier, holder, 1, 150, "static"):
            self.world.settle()
        self.change_limit(holder, limit)
        for each in self.world.verifiers.values():
            each.seen[holder] = len(self.limits[holder]) - 1
        self._drain(holder, True)

    @rule(pick=PICK, holder=st.sampled_from(HOLDERS))
    def learn(self, pick: int, holder: str) -> None:
        verifier = self._verifier(pick)
        if verifier is not None:
            seen = verifier.seen.get(holder, 0)
            verifier.seen[holder] = min(seen + 1, len(self.limits[holder]) - 1)

    @invariant()
    def never_more_is_charged_than_the_largest_limit(self) -> None:
        if not hasattr(self, "world"):
            return
        for played in self.world.granters:
            if played.granter is None or any(
                holder.inherited for holder in played.granter.shares.holders.values()
            ):
                # what an earlier granter may have leased is counted at its most: then too little is granted
                continue
            for cell, pool in played.granter.pools.items():
                out = sum(holding.charged for holding in pool.holdings.values())
                # what is taken unasked is counted rounded up
                assert out <= max(pool.limit, self._most(pool.holder, cell[2])) + len(pool.holdings)


TestGrants = Grants.TestCase
TestGrants.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
