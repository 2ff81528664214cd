"""`GET /v1/explain`: the decision about a key step by step, and the event behind a refusal, for operators.

Now is judged by what this verifier holds, a moment that is past by the key service's record of it.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from keyledger.clock import Clock, parse_rfc3339, rfc3339
from keyledger.errors import invalid_request, missing_api_key, not_found, unavailable
from keyledger.token import is_id
from keyledger.verification.explanation import Case, Explanation, Outcome, chosen, explain
from keyledger.verification.judge import Judge, needs_of
from keyledger.verification.projection import KeyRecord
from keyledger.verification.verdict import VALID, Needs
from services.verifier.domain.history import Happened, History, cause, secrets_of, unreadable, workspace_of
from services.verifier.ports import Credential, KeyService, PastKey

_SEPARATORS = re.compile(r"[ ,]+")


class ExplainQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A key, what is asked of it, and when. The key's newest secret counts as proven."""

    key_id: Annotated[str, Meta(description="The key's public id.")]
    scopes: Annotated[str, Meta(description="Required scopes, separated by spaces or commas.")] = ""
    environment: Annotated[str | None, Meta(description="The required environment: live or test.")] = None
    ip: Annotated[str | None, Meta(description="The client's address.")] = None
    cost: Annotated[int, Meta(ge=0, le=2**53, description="Units of the limits; nothing is spent.")] = 1
    as_of: Annotated[str | None, Meta(description="A position of the log, or an RFC 3339 time.")] = None
    secret: Annotated[int, Meta(ge=1, description="The version of another of its secrets.")] | None = None


class StepBody(Struct, frozen=True):
    """One check: the code that it refuses with, how it went, and what it looked at."""

    check: str
    outcome: Outcome
    code: str
    detail: str


class CodeBody(Struct, frozen=True):
    """The verdict."""

    code: str
    valid: bool


class CauseBody(Struct, frozen=True):
    """The event that made the refusing check refuse."""

    position: int
    type: str
    at: str
    actor: str
    request_id: str


class ExplanationBody(Struct, frozen=True):
    """The decision. `position` is the state of the log it was judged at; `as_of` the moment, if it is past.

    `cause` is null for a key that is let in, and where no single event is behind a refusal.
    """

    key_id: str
    workspace_id: str
    verdict: CodeBody
    position: int
    as_of: str | None
    steps: tuple[StepBody, ...]
    cause: CauseBody | None


class Explain:
    """Explains to operators. Without a key service nobody can tell who is one."""

    def __init__(self, judge: Judge, keys: KeyService | None, clock: Clock) -> None:
        self._judge = judge
        self._keys = keys
        self._now = clock.now

    async def admit(self, credential: Credential) -> None:
        """Refuse whoever has no key of scope `keyledger:admin`."""
        if not credential.headers:
            raise missing_api_key()
        await self._service.admit(credential)

    async def explain(self, credential: Credential, query: ExplainQuery) -> ExplanationBody:
        """The explanation; refuses with what the contract answers with 400, 404 and 503."""
        if not is_id(query.key_id, "key"):
            raise invalid_request("A key's id is key_ and 22 base62 characters.", field="key_id")
        environments = () if query.environment is None else (query.environment,)
        scopes = [scope for scope in _SEPARATORS.split(query.scopes) if scope]
        needs = needs_of(scopes=scopes, environments=environments, ip=query.ip, cost=query.cost)
        if query.as_of is None:
            return await self._now_explained(credential, query, needs)
        return await self._then_explained(credential, query, needs, query.as_of)

    async def _now_explained(
        self, credential: Credential, query: ExplainQuery, needs: Needs
    ) -> ExplanationBody:
        store = self._judge.store
        explained = self._judge.explain(query.key_id, needs, secret=query.secret)
        record, position = store.get(query.key_id), store.position
        if explained is None or record is None:
            raise not_found()
        key: History = ()
        workspace: History = ()
        if explained.code != VALID:
            key = await self._service.events(credential, record.workspace_id, record.key_id, until=position)
            workspace = await self._service.events(
                credential, record.workspace_id, record.workspace_id, until=position
            )
        version = chosen(record.secrets, query.secret).version
        return _body(record, explained, position=position, secret=version, key=key, workspace=workspace)

    async def _then_explained(
        self, credential: Credential, query: ExplainQuery, needs: Needs, as_of: str
    ) -> ExplanationBody:
        known = self._judge.store.get(query.key_id)
        if known is None:
            raise not_found()
        ws = known.workspace_id
        past, position = await self._service.key_as_of(credential, ws, query.key_id, as_of)
        key = await self._service.events(credential, ws, query.key_id, until=position)
        workspace = await self._service.events(credential, ws, ws, until=position)
        record, owner = unreadable(_record(past, key), key), workspace_of(ws, workspace)
        if owner is None:
            raise not_found()
        moment = await self._moment(credential, as_of, position)
        secret = chosen(record.secrets, query.secret)
        explained = explain(Case(record, secret, owner, needs, moment), None)
        return _body(
            record,
            explained,
            position=position,
            secret=secret.version,
            key=key,
            workspace=workspace,
            moment=moment,
        )

    async def _moment(self, credential: Credential, as_of: str, position: int) -> int:
        try:
            return parse_rfc3339(as_of)
        except ValueError:
            return await self._service.moment_of(credential, position)

    @property
    def _service(self) -> KeyService:
        if self._keys is None:
            raise unavailable("unavailable", "This verifier has no key service to ask.")
        return self._keys


def _record(past: PastKey, key: History) -> KeyRecord:
    return KeyRecord(
        past.id,
        past.workspace_id,
        past.environment,
        "",
        past.scopes,
        secrets_of(key),
        expires_at=past.expires_at,
        allowed_ips=past.allowed_ips,
        rate_limit=past.rate_limit,
        enabled=past.enabled,
        revoked=past.status == "revoked",
        version=past.version,
    )


def _body(
    record: KeyRecord,
    explained: Explanation,
    *,
    position: int,
    secret: int,
    key: History,
    workspace: History,
    moment: int | None = None,
) -> ExplanationBody:
    policy = None if explained.limit is None else explained.limit.policy
    check = explained.refused_by
    behind = None if check is None else cause(check, policy, secret, key, workspace)
    return ExplanationBody(
        record.key_id,
        record.workspace_id,
        CodeBody(explained.code, explained.code == VALID),
        position,
        None if moment is None else rfc3339(moment),
        tuple(StepBody(step.check, step.outcome, step.code, step.detail) for step in explained.steps),
        None if behind is None else _cause(behind),
    )


def _cause(event: Happened) -> CauseBody:
    return CauseBody(event.position, event.type, rfc3339(event.at), event.actor, event.request_id)
