"""May the holder of this token do this, now? The judge that the service and the library stand on.

Answers from memory, without an await, and only while what it knows is provably fresh enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Final, Self, TypeVar

from keyledger.clock import Clock
from keyledger.digest import Peppers, foreign
from keyledger.errors import Refusal, invalid_request, unavailable
from keyledger.token import DEFAULT_PREFIX, ENVIRONMENTS, Format, Token, Unparsed
from keyledger.verification.explanation import Case, Explanation, chosen, explain
from keyledger.verification.freshness import NEVER
from keyledger.verification.limits import Limits
from keyledger.verification.ports import Following
from keyledger.verification.projection import KeyRecord, SecretRecord
from keyledger.verification.proving import Proofs, Prover, Unproven
from keyledger.verification.store import Records
from keyledger.verification.uses import Uses
from keyledger.verification.verdict import (
    MALFORMED,
    NOT_FOUND,
    SCOPE,
    VALID,
    Needs,
    Ungranted,
    Verdict,
    judge,
    parse_address,
)

MAX_STALENESS = 300.0
"""Seconds that the state may be old unless the request asks for less."""
STATES = ("starting", "ready", "degraded", "held", "stale")
"""`held`: nothing can be committed, so it goes on for a bounded time; `degraded`: no live events arrive."""
READY_WITHIN = 30.0
READY_LOOK = 0.01
"""Seconds between two looks of whoever waits for the keys to be loaded."""
JOIN_WITHIN = 1.0
"""Seconds that the first tokens of the limits are waited for; without a granter there are none."""
KEPT_NEEDS = 4096
KEPT_SCOPES = 16
"""Needs with more scopes are not remembered."""
T = TypeVar("T")
# an enumeration's own attribute costs as much as a look-up
_MALFORMED: Final = Unparsed.MALFORMED
_NOT_YET = ("starting", "stale")
_LOOK = Needs(cost=0)


class Judge:
    """Composes the store, what keeps it fresh, the limits and the report of uses.

    `async with verifier:` starts and stops following and reporting; `check` may be called in between.
    """

    def __init__(
        self,
        store: Records,
        follower: Following,
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
        self.limits = limits
        self.max_staleness = max_staleness
        self._format = Format(prefixes)
        self._peppers = peppers
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
        await self.limits.start()
        if self._proofs is not None:
            await self._proofs.start()
        await self.follower.start()

    async def stop(self) -> None:
        """Stop following, then get the last uses out, within a few seconds."""
        if self._proofs is not None:
            await self._proofs.stop()
        await self.follower.stop()
        await self.follower.leave()
        await self.limits.stop()
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

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The token prefixes that are ours."""
        return self._format.prefixes

    async def ready(self, timeout: float = READY_WITHIN) -> None:
        """Wait up to `timeout` seconds until verdicts can be given; then refuses as `check` would.

        For the first tokens of the limits it waits for a second at most.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.state in _NOT_YET:  # noqa: ASYNC110 (time changes it too, and tells nobody)
                    await asyncio.sleep(READY_LOOK)
        if self.follower.age() > self.max_staleness:
            raise self._stale()
        await self.limits.ready(JOIN_WITHIN)

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
        """The verdict on `token`, whose use is reported unless `cost` is 0. Never waits.

        It spends what is held of the limits: once the verifier is ready, a part of every cell up to a minute
        from its beginning. When that is spent before more has come, and at the first check of a longer
        cell or a quota, it says that the limit is reached; `verify` waits the moment until more is there.

        Refuses with `invalid_request` for needs that no key could be asked for, `cost_exceeds_limit`, and
        `stale` or `unavailable` when nothing can be said now. `Unproven`, which is `busy`, asks for `verify`
        or `prove` first. `max_staleness` is in seconds, and never beyond the judge's own.
        """
        environments = () if environment is None else (environment,)
        needs = needs_of(scopes, environments, ip, cost)
        return self.judge(token, needs, max_staleness=max_staleness)

    async def verify(
        self,
        token: str,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        ip: str | None = None,
        cost: int = 1,
        max_staleness: float | None = None,
        min_position: int | None = None,
        epoch: str | None = None,
    ) -> Verdict:
        """As `check`, and as `POST /v1/verify`: waits for `min_position` of `epoch`, for a second at most,
        for a grant as long as it is worth, and has a secret proven that only the key service can
        tell.

        Refuses besides with `position_not_reached`, and with `busy` when nobody proves it in time.
        """
        environments = () if environment is None else (environment,)
        needs = needs_of(scopes, environments, ip, cost)
        if min_position is not None or epoch is not None:
            await self.reached(min_position or 0, epoch)
        return await self.settled(
            lambda patient: self.judge(token, needs, max_staleness=max_staleness, patient=patient)
        )

    async def settled(self, decide: Callable[[bool], T], *, most: float = math.inf) -> T:
        """What `decide` answers in the end: called with whether it may raise `Ungranted`, again after each
        wait, and once more when the key service has told about a token. Waits at most `most` seconds for
        grants, and never longer than they are worth.
        """
        now = asyncio.get_running_loop().time
        proven, patient = False, most > 0
        began: float | None = None
        while True:
            try:
                return decide(patient)
            except Unproven as unproven:
                if proven:
                    raise
                await self.prove(unproven)
                proven = True
            except Ungranted as missing:
                began = now() if began is None else began
                left = began + min(most, missing.patience) - now()
                await self.limits.granted(missing.demands, missing.cost, max(0.0, left))
                patient = now() < began + min(most, missing.patience)

    def judge(
        self, text: str, needs: Needs, *, max_staleness: float | None = None, patient: bool = False
    ) -> Verdict:
        """As `check`, for needs that are known to be well formed; to the patient it raises `Ungranted`."""
        age, store = self.follower.age(), self.store
        if age > self.max_staleness or (max_staleness is not None and not age <= max_staleness):
            raise self._stale()
        presented = self._format.parse(text)
        if presented is _MALFORMED:
            return Verdict(MALFORMED, None, None, store.position, int(age * 1000))
        shown: str | bytes = text
        if isinstance(presented, Token):
            record = store.get(presented.key_id)
        else:
            shown, record = self._imported(text)
            if record is None:
                # it is found by its digest or not at all: there is no secret to compare
                if self._undecided(presented, text, None):
                    raise Unproven(text)
                return Verdict(NOT_FOUND, None, None, store.position, int(age * 1000))
        workspace = None if record is None else store.workspace(record.workspace_id)
        now = self._now()
        verdict = judge(
            shown,
            record,
            workspace,
            needs,
            self._peppers,
            self.limits,
            now,
            store.position,
            int(age * 1000),
            patient,
        )
        if verdict.code == NOT_FOUND and self._undecided(presented, text, record):
            raise Unproven(text)
        if record is not None and needs.cost:
            self._report(text, record, verdict, needs.cost, now)
        return verdict

    def explain(self, key_id: str, needs: Needs, *, secret: int | None = None) -> Explanation | None:
        """Why the key's holder would be let in or refused now; None for a key that is not known here.

        `secret` is the version of the one to look at, the newest if not named; another than the key has is
        `invalid_request`. Nothing is spent or reported. Refuses else as `check` does.
        """
        if self.follower.age() > self.max_staleness:
            raise self._stale()
        record = self.store.get(key_id)
        workspace = None if record is None else self.store.workspace(record.workspace_id)
        if record is None or workspace is None:
            return None
        return explain(
            Case(record, chosen(record.secrets, secret), workspace, needs, self._now()), self.limits
        )

    def _report(self, text: str, record: KeyRecord, verdict: Verdict, cost: int, now: int) -> None:
        """What a use leads to besides its verdict; that of a wrong secret counts too, and is told nobody."""
        valid, uses = verdict.code == VALID, self.uses
        if uses is not None:
            uses.count(record, verdict.code, cost=cost if valid else 0, now=now)
        if not valid or (secret := verdict.secret) is None:
            return
        if secret.on_first_use and uses is not None and _retires(record, secret, now):
            uses.first_use(record.key_id, secret.version, now=now)
        if self._proofs is None or (pepper := self.follower.pepper) in secret.digests:
            return
        if self._peppers.holds_any((pepper,)):
            # the key moves to the active pepper
            self._proofs.later(text, (record.key_id, secret.version))

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
        presented = self._format.parse(text)
        return presented, self.store.get(presented.key_id) if isinstance(presented, Token) else None

    def _imported(self, text: str) -> tuple[bytes, KeyRecord | None]:
        """What stands for another system's token in digests, and the record of its key, if any."""
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

    async def reached(self, position: int, epoch: str | None = None) -> None:
        """Wait up to a second for a position; refuses with `position_not_reached`."""
        if not await self.follower.reached(position, epoch):
            raise unavailable("position_not_reached", "The asked position is not applied here yet.")

    def _stale(self) -> Refusal:
        if self.store.epoch is None:
            return unavailable("unavailable", "The keys are not loaded yet.")
        return unavailable("stale", "What is known here is older than what was asked for.")


