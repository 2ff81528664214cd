"""The async client: workspaces, members, keys and their usage, and a verifier's answer.

    async with KeyledgerClient("http://localhost:8401", api_key) as keyledger:
        created = await keyledger.keys.create(workspace_id, name="billing", environment="live")

Every call has a timeout and raises `KeyledgerError`. POSTs carry an Idempotency-Key and are tried again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import httpx2
from msgspec import UNSET, Struct

from keyledger.client.caller import Caller, KeyledgerError
from keyledger.client.keys import Keys
from keyledger.client.members import Members
from keyledger.client.records import Authorized, Check, LogHead, Verdict
from keyledger.client.usage import Usage
from keyledger.client.workspaces import Workspaces
from keyledger.token import Secret

__all__ = ["Check", "KeyledgerClient", "KeyledgerError", "VerifierClient"]

SECONDS_PER_CHECK = 0.005


class KeyledgerClient:
    """The key service, and the usage service when `usage_url` is given.

    `api_key` is a management key. Without one, calls are made by users: see `acting_for`.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | Secret | None = None,
        *,
        usage_url: str | None = None,
        timeout: float = 5.0,
        attempts: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        credential = None if api_key is None else ("X-API-Key", _secret(api_key))

        def calling(url: str) -> Caller:
            return Caller(url, credential=credential, timeout=timeout, attempts=attempts, transport=transport)

        self._base_url = base_url
        self._call_by([calling(url) for url in (base_url, usage_url) if url is not None])

    def _call_by(self, callers: Sequence[Caller]) -> None:
        self._callers = callers
        self.workspaces = Workspaces(callers[0])
        self.members = Members(callers[0])
        self.keys = Keys(callers[0])
        self.usage = Usage(callers[1] if len(callers) > 1 else None)

    def __repr__(self) -> str:
        return f"<KeyledgerClient {self._base_url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def head(self, *, nonce: str = "") -> LogHead:
        """The end of the log, read after the question arrived; needs `keyledger:feed:read`."""
        return await self._callers[0].call("GET", "/v1/head", LogHead, query={"nonce": nonce or None})

    async def authorize(self, workspace_id: str, scope: str, *, key_id: str | None = None) -> Authorized:
        """Whether this client's own key may do this in the workspace, or with that key of it.

        `KeyledgerError` says why not: `not_found` or `insufficient_permissions`.
        """
        body = {"workspace_id": workspace_id, "scope": scope, "key_id": UNSET if key_id is None else key_id}
        return await self._callers[0].call("POST", "/v1/authorize", Authorized, body=body, idempotent=True)

    def acting_for(self, session_token: str | Secret) -> KeyledgerClient:
        """A client that calls as the user of this session token, on the connections of this one.

        It need not be closed; closing this one closes both.
        """
        user = copy.copy(self)
        credential = ("Authorization", Secret(f"Bearer {_secret(session_token).reveal()}"))
        user._call_by([caller.using(credential) for caller in self._callers])
        return user

    async def end_session(self) -> str:
        """End the session of the user that this client acts for, everywhere and at once; its id."""
        answer = await self._callers[0].call("POST", "/v1/session/end", _Ended, body={}, idempotent=True)
        return answer.session

    async def close(self) -> None:
        """Close every connection."""
        for caller in self._callers:
            await caller.close()


class _Ended(Struct):
    session: str


class _Verdicts(Struct):
    verdicts: list[Verdict]


class VerifierClient:
    """A verifier; `token` is its X-Verifier-Token, needed beyond loopback."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | Secret | None = None,
        timeout: float = 1.0,
        attempts: int = 2,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        credential = None if token is None else ("X-Verifier-Token", _secret(token))
        self._caller = Caller(
            base_url, credential=credential, timeout=timeout, attempts=attempts, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def verify(
        self,
        key: str | Secret,
        *,
        scopes: Sequence[str] = (),
        environment: str | None = None,
        ip: str | None = None,
        cost: int = 1,
        min_position: int | None = None,
        epoch: str | None = None,
        max_staleness: float | None = None,
    ) -> Verdict:
        """Whether this token may do this, now. Spends `cost`, so an attempt that was sent is not repeated."""
        check = Check(
            key=key,
            scopes=tuple(scopes),
            environment=environment,
            ip=ip,
            cost=cost,
            min_position=min_position,
            epoch=epoch,
            max_staleness=max_staleness,
        )
        return await self._caller.call("POST", "/v1/verify", Verdict, body=check)

    async def verify_many(self, checks: Sequence[Check]) -> list[Verdict]:
        """A verdict on each of at most 1,000, in their order: all of them, or none. Spends as `verify` does.

        A token that only the key service can tell takes some milliseconds more.
        """
        answer = await self._caller.call(
            "POST",
            "/v1/verify/batch",
            _Verdicts,
            body={"requests": tuple(checks)},
            extra_time=SECONDS_PER_CHECK * len(checks),
        )
        return answer.verdicts

    async def close(self) -> None:
        """Close every connection."""
        await self._caller.close()


def _secret(text: str | Secret) -> Secret:
    return text if isinstance(text, Secret) else Secret(text)
