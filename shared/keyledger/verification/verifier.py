"""The verifier: may the holder of this token do this, now?

Answers from memory, without an await, and only while what it knows is provably fresh enough. It is
operator code: it holds the peppers and every workspace's digests, and is not for customers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from keyledger.clock import Clock
from keyledger.digest import Peppers
from keyledger.errors import invalid_request, unavailable
from keyledger.token import DEFAULT_PREFIX, ENVIRONMENTS, Unparsed, parse
from keyledger.verification.follower import Follower
from keyledger.verification.limits import Limits
from keyledger.verification.projection import KeyRecord
from keyledger.verification.store import Store
from keyledger.verification.uses import Uses
from keyledger.verification.verdict import SCOPE, VALID, Needs, Verdict, judge, parse_address

MAX_STALENESS = 300.0
"""Seconds that the state may be old unless the request asks for less."""


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
    ) -> None:
        """`prefixes`: the token prefix of today and the old ones; `max_staleness` in seconds."""
        self.store = store
        self.follower = follower
        self.uses = uses
        self.prefixes = tuple(prefixes)
        self.max_staleness = max_staleness
        self._peppers = peppers
        self._limits = limits
        self._now: Callable[[], int] = clock.now

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
        await self.follower.start()

    async def stop(self) -> None:
        """Stop following, then get the last uses out, within a few seconds."""
        await self.follower.stop()
        if self.uses is not None:
            await self.uses.stop()

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
        `stale` or `unavailable` when nothing can be said now. `max_staleness` is in seconds.
        """
        environments = () if environment is None else (environment,)
        needs = needs_of(scopes=scopes, environments=environments, ip=ip, cost=cost)
        return self.judge(token, needs, max_staleness=max_staleness)

    def judge(self, text: str, needs: Needs, *, max_staleness: float | None = None) -> Verdict:
        """As `check`, for needs that are known to be well formed."""
        age = self._fresh(max_staleness)
        presented = parse(text, self.prefixes)
        record: KeyRecord | None = None
        workspace = None
        if not isinstance(presented, Unparsed):
            record = self.store.get(presented.key_id)
            if record is not None:
                workspace = self.store.workspace(record.workspace_id)
        now = self._now()
        verdict = judge(
            presented, text, record, workspace, needs, peppers=self._peppers, limits=self._limits, now=now
        )
        if needs.cost and record is not None and self.uses is not None:
            # a wrong secret is counted against the key that was named, and told to nobody
            spent = needs.cost if verdict.code == VALID else 0
            self.uses.count(record, verdict.code, cost=spent, now=now)
        return Verdict(verdict.code, verdict.key, verdict.limit, self.store.position, int(age * 1000))

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