def _retires(record: KeyRecord, secret: SecretRecord, now: int) -> bool:
    """Whether this is the newest secret, and the one before it still good."""
    if len(record.secrets) < 2 or record.secrets[0].version != secret.version:
        return False
    until = record.secrets[1].valid_until
    return until is None or until > now


def needs_of(
    scopes: Sequence[str] = (), environments: Sequence[str] = (), ip: str | None = None, cost: int = 1
) -> Needs:
    """The needs, or the `invalid_request` that names what is not well formed."""
    if isinstance(scopes, str):
        # its letters would pass for scopes
        raise invalid_request("Scopes are a list, not one text.", field="scopes")
    asked = tuple(scopes)
    told = _kept if len(asked) <= KEPT_SCOPES else _well_formed
    needs = told(asked, tuple(environments), cost)
    if ip is None:
        return needs
    try:
        return Needs(needs.scopes, needs.environments, parse_address(ip), cost)
    except ValueError:
        raise invalid_request("Not an IP address.", field="ip") from None


def _well_formed(scopes: tuple[str, ...], environments: tuple[str, ...], cost: int) -> Needs:
    for scope in scopes:
        if SCOPE.fullmatch(scope) is None:
            raise invalid_request("A scope is * or [a-z0-9][a-z0-9:._-]{0,63}.", field="scopes")
    for environment in environments:
        if environment not in ENVIRONMENTS:
            raise invalid_request("An environment is live or test.", field="environment")
    if type(cost) is not int or cost < 0:
        raise invalid_request("A cost is a whole number, not negative.", field="cost")
    return Needs(scopes, environments, None, cost)


# what a caller asks for is written in its code: the same few again and again; True is no 1
_kept = lru_cache(KEPT_NEEDS, typed=True)(_well_formed)
