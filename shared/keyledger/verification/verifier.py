"""The verifier: may the holder of this token do this, now?

Answers from memory, without an await, and only while what it knows is provably fresh enough. It is
operator code: it holds the peppers and every workspace's digests, and is not for customers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from keyledger.clock import Clock
from keyledger.digest import Peppers, foreign
from keyledger.errors import invalid_request, unavailable
from keyledger.token import DEFAULT_PREFIX, ENVIRONMENTS, Token, Unparsed, parse
from keyledger.verification.follower import Follower
from keyledger.verification.freshness import NEVER
from keyledger.verification.limits import Limits
from keyledger.verification.projection import KeyRecord, SecretRecord
from keyledger.verification.proving import Proofs, Prover, Unproven
from keyledger.verification.store import Store
from keyledger.verification.uses import Uses
from keyledger.verification.verdict import NOT_FOUND, SCOPE, VALID, Needs, Verdict, judge, parse_address

MAX_STALENESS = 300.0
"""Seconds that the state may be old unless the request asks for less."""
STATES = ("starting", "ready", "degraded", "held", "stale")
"""`held`: nothing can be committed, so it goes on for a bounded time; `degraded`: no live events arrive."""
_LOOK = Needs(cost=0)


class Verifier:
    """Composes the store, what keeps it fresh, the limits and the report of uses.

    `async with verifier:` starts and stops following and reporting; `check` may be called in between.
    """

    def __init__(
        self,
        store: Store,
        follower: Follower,
        *,
        peppers: Peppers,
        limits: Limits,
        uses: Uses | None,
        clock: Clock,
        prefixes: Iterable[str] = (DEFAULT_PREFIX,),
        max_staleness: float = MAX_STALENESS,
        prover: Prover | None = None,
    ) -> None:
        """`prefixes`: the token prefix of today and the old ones; `max_staleness` in seconds.

        Without a `prover` a secret that no digest under a held pepper can tell is nobody's.
        """
        self.store = store
        self.follower = follower
        self.uses = uses
        self.prefixes = tuple(prefixes)
        self.max_staleness = max_staleness
        self._peppers = peppers
        self._limits = limits
        self._now: Callable[[], int] = clock.now
        self._proofs = None if prover is None else Proofs(prover, follower.reached, clock)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to follow and to report; `check` refuses with `unavailable` until the log is read."""
        if self.uses is not None:
            await self.uses.start()
        if self._proofs is not None:
            await self._proofs.start()
        await self.follower.start()

    async def stop(self) -> None:
        """Stop following, then get the last uses out, within a few seconds."""
        if self._proofs is not None:
            await self._proofs.stop()
        await self.follower.stop()
        await self.follower.leave()
        if self.uses is not None:
            await self.uses.stop()

    @property
    def state(self) -> str:
        """The one of `STATES` that holds: whether verdicts can be given, and what of it is makeshift."""
        age, freshness = self.follower.age(), self.follower.freshness
        if self.store.epoch is None or (age == NEVER and not self.follower.forks):
            return "starting"
        if age > self.max_staleness:
            return "stale"
        if freshness.held:
            return "held"
        return "ready" if self.follower.hearing else "degraded"

    def check(
        self,
        token: str,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        ip: str | None = None,
        cost: int = 1,
        max_staleness: float | None = None,
    ) -> Verdict:
        """The verdict on `token`, whose use is reported unless `cost` is 0.

        Refuses with `invalid_request` for needs that no key could be asked for, `cost_exceeds_limit`, and
        `stale` or `unavailable` when nothing can be said now. `Unproven`, which is `busy`, asks for `prove`
        first. `max_staleness` is in seconds.
        """
        environments = () if environment is None else (environment,)
        needs = needs_of(scopes=scopes, environments=environments, ip=ip, cost=cost)
        return self.judge(token, needs, max_staleness=max_staleness)

    def judge(self, text: str, needs: Needs, *, max_staleness: float | None = None) -> Verdict:
        """As `check`, for needs that are known to be well formed."""
        age = self._fresh(max_staleness)
        presented = parse(text, self.prefixes)
        shown, record = self._named(presented, text)
        workspace = None if record is None else self.store.workspace(record.workspace_id)
        now = self._now()
        verdict = judge(
            presented, shown, record, workspace, needs, peppers=self._peppers, limits=self._limits, now=now
        )
        if verdict.code == NOT_FOUND and self._undecided(presented, text, record):
            raise Unproven(text)
        if needs.cost and record is not None and self.uses is not None:
            # a wrong secret is counted against the key that was named, and told to nobody
            spent = needs.cost if verdict.code == VALID else 0
            self.uses.count(record, verdict.code, cost=spent, now=now)
        if needs.cost and verdict.code == VALID and record is not None:
            self._notice(text, record, verdict.secret, now)
        return Verdict(verdict.code, verdict.key, verdict.limit, self.store.position, int(age * 1000))

    async def prove(self, unproven: Unproven) -> None:
        """Have the key service tell about the token; then it can be judged. Refuses with `busy`."""
        if self._proofs is None:
            raise unproven
        await self._proofs.prove(unproven.presented.reveal())

    async def decidable(self, texts: Iterable[str]) -> None:
        """Have the key service tell about those of these tokens that cannot be judged, or refuse: `busy`."""
        for text in texts:
            if not self._lacking(*self._candidate(text)):
                continue
            try:
                self.judge(text, _LOOK)
            except Unproven as unproven:
                await self.prove(unproven)

    def _candidate(self, text: str) -> tuple[Token | Unparsed, KeyRecord | None]:
        presented = parse(text, self.prefixes)
        return presented, self.store.get(presented.key_id) if isinstance(presented, Token) else None

    def _named(self, presented: Token | Unparsed, text: str) -> tuple[str | bytes, KeyRecord | None]:
        """What stands for the token in digests, and the record of the key it names, if any."""
        if isinstance(presented, Token):
            return text, self.store.get(presented.key_id)
        if presented is Unparsed.MALFORMED:
            return text, None
        digested = foreign(text)
        found: str | None = None
        for digest in self._peppers.every_digest(digested):
            found = found or self.store.find(digest)
        return digested, None if found is None else self.store.get(found)

    def _lacking(self, presented: Token | Unparsed, record: KeyRecord | None) -> bool:
        """Whether a secret that this might be has no digest under a pepper held."""
        if self._proofs is None or presented is Unparsed.MALFORMED:
            return False
        if presented is Unparsed.FOREIGN:
            return self.store.unfindable(self._peppers)
        return record is not None and any(
            not secret.foreign and not self._peppers.holds_any(secret.digests) for secret in record.secrets
        )

    def _undecided(self, presented: Token | Unparsed, text: str, record: KeyRecord | None) -> bool:
        """Whether nobody but the key service can tell that this token is no one's."""
        if not self._lacking(presented, record) or (record is not None and record.unreadable):
            return False
        return self._proofs is not None and not self._proofs.refuted(text)

    def _notice(self, text: str, record: KeyRecord, secret: SecretRecord | None, now: int) -> None:
        """What a good use leads to besides: the secret before it ends, the key moves to the active pepper."""
        if secret is None:
            return
        if secret.on_first_use and self.uses is not None and _retires(record, secret, now):
            self.uses.first_use(record.key_id, secret.version, now=now)
        pepper = self.follower.pepper
        if self._proofs is not None and pepper not in secret.digests and self._peppers.holds_any((pepper,)):
            self._proofs.later(text, (record.key_id, secret.version))

    async def reached(self, position: int, epoch: str | None = None) -> None:
        """Wait up to a second for a position; refuses with `position_not_reached`."""
        if not await self.follower.reached(position, epoch):
            raise unavailable("position_not_reached", "The asked position is not applied here yet.")

    def _fresh(self, max_staleness: float | None) -> float:
        """The age of the state in seconds, or the refusal of one that is too old."""
        age = self.follower.age()
        most = self.max_staleness if max_staleness is None else min(max_staleness, self.max_staleness)
        if age <= most:
            return age
        if self.store.epoch is None:
            raise unavailable("unavailable", "The keys are not loaded yet.")
        raise unavailable("stale", "What is known here is older than what was asked for.")


def _retires(record: KeyRecord, secret: SecretRecord, now: int) -> bool:
    """Whether this is the newest secret, and the one before it still good."""
    if len(record.secrets) < 2 or record.secrets[0].version != secret.version:
        return False
    until = record.secrets[1].valid_until
    return until is None or until > now


def needs_of(
    *, scopes: Sequence[str] = (), environments: Sequence[str] = (), ip: str | None = None, cost: int = 1
) -> Needs:
    """The needs, or the `invalid_request` that names what is not well formed."""
    for scope in scopes:
        if SCOPE.fullmatch(scope) is None:
            raise invalid_request("A scope is * or [a-z0-9][a-z0-9:._-]{0,63}.", field="scopes")
    for environment in environments:
        if environment not in ENVIRONMENTS:
            raise invalid_request("An environment is live or test.", field="environment")
    if isinstance(cost, bool) or cost < 0:
        raise invalid_request("A cost is a whole number, not negative.", field="cost")
    try:
        address = None if ip is None else parse_address(ip)
    except ValueError:
        raise invalid_request("Not an IP address.", field="ip") from None
    return Needs(tuple(scopes), tuple(environments), address, cost)
