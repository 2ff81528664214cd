"""`POST /v1/verify` and its batch: a body in, verdicts out.

The structs here are the contract: they decode the bodies, encode the answers and stand in the OpenAPI
document.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from keyledger.clock import Clock, rfc3339
from keyledger.errors import Refusal, invalid_request
from keyledger.server.bodies import decode_json
from keyledger.verification.limits import LimitState
from keyledger.verification.proving import Unproven
from keyledger.verification.verdict import VALID, Needs, Verdict
from keyledger.verification.verifier import Verifier, needs_of
from services.verifier.handlers.tally import Tally

MAX_BATCH = 1000

# `$(?!\n)`: Python's `$` alone would let a trailing newline in
Scope = Annotated[str, Meta(pattern=r"^(?:\*|[a-z0-9][a-z0-9:._-]{0,63})$(?!\n)")]
Environment = Annotated[str, Meta(extra_json_schema={"enum": ["live", "test"]})]
Natural = Annotated[int, Meta(ge=0)]


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


class Checks:
    """Judges and counts. Every method refuses with `stale` or `unavailable` when nothing can be said."""

    def __init__(self, verifier: Verifier, clock: Clock, tally: Tally) -> None:
        self.verifier = verifier
        self._steady = clock.steady
        self._tally = tally

    def judge(self, token: str, needs: Needs, *, max_staleness: float | None = None) -> Verdict:
        """One verdict, counted and timed."""
        began = self._steady()
        verdict = self.verifier.judge(token, needs, max_staleness=max_staleness)
        self._tally.count(verdict.code, self._steady() - began)
        return verdict

    async def verify(self, body: bytes, content_type: str | None) -> bytes:
        """Answer one request; refuses what the contract answers with 400, 415 and 503."""
        request = decode_json(body, VerifyRequest, content_type=content_type)
        needs = _needs(request)
        if request.min_position is not UNSET or request.epoch is not UNSET:
            await self._reached(request)
        try:
            verdict = self._judged(request, needs)
        except Unproven as unproven:
            await self.verifier.prove(unproven)
            verdict = self._judged(request, needs)
        return msgspec.json.encode(_told(verdict))

    async def batch(self, body: bytes, content_type: str | None) -> bytes:
        """Answer all requests or none: nothing is spent before every one of them is known to be in order."""
        batch = decode_json(body, BatchRequest, content_type=content_type)
        asked = [(request, self._in_batch(at, request)) for at, request in enumerate(batch.requests)]
        for request in _most_demanding(batch.requests):
            await self._reached(request)
        await self.verifier.decidable([request.key for request in batch.requests])
        for at, (request, needs) in enumerate(asked):
            if needs.cost > 1:
                self._affordable(at, request, needs)
        return msgspec.json.encode(BatchBody([_told(self._judged(*each)) for each in asked]))

    def _judged(self, request: VerifyRequest, needs: Needs) -> Verdict:
        staleness = None if request.max_staleness is UNSET else request.max_staleness
        return self.judge(request.key, needs, max_staleness=staleness)

    async def _reached(self, request: VerifyRequest) -> None:
        position = 0 if request.min_position is UNSET else request.min_position
        await self.verifier.reached(position, None if request.epoch is UNSET else request.epoch)

    def _affordable(self, at: int, request: VerifyRequest, needs: Needs) -> None:
        """Refuse a cost beyond the limit before another request of the batch has spent anything."""
        looked = self.verifier.judge(request.key, msgspec.structs.replace(needs, cost=0))
        if looked.valid and looked.limit is not None and needs.cost > looked.limit.limit:
            raise Refusal(
                "cost_exceeds_limit", f"Request {at} costs more than a limit allows.", field="requests.cost"
            )

    def _in_batch(self, at: int, request: VerifyRequest) -> Needs:
        try:
            return _needs(request)
        except Refusal as wrong:
            raise invalid_request(f"Request {at}: {wrong.message}", field=f"requests.{wrong.field}") from None


def _needs(request: VerifyRequest) -> Needs:
    # the scopes were checked by the decoder
    if request.environment is UNSET and request.ip is UNSET:
        return Needs(request.scopes, (), None, request.cost)
    return needs_of(
        scopes=request.scopes,
        environments=() if request.environment is UNSET else (request.environment,),
        ip=None if request.ip is UNSET else request.ip,
        cost=request.cost,
    )


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
        None if key.expires_at is None else rfc3339(key.expires_at),
        dict(key.metadata),
        _limit(verdict.limit),
    )


def _limit(limit: LimitState | None) -> RateLimitBody | UnsetType:
    return UNSET if limit is None else RateLimitBody(limit.limit, limit.remaining, limit.reset)
