"""`POST /v1/verify` and its batch: a body in, verdicts out.

The structs here are the contract: they decode the bodies, encode the answers and stand in the OpenAPI
document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from keyledger.clock import rfc3339, stopwatch
from keyledger.errors import Refusal, invalid_request
from keyledger.server.bodies import decode_json
from keyledger.verification.judge import Judge, needs_of
from keyledger.verification.limits import LimitState, beyond
from keyledger.verification.proving import Unproven
from keyledger.verification.verdict import (
    DISABLED,
    EXPIRED,
    MALFORMED,
    NOT_FOUND,
    RATE_LIMITED,
    REVOKED,
    SCOPE,
    VALID,
    Needs,
    Ungranted,
    Verdict,
    demands,
)
from services.verifier.handlers.tally import Tally

MAX_BATCH = 1000
BATCH_PATIENCE = 0.3
"""Seconds for which all of a batch together waits for grants."""
SLICE = 100
"""Verdicts of a batch that are given before anything else has its turn: a millisecond or so."""
T = TypeVar("T")
EVEN = 20e-6
"""Seconds: most checks take less. A stranger cannot tell by the clock what the answer does not say."""
_ALIKE = frozenset({MALFORMED, NOT_FOUND, REVOKED, DISABLED, EXPIRED})

Scope = Annotated[str, Meta(extra_json_schema={"pattern": rf"^(?:{SCOPE.pattern})$"})]
Environment = Annotated[str, Meta(extra_json_schema={"enum": ["live", "test"]})]
Natural = Annotated[int, Meta(ge=0)]


class Waits(Exception):
    """It cannot be answered without waiting; nothing was spent."""


class VerifyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A presented token, and what is asked of it. `max_staleness` is in seconds."""

    key: Annotated[str, Meta(description="The token, exactly as it was presented.")]
    scopes: tuple[Scope, ...] = ()
    environment: Environment | UnsetType = UNSET
    ip: Annotated[str, Meta(description="The client's address.")] | UnsetType = UNSET
    cost: Annotated[int, Meta(ge=0, description="Units of the limits; 0 looks and spends nothing.")] = 1
    min_position: Natural | UnsetType = UNSET
    epoch: str | UnsetType = UNSET
    max_staleness: Annotated[float, Meta(ge=0, description="Seconds.")] | UnsetType = UNSET

    def __repr__(self) -> str:
        return "VerifyRequest(***)"


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Up to 1000 requests, answered in their order."""

    requests: Annotated[tuple[VerifyRequest, ...], Meta(max_length=MAX_BATCH)]


class RateLimitBody(Struct, frozen=True):
    """The tightest limit; `reset` is in unix seconds."""

    limit: int
    remaining: int
    reset: int


class VerdictBody(Struct, frozen=True):
    """The verdict. `key_id` and what follows it appear only when the secret is proven.

    `position` is the state of the log it was judged at, `age_ms` how old that may be. New codes may come.
    """

    valid: bool
    code: str
    position: int
    age_ms: int
    key_id: str | UnsetType = UNSET
    workspace_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    environment: Environment | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    expires_at: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    rate_limit: RateLimitBody | UnsetType = UNSET


class BatchBody(Struct, frozen=True):
    """The verdicts, in the order of the requests."""

    verdicts: list[VerdictBody]


_decode = msgspec.json.Decoder(VerifyRequest).decode
_encode = msgspec.json.Encoder().encode
_NOTHING: dict[str, str] = {}
_time = lru_cache(maxsize=4096)(rfc3339)


class Checks:
    """Judges and counts. Every method refuses with `stale` or `unavailable` when nothing can be said."""

    def __init__(self, verifier: Judge, tally: Tally) -> None:
        self.verifier = verifier
        self._tally = tally

    def judge(
        self, token: str, needs: Needs, *, max_staleness: float | None = None, patient: bool = False
    ) -> Verdict:
        """One verdict, counted and timed. What is answered alike takes alike long: `EVEN` seconds.

        To who is `patient` it raises `Ungranted` where only a grant is missing.
        """
        began = stopwatch()
        verdict = self.verifier.judge(token, needs, max_staleness=max_staleness, patient=patient)
        self._tally.count(verdict.code, stopwatch() - began)
        if verdict.code in _ALIKE:
            while stopwatch() - began < EVEN:
                pass
        return verdict

    def _counted(
        self, token: str, needs: Needs, max_staleness: float | None, *, patient: bool = False
    ) -> Verdict:
        began = stopwatch()
        verdict = self.verifier.judge(token, needs, max_staleness=max_staleness, patient=patient)
        self._tally.count(verdict.code, stopwatch() - began)
        return verdict

    def verify_now(self, body: bytes, content_type: str | None) -> bytes:
        """As `verify`, for whoever cannot wait: raises `Waits` where `verify` would."""
        request = _asked(body, content_type)
        needs = _needs(request)
        if (request.min_position is not UNSET or request.epoch is not UNSET) and not self._has(request):
            raise Waits
        try:
            verdict = self.judge(request.key, needs, max_staleness=_staleness(request), patient=True)
        except (Unproven, Ungranted):
            raise Waits from None
        return _encode(_told(verdict))

    async def verify(self, body: bytes, content_type: str | None) -> bytes:
        """Answer one request; refuses what the contract answers with 400, 415 and 503."""
        request = _asked(body, content_type)
        needs = _needs(request)
        if request.min_position is not UNSET or request.epoch is not UNSET:
            await self._reached(request)
        staleness = _staleness(request)
        verdict = await self.verifier.settled(
            lambda patient: self.judge(request.key, needs, max_staleness=staleness, patient=patient)
        )
        return _encode(_told(verdict))

    async def batch(self, body: bytes, content_type: str | None) -> bytes:
        """Answer all requests or none: nothing is spent before every one of them is known to be in order.

        They are judged a slice at a time, so that others have their turn; each verdict tells its position.
        """
        batch = decode_json(body, BatchRequest, content_type=content_type)
        asked = [(request, self._in_batch(at, request)) for at, request in enumerate(batch.requests)]
        for request in _most_demanding(batch.requests):
            await self._reached(request)
        await self.verifier.decidable([request.key for request in batch.requests])
        async for at, (request, needs) in _in_slices(asked):
            if needs.cost > 1 or request.max_staleness is not UNSET:
                self._affordable(at, request, needs)
        verdicts: list[VerdictBody] = []
        patience = BATCH_PATIENCE
        async for _, (request, needs) in _in_slices(asked):
            try:
                verdict = self._in_turn(request, needs, patient=patience > 0)
            except Ungranted:
                began = stopwatch()
                verdict = await self._settled(request, needs, patience)
                patience -= stopwatch() - began
            verdicts.append(_told(verdict))
        return _encode(BatchBody(verdicts))

    async def _settled(self, request: VerifyRequest, needs: Needs, patience: float) -> Verdict:
        return await self.verifier.settled(
            lambda patient: self._in_turn(request, needs, patient=patient), most=patience
        )

    def _in_turn(self, request: VerifyRequest, needs: Needs, *, patient: bool) -> Verdict:
        """The verdict on one of a batch, of which a cost that was affordable a moment ago is no defect."""
        # a thousand refusals that are held back would hold up everybody else
        try:
            return self._counted(request.key, needs, _staleness(request), patient=patient)
        except Refusal as refusal:
            if refusal.code != "cost_exceeds_limit":
                raise
        # the limit was lowered while others of the batch were judged
        looked = self._counted(request.key, msgspec.structs.replace(needs, cost=0), _staleness(request))
        return msgspec.structs.replace(looked, code=RATE_LIMITED)

    def _has(self, request: VerifyRequest) -> bool:
        """Whether what the request asks to be applied is applied."""
        store = self.verifier.store
        if request.epoch is not UNSET and (store.epoch is None or store.epoch.text != request.epoch):
            return False
        return _position(request) <= store.position

    async def _reached(self, request: VerifyRequest) -> None:
        await self.verifier.reached(_position(request), None if request.epoch is UNSET else request.epoch)

    def _affordable(self, at: int, request: VerifyRequest, needs: Needs) -> None:
        """Refuse a cost beyond any limit, and what is too old for it, before another request of the batch has
        spent anything.
        """
        free = msgspec.structs.replace(needs, cost=0)
        looked = self.verifier.judge(request.key, free, max_staleness=_staleness(request))
        workspace = None if looked.key is None else self.verifier.store.workspace(looked.key.workspace_id)
        if not looked.valid or looked.key is None or workspace is None:
            return
        for demand in demands(looked.key, workspace):
            if needs.cost > demand.limit:
                wrong = beyond(demand)
                raise Refusal(wrong.code, f"Request {at}: {wrong.message}", field=f"requests.{wrong.field}")

    def _in_batch(self, at: int, request: VerifyRequest) -> Needs:
        try:
            return _needs(request)
        except Refusal as wrong:
            raise invalid_request(f"Request {at}: {wrong.message}", field=f"requests.{wrong.field}") from None


async def _in_slices(items: Sequence[T]) -> AsyncGenerator[tuple[int, T]]:
    """The items with their numbers; lets the event loop go on now and then."""
    for at, item in enumerate(items):
        if at and at % SLICE == 0:
            await asyncio.sleep(0)
        yield at, item


def _asked(body: bytes, content_type: str | None) -> VerifyRequest:
    """The request in the body; the usual case first, and whatever is wrong is told by `decode_json`."""
    if content_type == "application/json":
        try:
            # it is not followed into a depth that it does not know
            return _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
    return decode_json(body, VerifyRequest, content_type=content_type)


def _needs(request: VerifyRequest) -> Needs:
    return needs_of(
        request.scopes,
        () if request.environment is UNSET else (request.environment,),
        None if request.ip is UNSET else request.ip,
        request.cost,
    )


def _staleness(request: VerifyRequest) -> float | None:
    return None if request.max_staleness is UNSET else request.max_staleness


def _most_demanding(requests: tuple[VerifyRequest, ...]) -> list[VerifyRequest]:
    """For each epoch that is named, the request that asks for the highest position."""
    most: dict[str, VerifyRequest] = {}
    for request in requests:
        if request.min_position is UNSET and request.epoch is UNSET:
            continue
        epoch = "" if request.epoch is UNSET else request.epoch
        if epoch not in most or _position(request) > _position(most[epoch]):
            most[epoch] = request
    return list(most.values())


def _position(request: VerifyRequest) -> int:
    return 0 if request.min_position is UNSET else request.min_position


def _told(verdict: Verdict) -> VerdictBody:
    key = verdict.key
    if key is None:
        return VerdictBody(False, verdict.code, verdict.position, verdict.age_ms)
    return VerdictBody(
        verdict.code == VALID,
        verdict.code,
        verdict.position,
        verdict.age_ms,
        key.key_id,
        key.workspace_id,
        key.name,
        key.environment,
        key.scopes,
        None if key.expires_at is None else _time(key.expires_at),
        dict(key.metadata) if key.metadata else _NOTHING,
        _limit(verdict.limit),
    )


def _limit(limit: LimitState | None) -> RateLimitBody | UnsetType:
    return UNSET if limit is None else RateLimitBody(limit.limit, limit.remaining, limit.reset)
